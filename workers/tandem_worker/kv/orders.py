"""What the connector's scheduler side tells its worker side in a step. Pickled; imports no engine."""

from dataclasses import dataclass, field

from tandem_worker.kv.params import Ticket

Blocks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """Pull `remote_blocks` into `local_blocks`: the same blocks of the request, per group, in order."""

    request_id: str
    ticket: Ticket
    remote_blocks: Blocks
    local_blocks: Blocks
    local_tokens: int
    tokens: int


@dataclass
class StepOrders:
    """Drained into every step, also an empty one."""

    leases: list[tuple[str, Blocks]] = field(default_factory=list)
    loads: list[LoadOrder] = field(default_factory=list)
    releases: list[Ticket] = field(default_factory=list)
    watches: list[tuple[str, Ticket]] = field(default_factory=list)
    unwatches: list[tuple[str, Ticket]] = field(default_factory=list)
    cancels: list[tuple[str, Ticket]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    recomputed_tokens: int = 0

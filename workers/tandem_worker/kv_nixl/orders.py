"""What the two halves of the connector tell one another once per step. Pickled; imports no engine."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoadNote:
    """A load that begins: `tokens` in `blocks` blocks, from the prefill worker at `prefill`."""

    request_id: str
    remote_request_id: str
    prefill: str
    tokens: int
    blocks: int


@dataclass
class StepNotes:
    """From the scheduler to every rank."""

    loads: list[LoadNote] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    recomputed_tokens: int = 0

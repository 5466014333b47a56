"""What placing needs to know of a request, and what is learned on its way."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tandem_router.fleets import Worker
from tandem_router.policy.costs import Want


class Standing(NamedTuple):
    """Who asks, and what was promised. Times in seconds.

    Attributes:
        tenant, priority: for the order of the queue; higher priorities first.
        weight: fair share of the queue beside others of the same priority.
        index_seed: keeps the tenant's prefixes apart in the prefix index.
        ttft_s, tpot_s: targets that the client set; None: those of the fleet.
    """

    tenant: str = ""
    priority: int = 0
    weight: float = 1.0
    index_seed: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(slots=True)
class Errand:
    """One request.

    Attributes:
        want: its size and needs, as the policy sees them.
        prompt_bytes: length of the text of its prompt.
        blocks: hashes of its prompt's blocks.
        whole_reason: why it must not be split, None if it may.
        started_s, deadline_s: of the loop's clock.
        hits: leading blocks that each worker (by bit) holds, as known at `hits_s`.
        target_s: its TTFT target; 0 before `reception.set_times`, which only a request needs that may wait.
        latest_start_s: until then it may wait for a worker that it prefers.
        blocked_on: what it waited for last; see `policy.pairing.Busy`.
        may_leave: it can be served elsewhere, and is not to wait where nobody is left to serve it.
        failures: which start of which worker (by uid) failed this request, and when; grows as it is retried.
    """

    want: Want
    prompt_bytes: int
    blocks: list[int]
    whole_reason: str | None
    standing: Standing
    started_s: float
    deadline_s: float
    hits: dict[int, int] = field(default_factory=dict)
    hits_s: float = float("-inf")
    target_s: float = 0.0
    latest_start_s: float = float("-inf")
    blocked_on: str | None = None
    may_leave: bool = False
    failures: dict[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Length of the prompt, estimated."""
        return self.want.tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the best worker for it holds, by the index; at least one is always computed."""
        if not self.hits:
            return 0
        held = max(self.hits.values())
        return min(self.want.tokens - 1, int(held * self.want.tokens_per_block))

    def hit_share(self, worker: Worker) -> float:
        """Share of the prompt that `worker` holds, by the index."""
        return self.hits.get(worker.bit, 0) / len(self.blocks) if self.blocks else 0.0

    def note_failure(self, worker: Worker, now_s: float) -> None:
        """`worker` failed this request."""
        self.failures[worker.spec.uid] = (worker.instance, now_s)

    def has_failed(self, worker: Worker) -> bool:
        """This start of `worker` failed this request."""
        return worker.spec.uid in self.failures and self.failures[worker.spec.uid][0] == worker.instance

    def is_refused_by(self, worker: Worker) -> bool:
        """`worker` failed this request and was seen alive after it: it is not merely dead."""
        return self.has_failed(worker) and worker.is_seen_since(self.failures[worker.spec.uid][1])

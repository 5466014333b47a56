"""Chooses the (prefill, decode) pair of one request: filter → score → pick (DESIGN §10, first version).

Cost of a prefill worker p, once the rates of all candidates are learned:

    (backlog_p + L − hit_p) / rate_p                                          seconds

and, until then, LMetric's product (OSDI'26), which has no weights to tune:

    (backlog_p + L − hit_p) · (running_p + 1)

Decode worker d: (L − hit_d + STEP_TOKENS) · (running_d + 1) / slots_d: what must be transferred or computed there,
times its batch. L, hits and backlog are tokens; `running` is this router's own count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tandem_router.policy.prefix_index import BLOCK_BYTES

STEP_TOKENS = 256  # weight of a decode slot against tokens to transfer
NEAR_TIE = 1.05
CAP_FACTOR = 1.25  # affinity may load a worker up to this much over the mean…
CAP_SLACK_TOKENS = 4096  # …and this much more, so that small counts are no imbalance
TOKENS_PER_BLOCK = BLOCK_BYTES // 4


class Candidate(Protocol):
    """What the policy sees of a worker.

    Attributes:
        bit: its bit in the prefix index.
        running: requests of this router on it.
        backlog_tokens: their prompt tokens not yet known to be prefilled (prefill), or in its KV cache (decode).
        slots: requests that it runs at once.
        tokens_per_s: learned prefill rate, None while unknown.
    """

    @property
    def bit(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def backlog_tokens(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def tokens_per_s(self) -> float | None: ...


W = TypeVar("W", bound=Candidate)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PairingRules:
    """What operators of a router may set.

    Attributes:
        min_remote_tokens: prefill stays on the decode worker when it holds a prefix of the prompt and no more than
            this many tokens are missing.
    """

    min_remote_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """A decision. `prefill` None: the decode worker does it all, for `reason`."""

    prefill: T | None
    decode: T
    reason: str


def decide_decode(tokens: int, decodes: Sequence[W], hits: Mapping[int, int], draw: float) -> W | None:
    """The decode worker with a free slot and the least cost; None when none has a free slot.

    Args:
        tokens: length of the prompt.
        hits: leading blocks that a worker holds, by its bit.
        draw: a number in [0, 1) that breaks near ties.
    """
    free = with_free_slot(decodes)
    return pick(free, decode_costs(tokens, free, hits), draw) if free else None


def decide_prefill(tokens: int, prefills: Sequence[W], hits: Mapping[int, int], draw: float) -> W | None:
    """The prefill worker with a free slot and the least cost; None when none has a free slot."""
    free = under_affinity_cap(tokens, with_free_slot(prefills))
    return pick(free, prefill_costs(tokens, free, hits), draw) if free else None


def is_local_better(tokens: int, decode: Candidate, hits: Mapping[int, int], rules: PairingRules) -> bool:
    """The decode worker holds nearly all of the prompt already: nothing is worth moving."""
    hit = hits.get(decode.bit, 0)
    return hit > 0 and tokens - hit * TOKENS_PER_BLOCK <= rules.min_remote_tokens


def with_free_slot(workers: Sequence[W]) -> list[W]:
    """Workers that can start a request now."""
    return [one for one in workers if one.running < one.slots]


def under_affinity_cap(tokens: int, workers: list[W]) -> list[W]:
    """Workers whose backlog is not far above the mean; never empty unless `workers` is."""
    if len(workers) < 2:
        return workers
    cap = CAP_FACTOR * sum(one.backlog_tokens for one in workers) / len(workers) + max(CAP_SLACK_TOKENS, 2 * tokens)
    return [one for one in workers if one.backlog_tokens <= cap]


def prefill_costs(tokens: int, workers: Sequence[Candidate], hits: Mapping[int, int]) -> list[float]:
    """Costs, comparable with one another: in seconds if every rate is known, else LMetric's product."""
    work = [one.backlog_tokens + missing_tokens(tokens, one, hits) for one in workers]
    rates = [one.tokens_per_s for one in workers]
    known = [rate for rate in rates if rate]
    if len(known) == len(workers):
        return [amount / rate for amount, rate in zip(work, known, strict=True)]
    return [float(amount * (one.running + 1)) for amount, one in zip(work, workers, strict=True)]


def decode_costs(tokens: int, workers: Sequence[Candidate], hits: Mapping[int, int]) -> list[float]:
    """Costs of decoding, of workers with slots."""
    return [(missing_tokens(tokens, one, hits) + STEP_TOKENS) * (one.running + 1) / one.slots for one in workers]


def missing_tokens(tokens: int, worker: Candidate, hits: Mapping[int, int]) -> int:
    """Prompt tokens that `worker` does not hold; at least 1, which is always computed."""
    missing = tokens - hits.get(worker.bit, 0) * TOKENS_PER_BLOCK if hits else tokens
    return missing if missing > 1 else 1


def pick(workers: Sequence[W], costs: Sequence[float], draw: float) -> W:
    """The cheapest; among near ties the less busy of two chosen by `draw`, so that routers do not herd."""
    if len(workers) == 1:
        return workers[0]
    limit = min(costs) * NEAR_TIE
    near = [one for one, cost in zip(workers, costs, strict=True) if cost <= limit]
    first = int(draw * len(near))
    second = (first + 1 + int(draw * 7919) % max(1, len(near) - 1)) % len(near)
    return min(near[first], near[second], key=lambda one: one.running)

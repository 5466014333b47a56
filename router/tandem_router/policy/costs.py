"""What each worker would cost a request, in seconds once rates are learned, else in the product of LMetric.

    prefill  (own_p + backlog_p · per token + pressure · own_p) / warmth + adapter
             own_p = fixed + (L − hit_p) · per token + (L − hit_p)² · per squared token
    decode   transfer(L − hit_d, p → d) + TPOT_d(batch + 1) + λ · max(0, TPOT_d(batch + 1) − objective) + adapter

L, hits and backlog are tokens. λ is the number of output tokens of a typical answer: each waits that much longer. Until
any worker of a role has been learned, LMetric's product (OSDI '26), which has no weights to tune:

    prefill  (backlog_p + L − hit_p) · (running_p + 1)
    decode   (L − hit_d + STEP_TOKENS) · (running_d + 1) / slots_d
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from tandem_router.policy.learned import Terms, predict_s, typical_terms
from tandem_router.policy.prefix_index import BLOCK_BYTES

STEP_TOKENS = 256  # weight of a decode slot against tokens to transfer
TYPICAL_ANSWER_TOKENS = 128.0  # λ
UNSEEN = 2.0
ADAPTER_LOAD_S = 0.25  # a LoRA adapter that is not on the worker
ADAPTER_LOAD_TOKENS = 1024  # the same, while nothing is learned


class Fit(Protocol):
    """Learned seconds; see `policy.learned`."""

    @property
    def terms(self) -> Terms | None: ...


class Fits(Protocol):
    """What was learned of one worker: prefill by (tokens, tokens²), decode by (batch, KV tokens), transfer by tokens.

    `near` is of KV that comes from its own topology, `far` from others.
    """

    @property
    def prefill(self) -> Fit: ...
    @property
    def decode(self) -> Fit: ...
    @property
    def near(self) -> Fit: ...
    @property
    def far(self) -> Fit: ...


class Candidate(Protocol):
    """What the policy sees of a worker. `running` and `backlog_tokens` are over all routers, as far as is known.

    Attributes:
        bit: its bit in the prefix index.
        running: requests on it.
        backlog_tokens: their prompt tokens not yet known to be prefilled (prefill), or in its KV cache (decode).
        slots: requests that it runs at once.
        has_slot: this router may start another request there.
        topology: domain within which KV moves fast; empty: unknown.
        warmth: 1; less for a worker that has just come and is still cold.
        trust: how far the prefix index is right about it, 0 to 1.
        fits: what was learned of it.
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
    def has_slot(self) -> bool: ...
    @property
    def topology(self) -> str: ...
    @property
    def warmth(self) -> float: ...
    @property
    def trust(self) -> float: ...
    @property
    def fits(self) -> Fits: ...
    def has_adapter(self, name: str) -> bool:
        """The LoRA adapter was used there of late."""


W = TypeVar("W", bound=Candidate)


class Want(NamedTuple):
    """A request, as the policy sees it.

    Attributes:
        tokens: length of the prompt, estimated.
        tokens_per_block: of a block of the prefix index, estimated.
        tpot_s: objective for the time per output token; None: there is none.
        adapter: LoRA adapter that it needs; empty: none.
        pressure: requests that wait per prefill worker: what this one computes delays each of them.
        can_wait: it may wait for a worker that is busy if that is the better one.
    """

    tokens: int
    tokens_per_block: float = BLOCK_BYTES / 4
    tpot_s: float | None = None
    adapter: str = ""
    pressure: float = 0.0
    can_wait: bool = False


def missing_tokens(want: Want, worker: Candidate, hits: Mapping[int, int]) -> int:
    """Prompt tokens that `worker` does not hold; at least 1, which is always computed."""
    if not hits:
        return want.tokens
    held = hits.get(worker.bit, 0)
    missing = want.tokens - int(held * want.tokens_per_block * worker.trust) if held else want.tokens
    return missing if missing > 1 else 1


def prefill_costs(want: Want, workers: Sequence[Candidate], hits: Mapping[int, int]) -> tuple[list[float], bool]:
    """(costs, are they seconds), of computing what is missing behind what each worker has to do already."""
    typical = stand_in([one.fits.prefill.terms for one in workers])
    costs = []
    for one in workers:
        missing = missing_tokens(want, one, hits)
        has_it = not want.adapter or one.has_adapter(want.adapter)
        if typical is None:
            work = one.backlog_tokens + missing + (0 if has_it else ADAPTER_LOAD_TOKENS)
            cost = float(work * (one.running + 1))
        else:
            terms = one.fits.prefill.terms or typical
            cost = prefill_s(terms, one.backlog_tokens, missing) + (0.0 if has_it else ADAPTER_LOAD_S)
            if want.pressure:
                cost += want.pressure * prefill_s(terms, 0, missing)
        costs.append(cost / one.warmth)
    return costs, typical is not None


def stand_in(fits: Sequence[Terms | None]) -> Terms | None:
    """What workers that are not known yet are taken for; None while none is known. All known: any, nobody asks."""
    known = [fit for fit in fits if fit is not None]
    return known[0] if known and len(known) == len(fits) else typical_terms(known)


def prefill_s(terms: Terms, backlog_tokens: int, missing: int) -> float:
    """Seconds until a prompt is computed on a worker."""
    return predict_s(terms, backlog_tokens + missing, missing * missing)


def decode_costs(want: Want, workers: Sequence[Candidate], hits: Mapping[int, int]) -> tuple[list[float], bool]:
    """(costs, are they seconds), of decoding, transfer left out once they are seconds."""
    typical = stand_in([one.fits.decode.terms for one in workers])
    costs = []
    for one in workers:
        has_it = not want.adapter or one.has_adapter(want.adapter)
        if typical is None:
            work = missing_tokens(want, one, hits) + STEP_TOKENS + (0 if has_it else ADAPTER_LOAD_TOKENS)
            cost = work * (one.running + 1) / max(1, one.slots)
        else:
            step_s = decode_step_s(one.fits.decode.terms or typical, one, want.tokens)
            cost = step_s + late_s(step_s, want.tpot_s) + (0.0 if has_it else ADAPTER_LOAD_S)
        costs.append(cost / one.warmth)
    return costs, typical is not None


def decode_step_s(terms: Terms, worker: Candidate, tokens: int) -> float:
    """Time per output token on a worker once a request of so many tokens has joined its batch."""
    return predict_s(terms, worker.running + 1, worker.backlog_tokens + tokens)


def late_s(step_s: float, objective_s: float | None) -> float:
    """What a typical answer loses by tokens that come later than the objective. Without one every token counts."""
    return TYPICAL_ANSWER_TOKENS * max(0.0, step_s - (objective_s or 0.0))


def transfer_s(missing: int, worker: Candidate, *, is_near: bool) -> float:
    """Seconds to bring the missing KV to a decode worker; 0 while nothing is known of that."""
    near, far = worker.fits.near.terms, worker.fits.far.terms
    terms = (near if is_near else far) or near or far
    return predict_s(terms, missing) if terms is not None else 0.0


def local_s(want: Want, worker: Candidate, hits: Mapping[int, int], elsewhere: Terms | None = None) -> float | None:
    """Cost of doing it all on a decode worker, with what its other streams lose; None while that is not learned.

    While the prompt is computed, the batch waits: each of its streams loses that time, but for what its objective
    leaves over on a typical answer.

    Args:
        elsewhere: what prefill costs on a typical prefill worker. A decode worker that was never seen to prefill is
            taken for `UNSEEN` times as slow: else it would never be tried, and never learned.
    """
    prefill, decode = worker.fits.prefill.terms, worker.fits.decode.terms
    caution = 1.0 if prefill is not None else UNSEEN
    prefill = prefill or elsewhere
    if prefill is None or decode is None:
        return None
    stall_s = caution * prefill_s(prefill, 0, missing_tokens(want, worker, hits))
    step_s = decode_step_s(decode, worker, want.tokens)
    slack_s = TYPICAL_ANSWER_TOKENS * max(0.0, (want.tpot_s or 0.0) - step_s)
    others_s = worker.running * max(0.0, stall_s - slack_s)
    return (stall_s + others_s + step_s + late_s(step_s, want.tpot_s)) / worker.warmth

"""Chooses the (prefill, decode) pair of one request: filter → score → pair (DESIGN §10). Costs: `policy.costs`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from tandem_router.policy.costs import (
    Candidate,
    Want,
    decode_costs,
    local_s,
    missing_tokens,
    prefill_costs,
    stand_in,
    transfer_s,
)
from tandem_router.policy.learned import Terms

NEAR_TIE = 1.05
CAP_FACTOR = 1.25  # affinity may load a worker up to this much over the mean…
CAP_SLACK_TOKENS = 4096  # …and this much more, so that small counts are no imbalance
LOCAL_MAX_TOKENS = 2048  # longer prompts are prefilled locally only if a good part of them is held there
LOCAL_MIN_HIT = 0.3

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


class Pair(NamedTuple, Generic[T]):
    """A decision. `prefill` None: the decode worker does it all, for `reason`."""

    prefill: T | None
    decode: T
    reason: str


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing is to start the request now. `role`: what it waits for; `affinity`: a busy worker that it prefers."""

    role: Literal["prefill", "decode", "affinity"]


class Choices(NamedTuple, Generic[W]):
    """Workers that may be chosen for one request.

    Attributes:
        whole_reason: why prefill and decode must stay on one worker; None: they may part.
        must_split: rather wait than prefill on the decode worker.
    """

    prefills: Sequence[W]
    decodes: Sequence[W]
    whole_reason: str | None = None
    must_split: bool = False


def decide_pair(
    want: Want, choices: Choices[W], hits: Mapping[int, int], rules: PairingRules, draw: float
) -> Pair[W] | Busy:
    """The pair of least cost among workers that can start now.

    Args:
        hits: leading blocks of the prompt that a worker holds, by its bit.
        draw: a number in [0, 1) that breaks near ties.
    """
    decodes = with_free_slot(choices.decodes)
    if not decodes:
        return Busy("decode")
    costs, is_seconds = decode_costs(want, decodes, hits)
    if choices.whole_reason is not None:
        return Pair(None, pick(decodes, costs, draw), choices.whole_reason)
    prefills = able_to_prefill(want, choices.prefills, hits)
    if not prefills:
        if choices.prefills or choices.must_split:
            return Busy("affinity" if with_free_slot(choices.prefills) else "prefill")
        return Pair(None, pick(decodes, costs, draw), "no_prefill_worker")
    heads, is_head_seconds = prefill_costs(want, prefills, hits)
    if is_seconds and is_head_seconds:
        return _join(want, (prefills, heads), (decodes, costs), hits, rules, draw)
    decode = pick(decodes, costs, draw)
    if is_nearly_held(want, decode, hits, rules):
        return Pair(None, decode, "cached")
    return Pair(pick(prefills, heads, draw), decode, "remote")


def decide_prefill(want: Want, prefills: Sequence[W], hits: Mapping[int, int], draw: float) -> W | None:
    """Another prefill worker for a pair whose first has failed; None when none has a free slot."""
    free = able_to_prefill(want, prefills, hits)
    return pick(free, prefill_costs(want, free, hits)[0], draw) if free else None


def able_to_prefill(want: Want, prefills: Sequence[W], hits: Mapping[int, int]) -> list[W]:
    """Workers that may start now; none if it is better to wait for one that is busy, and the request can wait.

    Without that, a fleet near saturation gives every prompt to whichever worker comes free, loses its prefix hits, and
    with them half of what it can serve.
    """
    free = under_affinity_cap(want.tokens, with_free_slot(prefills))
    if not want.can_wait or not hits or len(free) == len(prefills) or not free:
        return free
    costs, is_seconds = prefill_costs(want, prefills, hits)
    best = min(zip(costs, prefills, strict=True), key=lambda row: row[0])[1]
    return free if best.has_slot or not is_seconds else []


def is_nearly_held(want: Want, decode: Candidate, hits: Mapping[int, int], rules: PairingRules) -> bool:
    """The decode worker holds nearly all of the prompt already: nothing is worth moving."""
    return hits.get(decode.bit, 0) > 0 and missing_tokens(want, decode, hits) <= rules.min_remote_tokens


def with_free_slot(workers: Iterable[W]) -> list[W]:
    """Workers that can start a request now."""
    return [one for one in workers if one.has_slot]


def under_affinity_cap(tokens: int, workers: list[W]) -> list[W]:
    """Workers whose backlog is not far above the mean; never empty unless `workers` is."""
    if len(workers) < 2:
        return workers
    backlogs = [one.backlog_tokens for one in workers]
    cap = CAP_FACTOR * sum(backlogs) / len(workers) + max(CAP_SLACK_TOKENS, 2 * tokens)
    return [one for one, backlog in zip(workers, backlogs, strict=True) if backlog <= cap]


def pick(workers: Sequence[W], costs: Sequence[float], draw: float) -> W:
    """The cheapest; among near ties the less busy of two chosen by `draw`, so that routers do not herd."""
    if len(workers) == 1:
        return workers[0]
    limit = min(costs) * NEAR_TIE
    near = [one for one, cost in zip(workers, costs, strict=True) if cost <= limit]
    first = int(draw * len(near))
    second = (first + 1 + int(draw * 7919) % max(1, len(near) - 1)) % len(near)
    return min(near[first], near[second], key=lambda one: one.running)


Scored = tuple[Sequence[W], Sequence[float]]


def _join(
    want: Want, heads: Scored[W], tails: Scored[W], hits: Mapping[int, int], rules: PairingRules, draw: float
) -> Pair[W]:
    """The least sum of both costs and the transfer between them, or local prefill where that is less.

    Transfer depends on the pair only by whether both are in one topology: so the best of each topology is enough.
    """
    (prefills, head_costs), (decodes, tail_costs) = heads, tails
    domains = {one.topology for one in prefills}
    best: tuple[float, str, list[float]] | None = None
    for domain in domains:
        floor = min(cost for one, cost in zip(prefills, head_costs, strict=True) if one.topology == domain)
        sums = [
            cost + transfer_s(missing_tokens(want, one, hits), one, is_near=one.topology == domain)
            for one, cost in zip(decodes, tail_costs, strict=True)
        ]
        total = floor + min(sums)
        if best is None or total < best[0]:
            best = (total, domain, sums)
    assert best is not None, "there is a prefill worker"
    remote_s, domain, sums = best
    decode = pick(decodes, sums, draw)
    if is_nearly_held(want, decode, hits, rules):
        return Pair(None, decode, "cached")
    local = _cheapest_local(want, decodes, hits, stand_in([one.fits.prefill.terms for one in prefills]))
    if local is not None and local[0] < remote_s:
        return Pair(None, local[1], "cheaper")
    inside = [(one, cost) for one, cost in zip(prefills, head_costs, strict=True) if one.topology == domain]
    return Pair(pick([one for one, _ in inside], [cost for _, cost in inside], draw), decode, "remote")


def _cheapest_local(
    want: Want, decodes: Sequence[W], hits: Mapping[int, int], elsewhere: Terms | None
) -> tuple[float, W] | None:
    """The decode worker on which doing it all costs least, of those where that is allowed and learned."""
    found: tuple[float, W] | None = None
    for one in decodes:
        missing = missing_tokens(want, one, hits)
        if missing >= LOCAL_MAX_TOKENS and missing > (1 - LOCAL_MIN_HIT) * want.tokens:
            continue
        cost = local_s(want, one, hits, elsewhere)
        if cost is not None and (found is None or cost < found[0]):
            found = (cost, one)
    return found

"""One decision as it was taken: what went in, in a form that is kept and sent, and the same decision taken again.

Nothing of the prompt is in it: lengths and hits only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from tandem_router.policy.costs import (
    Want,
    decode_costs,
    local_s,
    missing_tokens,
    prefill_costs,
    stand_in,
    transfer_s,
)
from tandem_router.policy.learned import Terms
from tandem_router.policy.pairing import (
    Busy,
    Choices,
    Pair,
    PairingRules,
    decide_pair,
    under_affinity_cap,
    with_free_slot,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordedFit:
    """Terms of a fit as they were."""

    terms: Terms | None


@dataclass(frozen=True, slots=True)
class RecordedFits:
    """All fits of a worker as they were."""

    prefill: RecordedFit
    decode: RecordedFit
    near: RecordedFit
    far: RecordedFit


@dataclass(frozen=True, slots=True)
class RecordedWorker:
    """A candidate as it was; fields as in `costs.Candidate`."""

    name: str
    bit: int
    running: int
    backlog_tokens: int
    slots: int
    has_slot: bool
    topology: str
    warmth: float
    trust: float
    holds_adapter: bool
    fits: RecordedFits

    def has_adapter(self, name: str) -> bool:
        """Only the adapter of the recorded request was looked at."""
        return self.holds_adapter


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """All that a decision was taken from. `hits` is by the bits of these workers."""

    want: Want
    prefills: tuple[RecordedWorker, ...]
    decodes: tuple[RecordedWorker, ...]
    whole_reason: str | None
    must_split: bool
    hits: dict[int, int]
    rules: PairingRules
    draw: float

    def replay(self) -> Pair[RecordedWorker] | Busy:
        """Decide again, by the code of today."""
        choices = Choices(self.prefills, self.decodes, self.whole_reason, self.must_split)
        return decide_pair(self.want, choices, self.hits, self.rules, self.draw)

    def to_fields(self) -> dict[str, Any]:
        """JSON-able form; hits as pairs, because keys of JSON objects are text."""
        return asdict(self) | {"want": self.want._asdict(), "hits": sorted(self.hits.items())}


class Taken(NamedTuple, Generic[T]):
    """A decision just taken, and from what."""

    choices: Choices[Any]
    rules: PairingRules
    draw: float
    pair: Pair[T]


def record_decision(want: Want, taken: Taken[Any], hits: Mapping[int, int]) -> RecordedDecision:
    """Keep what a decision is taken from. Bits are numbered anew: those of a router mean nothing elsewhere."""
    choices = taken.choices
    workers = (*choices.prefills, *choices.decodes)
    bits = {one.bit: 1 << place for place, one in enumerate(workers)}
    return RecordedDecision(
        want,
        tuple(_record(one, bits, want) for one in choices.prefills),
        tuple(_record(one, bits, want) for one in choices.decodes),
        choices.whole_reason,
        choices.must_split,
        {bits[bit]: count for bit, count in hits.items() if bit in bits},
        taken.rules,
        taken.draw,
    )


def _record(one: Any, bits: Mapping[int, int], want: Want) -> RecordedWorker:
    fits = one.fits
    kept = RecordedFits(*(RecordedFit(fit.terms) for fit in (fits.prefill, fits.decode, fits.near, fits.far)))
    return RecordedWorker(
        one.name, bits[one.bit], one.running, one.backlog_tokens, one.slots, one.has_slot, one.topology,
        one.warmth, one.trust, bool(want.adapter) and one.has_adapter(want.adapter), kept,
    )  # fmt: skip


def parse_decision(fields: Mapping[str, Any]) -> RecordedDecision:
    """Inverse of `RecordedDecision.to_fields`.

    Raises:
        ValueError: not a decision of this version of the router.
    """
    try:
        return RecordedDecision(
            Want(**fields["want"]),
            tuple(_parse_worker(one) for one in fields["prefills"]),
            tuple(_parse_worker(one) for one in fields["decodes"]),
            fields["whole_reason"],
            bool(fields["must_split"]),
            {int(bit): int(count) for bit, count in fields["hits"]},
            PairingRules(**fields["rules"]),
            float(fields["draw"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a decision of this version: {error}") from error


def _parse_worker(fields: Mapping[str, Any]) -> RecordedWorker:
    fits = {name: RecordedFit(_parse_terms(fit["terms"])) for name, fit in fields["fits"].items()}
    return RecordedWorker(**{**fields, "fits": RecordedFits(**fits)})


def _parse_terms(terms: Sequence[float] | None) -> Terms | None:
    return None if terms is None else (float(terms[0]), float(terms[1]), float(terms[2]))


@dataclass(frozen=True, slots=True)
class Score:
    """One worker's row. Costs are seconds, or without a unit while nothing is learned; None: it was out."""

    name: str
    hit_tokens: int
    missing_tokens: int
    running: int
    backlog_tokens: int
    cost: float | None
    transfer_s: float | None
    local_s: float | None
    why_out: str


def score_prefills(decision: RecordedDecision) -> tuple[list[Score], bool]:
    """(rows, are costs seconds) of every prefill worker that was looked at."""
    want, hits = decision.want, decision.hits
    inside = under_affinity_cap(want.tokens, with_free_slot(decision.prefills))
    costs, is_seconds = prefill_costs(want, inside, hits)
    by_bit = {one.bit: cost for one, cost in zip(inside, costs, strict=True)}
    rows = [_score(decision, one, by_bit.get(one.bit), "over the affinity cap") for one in decision.prefills]
    return rows, is_seconds


def score_decodes(decision: RecordedDecision) -> tuple[list[Score], bool]:
    """(rows, are costs seconds) of every decode worker that was looked at."""
    inside = with_free_slot(decision.decodes)
    costs, is_seconds = decode_costs(decision.want, inside, decision.hits)
    by_bit = {one.bit: cost for one, cost in zip(inside, costs, strict=True)}
    return [_score(decision, one, by_bit.get(one.bit), "no free slot") for one in decision.decodes], is_seconds


def _score(decision: RecordedDecision, one: RecordedWorker, cost: float | None, why_out: str) -> Score:
    want, hits = decision.want, decision.hits
    missing = missing_tokens(want, one, hits)
    is_decode = one in decision.decodes
    return Score(
        one.name,
        want.tokens - missing if hits.get(one.bit) else 0,
        missing,
        one.running,
        one.backlog_tokens,
        cost,
        transfer_s(missing, one, is_near=True) if is_decode else None,
        local_s(want, one, hits, stand_in([worker.fits.prefill.terms for worker in decision.prefills]))
        if is_decode
        else None,
        "" if cost is not None else why_out if one.has_slot else "no free slot",
    )

"""Decode target: the load one start-up ahead, from inflow × residency, over what one worker may hold.

By Little's law the load that today's arrivals lead to is inflow × residency. The pool moves there from today's load
with the residency as time constant: load(t + S) = load + (inflow × residency − load) · (1 − e^(−S/residency)).
KV has two parts: prompts, whose inflow is known, and answers, of which only the mean is.

Three things make the load exceed that, and the largest counts. Growth as it has been: by how much forecasts fell short
in the past hour, in workers. Growth that is certain: the inflow is on a ramp. Chance: with independent arrivals the
sequences vary as a Poisson number, and the KV tokens by λ E[kv² × residency], which a few very long prompts make large.
"""

from dataclasses import dataclass
from math import ceil, exp, isfinite, sqrt
from statistics import NormalDist

from tandem_core.targets import kv_limited_workers, tpot_limited_workers
from tandem_operator.autoscale.demand import Bin
from tandem_operator.autoscale.observation import Observation
from tandem_operator.autoscale.settings import Settings
from tandem_operator.autoscale.terms import Target, Term, told_help
from tandem_operator.autoscale.trend import certain_growth

TREND_STEP_S = 10
TPOT_MARGIN = 0.95  # plan the batch for a little less than the objective: a step is not all of TPOT


@dataclass(frozen=True, slots=True)
class Load:
    """What a decode pool holds: sequences, and the KV tokens of them."""

    sequences: float
    kv_tokens: float

    def scaled(self, factor: float) -> "Load":
        """That many times this load."""
        return Load(self.sequences * factor, self.kv_tokens * factor)


@dataclass(frozen=True, slots=True)
class Expectation:
    """A forecast load, and how it varies.

    Attributes:
        load: if arrivals stay as they are.
        ramp: if they grow as they certainly do.
        lump_tokens: KV tokens that a typical token shares a request with, E[kv² W] / E[kv W]. Variance of the KV load
            is its mean times this; a worker's last free lump cannot be used.
        is_rising: more came in the short window than in the long one.
    """

    load: Load
    ramp: Load
    lump_tokens: float = 0.0
    is_rising: bool = True

    def with_chance(self, miss_share: float) -> Load:
        """The load that is exceeded only that share of the time."""
        z = NormalDist().inv_cdf(1.0 - miss_share)
        mean = self.load
        return Load(
            mean.sequences + z * sqrt(mean.sequences), mean.kv_tokens + z * sqrt(mean.kv_tokens * self.lump_tokens)
        )


@dataclass(frozen=True, slots=True)
class DecodeTarget(Target):
    """With the load that `own` is for."""

    load: Load


def plan_decode(
    settings: Settings, expected: Expectation, forecast: float, raised: float, helped: Load
) -> DecodeTarget:
    """Workers that the decode pool needs.

    Args:
        forecast: the expected load, as a real number of workers; infinite when no number meets TPOT.
        raised: workers to expect, growth included.
        helped: load of other regions that is to be held here.
    """
    grown = expected.load.scaled(raised / forecast if 0 < forecast < float("inf") else 1.0)
    chance = expected.with_chance(settings.objectives.tpot_miss_budget / 2)
    own = Load(max(grown.sequences, chance.sequences), max(grown.kv_tokens, chance.kv_tokens))
    peak = Load(own.sequences + helped.sequences, own.kv_tokens + helped.kv_tokens)
    by_kv, by_slots, by_tpot = needs = _workers_by_bound(settings, peak, expected.lump_tokens)
    terms = (
        Term("sequences", expected.load.sequences, ""),
        Term("kvTokens", expected.load.kv_tokens, ""),
        Term("expected", raised, "workers"),
        Term("kv", by_kv, "workers"),
        Term("slots", by_slots, "workers"),
        Term("tpot", by_tpot, "workers"),
        *told_help(workers_for(settings, helped), "workers"),
    )
    own_needs = _workers_by_bound(settings, own, expected.lump_tokens)
    return DecodeTarget(_whole(settings, needs), terms, _whole(settings, own_needs), own)


def _workers_by_bound(settings: Settings, load: Load, lump_tokens: float) -> tuple[float, float, float]:
    """Workers, as real numbers, by KV capacity, by slots and by TPOT."""
    usable = max(0.5, 1.0 - 0.5 * lump_tokens / settings.kv_capacity_tokens)
    by_kv = load.kv_tokens / settings.kv_capacity_tokens / usable
    return by_kv, load.sequences / settings.max_sequences, _tpot_workers(settings, load)


def _whole(settings: Settings, needs: tuple[float, ...]) -> int:
    needed = max(needs)
    return ceil(needed) if isfinite(needed) else settings.decode.maximum


def workers_for(settings: Settings, load: Load) -> float:
    """Workers, as a real number, that hold a load within KV, slots and TPOT; infinite if TPOT cannot be met."""
    held = kv_limited_workers(load.sequences, load.kv_tokens, settings.max_sequences, settings.kv_capacity_tokens)
    return max(held, _tpot_workers(settings, load))


def _tpot_workers(settings: Settings, load: Load) -> float:
    tpot_s = settings.objectives.tpot_s * TPOT_MARGIN
    return tpot_limited_workers(settings.performance, load.sequences, load.kv_tokens, tpot_s)


def forecast_load(settings: Settings, seen: Observation) -> Expectation:
    """The load of the decode pool when a worker that is asked for now is ready."""
    method, now_s = settings.method, seen.now_s
    rates = [_rate(seen, span_s) for span_s in (method.short_s, method.long_s)]
    inflow = Load(max(rate.sequences for rate in rates), max(rate.kv_tokens for rate in rates))
    ramp = inflow.scaled(1.0 + _relative_growth(seen, inflow.sequences, method.short_s, method.long_s))
    ended = seen.demand.total(now_s - method.residency_s, now_s)
    lump = ended.kv_square_s / ended.kv_token_s if ended.kv_token_s > 0 else 0.0
    is_rising = rates[0].sequences >= rates[1].sequences
    return Expectation(_load_ahead(seen, inflow, ended), _load_ahead(seen, ramp, ended), lump, is_rising)


def _load_ahead(seen: Observation, inflow: Load, ended: Bin) -> Load:
    """Today's load, moved towards inflow × residency for one start-up time."""
    held = Load(seen.gauges.decode_sequences, seen.gauges.decode_kv_tokens)
    startup_s = seen.decode.startup_s
    if ended.finished <= 0:
        # Nothing has ended yet: whatever comes stays.
        return Load(held.sequences + inflow.sequences * startup_s, held.kv_tokens + inflow.kv_tokens * startup_s)
    # Time held over requests ended, not the mean time of the ended: those that are still here count as well, else the
    # residency of a young fleet, or of growing answers, would be that of the shortest.
    residency_s = ended.held_s / ended.finished
    mean_prompt = ended.ended_prompt_tokens / ended.finished
    answer_kv_s = max(0.0, ended.held_kv_s / ended.finished - mean_prompt * residency_s)
    settled = Load(inflow.sequences * residency_s, inflow.kv_tokens * residency_s + inflow.sequences * answer_kv_s)
    approach = 1.0 - exp(-startup_s / residency_s) if residency_s > 0 else 1.0
    return Load(
        held.sequences + (settled.sequences - held.sequences) * approach,
        held.kv_tokens + (settled.kv_tokens - held.kv_tokens) * approach,
    )


def _rate(seen: Observation, span_s: int) -> Load:
    """Sequences and prompt tokens per second over a span."""
    known_s = min(span_s, max(10.0, seen.now_s - (seen.demand.first_second or 0)))
    summed = seen.demand.total(seen.now_s - known_s, seen.now_s)
    return Load(summed.arrivals / known_s, summed.prompt_tokens / known_s)


def _relative_growth(seen: Observation, rate_rps: float, short_s: int, long_s: int) -> float:
    """Certain growth of arrivals one start-up ahead, over their rate now."""
    if rate_rps <= 0:
        return 0.0
    recent = seen.demand.spans(seen.now_s, TREND_STEP_S, long_s // TREND_STEP_S)
    values = [one.arrivals / TREND_STEP_S for one in recent]
    return certain_growth(values, TREND_STEP_S, seen.decode.startup_s + short_s / 2) / rate_rps

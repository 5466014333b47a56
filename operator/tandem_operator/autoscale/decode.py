"""Decode target: the load one start-up ahead, from inflow × residency, over what one worker may hold.

By Little's law the load that today's arrivals lead to is inflow × residency. The pool moves there from today's load
with the residency as time constant: load(t + S) = load + (inflow × residency − load) · (1 − e^(−S/residency)).
How wrong such forecasts were in the past hour is measured, and the forecast raised by a quantile of it.
"""

from dataclasses import dataclass
from math import ceil, exp, isfinite

from tandem_core.targets import kv_limited_workers, tpot_limited_workers
from tandem_operator.autoscale.demand import Bin, quantile
from tandem_operator.autoscale.observation import Observation
from tandem_operator.autoscale.settings import Settings
from tandem_operator.autoscale.terms import Target, Term

TPOT_MARGIN = 0.95  # plan the batch for a little less than the objective: a step is not all of TPOT


@dataclass(frozen=True, slots=True)
class Load:
    """What a decode pool holds: sequences, and the KV tokens of them."""

    sequences: float
    kv_tokens: float

    def scaled(self, factor: float) -> "Load":
        """That many times this load."""
        return Load(self.sequences * factor, self.kv_tokens * factor)


def plan_decode(settings: Settings, load: Load, ratios: tuple[float, ...]) -> Target:
    """Workers that the decode pool needs for a load, raised by a quantile of past realised / forecast `ratios`."""
    method = settings.method
    raised = quantile(ratios, method.forecast_share) if ratios else method.first_forecast_ratio
    expected = load.scaled(max(1.0, raised))
    by_kv = expected.kv_tokens / settings.kv_capacity_tokens
    by_tpot = tpot_limited_workers(
        settings.performance, expected.sequences, expected.kv_tokens, settings.objectives.tpot_s * TPOT_MARGIN
    )
    needed = workers_for(settings, expected)
    terms = (
        Term("sequences", expected.sequences, ""),
        Term("kv", by_kv, "workers"),
        Term("slots", expected.sequences / settings.max_sequences, "workers"),
        Term("tpot", by_tpot, "workers"),
        Term("forecastRatio", max(1.0, raised), ""),
    )
    return Target(ceil(needed / method.fill) if isfinite(needed) else settings.decode.maximum, terms)


def workers_for(settings: Settings, load: Load) -> float:
    """Workers, as a real number, that hold a load within KV, slots and TPOT; infinite if TPOT cannot be met."""
    held = kv_limited_workers(load.sequences, load.kv_tokens, settings.max_sequences, settings.kv_capacity_tokens)
    tpot_s = settings.objectives.tpot_s * TPOT_MARGIN
    return max(held, tpot_limited_workers(settings.performance, load.sequences, load.kv_tokens, tpot_s))


def forecast_load(settings: Settings, seen: Observation) -> Load:
    """The load of the decode pool when a worker that is asked for now is ready."""
    method, now_s = settings.method, seen.now_s
    held = Load(seen.gauges.decode_sequences, seen.gauges.decode_kv_tokens)
    inflow = _inflow(seen, method.short_s, method.long_s)
    ended = seen.demand.total(now_s - method.residency_s, now_s)
    startup_s = seen.decode.startup_s
    if ended.finished <= 0 or ended.ended_prompt_tokens <= 0:
        # Nothing has ended yet: whatever comes stays.
        return Load(held.sequences + inflow.sequences * startup_s, held.kv_tokens + inflow.kv_tokens * startup_s)
    residency_s = ended.decode_s / ended.finished
    kv_residency_s = ended.kv_token_s / ended.ended_prompt_tokens
    approach = 1.0 - exp(-startup_s / residency_s) if residency_s > 0 else 1.0
    return Load(
        held.sequences + (inflow.sequences * residency_s - held.sequences) * approach,
        held.kv_tokens + (inflow.kv_tokens * kv_residency_s - held.kv_tokens) * approach,
    )


def _inflow(seen: Observation, short_s: int, long_s: int) -> Load:
    """Sequences and prompt tokens per second; of two windows the one that brings more KV."""
    rates = []
    for span in (short_s, long_s):
        known_s = min(span, max(10.0, seen.now_s - (seen.demand.first_second or 0)))
        summed: Bin = seen.demand.total(seen.now_s - known_s, seen.now_s)
        rates.append(Load(summed.arrivals / known_s, summed.prompt_tokens / known_s))
    return Load(max(rate.sequences for rate in rates), max(rate.kv_tokens for rate in rates))

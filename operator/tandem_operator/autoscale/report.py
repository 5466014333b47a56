"""Decisions and latency as they stand in status: rounded, so that noise writes nothing."""

from math import isfinite, isnan

from tandem_api.v1alpha1 import (
    DecisionStatus,
    HoldStatus,
    LatencyStatus,
    Objective,
    Objectives,
    ObjectivesStatus,
    PoolDecisionStatus,
    RegionDemandStatus,
    RegionLoad,
)
from tandem_core.region_demand import RegionDemand, RegionSupply
from tandem_core.sketch import Sketch
from tandem_core.targets import PERCENTILES
from tandem_operator.autoscale.decision import Decision, PoolDecision
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.realised import WINDOW_S, Latency
from tandem_operator.autoscale.recall import format_time

RATE_SPAN_S = 60

Signature = tuple[object, ...]


def sign(decision: Decision | DecisionStatus | None) -> Signature:
    """What makes a decision another one than the last: sizes, bounds, hold. Numbers alone do not."""
    if decision is None:
        return ()
    pools = [(one.workers, one.bound) for one in (decision.prefill, decision.decode)]
    return (*pools, decision.hold.reason if decision.hold else None)


def build_decision_status(decision: Decision, seen: Observation, *, acted: bool) -> DecisionStatus:
    """`acted`: whether the sizes are written, if they differ."""
    hold = HoldStatus(reason=decision.hold.reason, message=decision.hold.message) if decision.hold else None
    return DecisionStatus(
        time=format_time(decision.at_s),
        acted=acted and hold is None,
        prefill=_pool(decision.prefill),
        decode=_pool(decision.decode),
        inputs=_inputs(seen),
        hold=hold,
    )


def _pool(decided: PoolDecision) -> PoolDecisionStatus:
    terms = {term.name: _rounded(term.value) for term in decided.terms if isfinite(term.value)}
    return PoolDecisionStatus(workers=decided.workers, needed=decided.needed, bound=decided.bound, terms=terms)


def _inputs(seen: Observation) -> dict[str, float]:
    """What the routers reported, and how the pools stood."""
    recent = seen.demand.total(seen.now_s - RATE_SPAN_S, seen.now_s)
    values = {
        "arrivalsPerSecond": recent.arrivals / RATE_SPAN_S,
        "newTokensPerSecond": recent.new_tokens / RATE_SPAN_S,
        "queuedTokens": seen.gauges.queued_tokens,
        "decodeSequences": seen.gauges.decode_sequences,
        "decodeKvTokens": seen.gauges.decode_kv_tokens,
        "routersExpected": float(seen.sources_expected),
        "routersHeard": float(seen.sources_fresh),
        "modelResidual": seen.residual,
        **_pool_inputs("prefill", seen.prefill),
        **_pool_inputs("decode", seen.decode),
    }
    return {name: _rounded(value) for name, value in values.items() if isfinite(value)}


def _pool_inputs(role: str, pool: PoolState) -> dict[str, float]:
    return {f"{role}Ready": float(pool.ready), f"{role}StartupSeconds": pool.startup_s}


def build_region_status(supply: RegionSupply) -> RegionDemandStatus:
    """This region's word to the others."""
    return RegionDemandStatus(uncoverable=_region_load(supply.uncoverable), room=_region_load(supply.room))


def _region_load(demand: RegionDemand) -> RegionLoad | None:
    if not demand:
        return None
    return RegionLoad(
        requests_per_second=_coarse(demand.requests_per_s),
        prefill_tokens_per_second=_coarse(demand.prefill_tokens_per_s),
        prefill_square_tokens_per_second=_coarse(demand.prefill_square_tokens_per_s),
        decode_sequences=_coarse(demand.decode_sequences),
        decode_kv_tokens=_coarse(demand.decode_kv_tokens),
    )


def build_objectives_status(objectives: Objectives, latency: Latency) -> ObjectivesStatus:
    """Latency against what is wanted."""
    return ObjectivesStatus(
        window_seconds=WINDOW_S,
        requests=latency.requests,
        ttft=_latency(objectives.ttft, latency.ttft, latency.ttft_attainment),
        tpot=_latency(objectives.tpot, latency.tpot, latency.tpot_attainment),
    )


def _latency(objective: Objective | None, sketch: Sketch, attainment: float) -> LatencyStatus | None:
    if objective is None:
        return None
    found = sketch.quantile(PERCENTILES[objective.percentile])
    return LatencyStatus(
        percentile=objective.percentile,
        target_seconds=objective.seconds,
        seconds=None if isnan(found) else _rounded(found),
        attainment=None if isnan(attainment) else round(attainment, 4),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _coarse(value: float) -> float:
    """What other regions act on changes as seldom as may be."""
    return float(f"{value:.2g}")

"""One decision: observe health, plan both pools, hold, bound, explain."""

from dataclasses import dataclass, replace

from tandem_core.region_demand import NOTHING, RegionSupply
from tandem_operator.autoscale.budget import floor_workers, next_level
from tandem_operator.autoscale.decision import Decision, PoolDecision
from tandem_operator.autoscale.decode import DecodeTarget, Load, forecast_load, plan_decode, workers_for
from tandem_operator.autoscale.limits import (
    Bounded,
    keeps_ready_ratio,
    within_budget,
    within_free_gpus,
    within_pool,
    within_ratio,
    within_step,
)
from tandem_operator.autoscale.memory import Forecast, Memory, PoolMemory
from tandem_operator.autoscale.observation import Hold, Observation, PoolState, find_fault
from tandem_operator.autoscale.prefill import certain_work_growth, is_work_rising, plan_prefill, present_work, work_rate
from tandem_operator.autoscale.settings import Role, Settings
from tandem_operator.autoscale.supply import Own, build_supply, own_demand, reach_of
from tandem_operator.autoscale.terms import Target

LONGEST_STEP_S = 60.0  # a decision after a gap integrates no more misses than this


def decide(settings: Settings, seen: Observation, memory: Memory) -> tuple[Decision, Memory]:
    """Sizes for both pools, and what to remember. Deterministic; changes nothing that it is given."""
    fault = find_fault(seen, settings.method.stale_s, memory.last_decided_s)
    if fault is not None:
        return _held(seen, fault), memory
    if _is_idle(settings, seen, memory.helped_s):
        idle = PoolDecision(0, 0, "idle")
        nothing = Own(NOTHING, 0.0, (0, 0), (settings.prefill.maximum, settings.decode.maximum))
        supply = build_supply(settings, nothing, is_drained=seen.regions.is_drained)
        return Decision(seen.now_s, idle, idle, supply=supply), Memory(last_decided_s=seen.now_s)
    memory = memory.or_first(seen.now_s, seen.prefill.desired, seen.decode.desired)
    plan = _plan(settings, seen, memory)
    return _bounded(settings, seen, plan), plan.memory


@dataclass(frozen=True, slots=True)
class _Need:
    """One pool before limits: the target, and the size after floor and hold."""

    target: Target
    size: Bounded


@dataclass(frozen=True, slots=True)
class _Plan:
    """Both pools before limits, what to tell the other regions, and what to remember."""

    prefill: _Need
    decode: _Need
    supply: RegionSupply
    memory: Memory


def _plan(settings: Settings, seen: Observation, memory: Memory) -> _Plan:
    prefill, expected_work, prefill_memory = _plan_prefill(settings, seen, memory.prefill)
    decode, decode_memory = _plan_decode(settings, seen, memory.decode)
    prefill_memory = _remember(settings, seen, memory.last_decided_s, "prefill", prefill_memory, prefill)
    decode_memory = _remember(settings, seen, memory.last_decided_s, "decode", decode_memory, decode)
    helped_s = seen.now_s if seen.regions.helped else memory.helped_s
    remembered = Memory(prefill_memory, decode_memory, seen.now_s, helped_s)
    reach = (
        reach_of(settings, settings.prefill, seen.prefill, prefill_memory.ceiling),
        reach_of(settings, settings.decode, seen.decode, decode_memory.ceiling),
    )
    own = Own(own_demand(settings, seen, expected_work, decode.load), expected_work, (prefill.own, decode.own), reach)
    return _Plan(
        _need(prefill, prefill_memory, seen.prefill, seen.now_s),
        _need(decode, decode_memory, seen.decode, seen.now_s),
        build_supply(settings, own, is_drained=seen.regions.is_drained),
        remembered,
    )


def _plan_prefill(settings: Settings, seen: Observation, memory: PoolMemory) -> tuple[Target, float, PoolMemory]:
    """The target, the work to expect of the own demand, and what to remember."""
    method, now_s = settings.method, seen.now_s
    realised = work_rate(settings.performance, seen.demand, now_s, method.short_s)
    record = memory.forecasts.judged(now_s, realised)
    present = present_work(settings, seen)
    is_rising = is_work_rising(settings, seen)
    raised = record.raised(present, method.forecast_share, method.prefill_prior, is_rising=is_rising)
    expected = max(raised, present + certain_work_growth(settings, seen))
    target, replays = plan_prefill(settings, seen, present, expected, memory.replays)
    record = record.with_open(Forecast(now_s + seen.prefill.startup_s, present, is_rising))
    return target, expected, replace(memory, forecasts=record, replays=replays)


def _plan_decode(settings: Settings, seen: Observation, memory: PoolMemory) -> tuple[DecodeTarget, PoolMemory]:
    method, now_s = settings.method, seen.now_s
    realised = workers_for(settings, Load(seen.gauges.decode_sequences, seen.gauges.decode_kv_tokens))
    record = memory.forecasts.judged(now_s, realised)
    forecast = forecast_load(settings, seen)
    workers = workers_for(settings, forecast.load)
    is_rising = forecast.is_rising
    raised = record.raised(workers, method.forecast_share, method.decode_prior, is_rising=is_rising)
    raised = max(raised, workers_for(settings, forecast.ramp))
    record = record.with_open(Forecast(now_s + seen.decode.startup_s, workers, is_rising))
    helped = Load(seen.regions.helped.decode_sequences, seen.regions.helped.decode_kv_tokens)
    return plan_decode(settings, forecast, workers, raised, helped), replace(memory, forecasts=record)


def _remember(
    settings: Settings, seen: Observation, last_s: float | None, role: Role, pool: PoolMemory, target: Target
) -> PoolMemory:
    """The target of this moment, and the outer loop's level moved by the misses since the last decision."""
    elapsed_s = min(seen.now_s - last_s, LONGEST_STEP_S) if last_s is not None else 0.0
    ended = seen.demand.total(seen.now_s - elapsed_s, seen.now_s)
    misses = ended.prefill_misses if role == "prefill" else ended.decode_misses
    objectives = settings.objectives
    allowed = objectives.ttft_miss_budget if role == "prefill" else objectives.tpot_miss_budget
    level = pool.level
    if ended.finished > 0:
        rest = settings.method.budget_share * allowed / 2  # both pools share what one request may miss
        level = next_level(level, misses / ended.finished, rest, settings.method.budget_gain, elapsed_s)
    state = seen.prefill if role == "prefill" else seen.decode
    return pool.remembering(seen.now_s, target.workers, level).with_ceiling(seen.now_s, state, settings.method)


def _need(target: Target, memory: PoolMemory, pool: PoolState, now_s: float) -> _Need:
    """Raise a target to the outer loop's floor, and keep what was needed within the last start-up time."""
    size = Bounded(target.workers)
    size = size.at_least(floor_workers(memory.since(0.0), memory.level), "budget")
    # A worker that idles for one start-up costs as much as starting it again.
    return _Need(target, size.at_least(max(memory.since(now_s - pool.startup_s)), "hold"))


def _bounded(settings: Settings, seen: Observation, plan: _Plan) -> Decision:
    """Apply every limit. Shapes, ratio, budget, min and max come last, so nothing can break them."""
    prefill, decode = plan.prefill, plan.decode
    sizes = {
        "prefill": _soft(settings, seen, "prefill", prefill.size),
        "decode": _soft(settings, seen, "decode", decode.size),
    }
    bounded = within_ratio(sizes["prefill"], sizes["decode"], settings)
    bounded = within_budget(*bounded, settings)
    both = (
        PoolDecision(bounded[0].workers, prefill.target.workers, bounded[0].bound, prefill.target.terms),
        PoolDecision(bounded[1].workers, decode.target.workers, bounded[1].bound, decode.target.terms),
    )
    if settings.paused:
        both = (_paused(both[0], seen.prefill), _paused(both[1], seen.decode))
    return Decision(seen.now_s, *both, supply=plan.supply)


def _soft(settings: Settings, seen: Observation, role: Role, size: Bounded) -> Bounded:
    """Limits of one pool alone."""
    pool, limits = (seen.prefill, settings.prefill) if role == "prefill" else (seen.decode, settings.decode)
    size = _no_blind_shrink(settings, seen, role, size, pool)
    size = within_step(size, pool, settings.max_step)
    size = within_free_gpus(size, pool, settings.method.gpu_backoff_s)
    return within_pool(size, limits)


def _no_blind_shrink(settings: Settings, seen: Observation, role: Role, size: Bounded, pool: PoolState) -> Bounded:
    """Growth on incomplete knowledge is safe, shrinking is not."""
    if size.workers >= pool.desired:
        return size
    if seen.sources_fresh < seen.sources_expected:
        return size.at_least(pool.desired, "sourceMissing")
    if seen.residual > settings.method.residual_limit:
        return size.at_least(pool.desired, "residual")
    ready: dict[Role, int] = {"prefill": seen.prefill.ready, "decode": seen.decode.ready}
    if not keeps_ready_ratio(role, size.workers, ready, settings):
        return size.at_least(pool.desired, "readyRatio")
    return size


def _paused(decided: PoolDecision, pool: PoolState) -> PoolDecision:
    return PoolDecision(pool.desired, decided.workers, "paused", decided.terms)


def _is_idle(settings: Settings, seen: Observation, helped_s: float | None) -> bool:
    """Nothing came for `scale_to_zero_after_s`, nothing waits or runs, and the data reach back that far.

    Nor has another region needed help, last at `helped_s`.
    """
    idle_s = settings.scale_to_zero_after_s
    if idle_s is None or settings.paused or seen.regions.helped:
        return False
    if helped_s is not None and seen.now_s - helped_s < idle_s:
        return False
    if seen.sources_fresh < seen.sources_expected or seen.gauges.decode_sequences or seen.gauges.queued_tokens:
        return False
    return seen.demand.is_idle_since(seen.now_s - idle_s)


def _held(seen: Observation, fault: Hold) -> Decision:
    return Decision(
        seen.now_s,
        PoolDecision(seen.prefill.desired, seen.prefill.desired, "held"),
        PoolDecision(seen.decode.desired, seen.decode.desired, "held"),
        fault,
    )

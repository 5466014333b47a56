"""Prefill target: what the work rate alone needs, what a replay of real arrivals needs, and what a backlog adds."""

from math import ceil

from tandem_core.discipline import latest_start_s
from tandem_core.performance import PerformanceModel
from tandem_operator.autoscale.demand import Arrival, Bin, DemandHistory
from tandem_operator.autoscale.memory import Replayed, Replays
from tandem_operator.autoscale.observation import Observation
from tandem_operator.autoscale.replay import Job, smallest_pool
from tandem_operator.autoscale.settings import Settings
from tandem_operator.autoscale.terms import Target, Term, told_help
from tandem_operator.autoscale.trend import certain_growth

TREND_STEP_S = 10


def plan_prefill(
    settings: Settings, seen: Observation, present: float, expected: float, last: Replays
) -> tuple[Target, Replays]:
    """Workers that the prefill pool needs, and the replays that say so.

    The own demand is replayed by itself also while this region helps others: a larger pool works better, and what this
    region says of its own need must not change with the help that it gives.

    Args:
        present: work rate now, in workers kept busy.
        expected: work rate to expect one start-up ahead.
        last: replays of earlier decisions, used while they are fresh.
    """
    helped = helped_work(settings, seen)
    base = expected + helped
    own = _replayed(settings, seen, expected, last.own)
    joint = _replayed(settings, seen, base, last.joint or own) if helped > 0 else None
    by_replay, drain = _scaled(joint or own, base), _drain_workers(settings, seen, base)
    terms = (
        Term("workRate", present, "workers busy"),
        Term("expected", base, "workers busy"),
        Term("replay", by_replay, "workers"),
        Term("backlog", drain, "workers"),
        *told_help(helped, "workers busy"),
    )
    # A tenth of a worker's work is left to the slack of the rounding.
    more = max(0, ceil(drain - 0.1))
    alone = max(_scaled(own, expected), ceil(expected)) + more
    return Target(max(by_replay, ceil(base)) + more, terms, alone), Replays(own, joint)


def _replayed(settings: Settings, seen: Observation, base: float, last: Replayed | None) -> Replayed:
    if last is not None and _is_fresh(settings, seen, base, last):
        return last
    guess = _scaled(last, base) if last is not None else ceil(base)
    return Replayed(seen.now_s, base, _replay(settings, seen, base, guess))


def helped_work(settings: Settings, seen: Observation) -> float:
    """Prefill work of other regions' demand, in workers of this region kept busy."""
    helped, model = seen.regions.helped, settings.performance
    steps = max(helped.requests_per_s, helped.prefill_tokens_per_s / model.step_tokens)
    return model.prefill_work_s(steps, helped.prefill_tokens_per_s, helped.prefill_square_tokens_per_s)


def _is_fresh(settings: Settings, seen: Observation, base: float, last: Replayed) -> bool:
    method = settings.method
    if last.work <= 0 or seen.now_s - last.at_s >= method.replay_every_s:
        return False
    return base <= last.work * method.replay_jump


def _scaled(replayed: Replayed, base: float) -> int:
    """Between replays the pool follows the load at the utilization that the replay allowed."""
    if replayed.work <= 0:
        return 0
    return ceil(replayed.workers * base / replayed.work - 1e-9)


def present_work(settings: Settings, seen: Observation) -> float:
    """Prefill work rate, in workers kept busy: the larger of two windows."""
    spans = (settings.method.short_s, settings.method.long_s)
    return max(work_rate(settings.performance, seen.demand, seen.now_s, span) for span in spans)


def is_work_rising(settings: Settings, seen: Observation) -> bool:
    """Whether more work came in the short window than in the long one."""
    short, long = (
        work_rate(settings.performance, seen.demand, seen.now_s, span)
        for span in (settings.method.short_s, settings.method.long_s)
    )
    return short >= long


def certain_work_growth(settings: Settings, seen: Observation) -> float:
    """How much that rate will at least have grown one start-up ahead, if it is on a ramp."""
    method = settings.method
    recent = seen.demand.spans(seen.now_s, TREND_STEP_S, method.long_s // TREND_STEP_S)
    values = [work_of(settings.performance, one) / TREND_STEP_S for one in recent]
    # The short window lags by half its length.
    return certain_growth(values, TREND_STEP_S, seen.prefill.startup_s + method.short_s / 2)


def work_rate(model: PerformanceModel, demand: DemandHistory, now_s: float, span_s: float) -> float:
    """Seconds of prefill that arrived per second over the last `span_s`, or since the first bin if that is shorter."""
    known_s = now_s - (demand.first_second if demand.first_second is not None else now_s)
    # Ten seconds at least: a first burst after silence is no rate.
    span_s = min(span_s, max(10.0, known_s))
    return work_of(model, demand.total(now_s - span_s, now_s)) / span_s


def work_of(model: PerformanceModel, summed: Bin) -> float:
    """Seconds of prefill in a bin."""
    return model.prefill_work_s(summed.steps, summed.new_tokens, summed.square_tokens)


def _replay(settings: Settings, seen: Observation, base: float, guess: int) -> int:
    """Replay the records of the last minutes, compressed in time so that their rate is the expected one."""
    method = settings.method
    records = seen.demand.arrivals(seen.now_s - method.replay_s, method.replay_records)
    if base <= 0:
        return 0
    if not records:
        return ceil(base * method.prefill_prior)  # other regions' demand: how it bunches is not known here
    prefill_s = settings.performance.prefill_s
    services = [prefill_s(one.new_tokens, one.cached_tokens) for one in records]
    span_s = max(seen.now_s - records[0].arrival_s, 1.0)
    # Sampled records stand for several: compression restores their number.
    recorded = sum(services) / span_s
    jobs = build_jobs(settings, records, services, speed=base / recorded)
    share = settings.objectives.ttft_miss_budget * method.replay_share
    return smallest_pool(jobs, share, guess, ceil(base), settings.prefill.maximum)


def build_jobs(settings: Settings, records: list[Arrival], services: list[float], speed: float) -> list[Job]:
    """Records as jobs, `speed` times as fast. Prompts that no pool size could serve in time are left out."""
    jobs = []
    base_s, per_token_s = settings.handover.base_s, settings.handover.per_token_s
    start_s = records[0].arrival_s
    for record, service in zip(records, services, strict=True):
        slack_s = record.target_s - base_s - per_token_s * (record.new_tokens + record.cached_tokens)
        if service <= slack_s:
            arrival_s = (record.arrival_s - start_s) / speed
            jobs.append((arrival_s, service, latest_start_s(arrival_s, slack_s, service), record.target_s))
    return jobs


def _drain_workers(settings: Settings, seen: Observation, base: float) -> float:
    """Extra workers for the queue that will still be there when a worker that is asked for now is ready."""
    gauges, startup_s = seen.gauges, max(seen.prefill.startup_s, 1.0)
    queued_s = settings.performance.prefill_work_s(
        gauges.queued_steps, gauges.queued_tokens, gauges.queued_square_tokens
    )
    left_s = queued_s + (base - seen.prefill.desired) * startup_s
    return max(0.0, min(left_s, queued_s)) / startup_s

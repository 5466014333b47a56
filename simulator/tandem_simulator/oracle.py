"""The clairvoyant plan: the fewest worker-hours found that still meet the objectives, knowing every request in advance.

A search, so an upper bound of the true optimum. Prefill follows the true work rate, smoothed over one of a few windows
and raised by a factor; decode follows the load that a fleet without queues would hold, raised by another. Both factors
are bisected on whole simulated runs; then random stretches are trimmed by a worker as long as the objectives hold.
Workers are asked for one start-up ahead, so gaps shorter than a start stay closed, as in any fleet.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tandem_core.targets import tpot_limited_workers
from tandem_simulator.conditions import Policy
from tandem_simulator.outcome import Outcome
from tandem_simulator.policies.planned import SLOT_S, PlannedPolicy, Timetable
from tandem_simulator.scenario import Scenario, run_policy
from tandem_simulator.simulation import Run
from tandem_simulator.traffic.model import Floats
from tandem_simulator.workload import Workload

WINDOWS_S = (30, 120)
BISECTIONS = 5
TRIMS = 24
LEAD = 1.2  # of the mean start-up: two standard deviations above it
AMPLE = 2.0
Result = tuple[Outcome, Run, Policy]


@dataclass
class Search:
    """Runs plans. One that cannot reach its target any more is not run to the end."""

    scenario: Scenario
    workload: Workload
    on_trial: Callable[[int], None]
    trials: int = 0

    def __post_init__(self) -> None:
        self._base = self.scenario.conditions(self.workload)
        self._scored = int(np.sum(self.workload.trace.arrival_s >= self._base.unscored_s)) or len(self.workload)

    @property
    def target(self) -> float:
        """Attainment that a plan must reach."""
        objectives = self.scenario.fleet.objectives
        return min(objectives.ttft_share, objectives.tpot_share)

    def run(self, table: Timetable, target: float | None = None) -> Result:
        """Simulate one plan; below `target` the result is partial."""
        self.trials += 1
        self.on_trial(self.trials)
        policy = PlannedPolicy(table, LEAD * self.scenario.startup.mean_s)
        give_up = None if target is None else int((1.0 - target) * self._scored)
        conditions = replace(self._base, initial=policy.first_sizes(), acts_from_s=0.0, give_up_after=give_up)
        return run_policy(self.scenario, self.workload, lambda _: policy, conditions)

    def bisect(self, build: Callable[[float], Timetable], low: float, high: float, target: float) -> float:
        """The smallest factor whose plan reaches `target`; `high` if none does."""
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            reached = self.run(build(middle), target)[0].attainment >= target
            low, high = (low, middle) if reached else (middle, high)
        return high


def search_oracle(scenario: Scenario, workload: Workload, on_trial: Callable[[int], None]) -> Result:
    """The cheapest plan found; when none reaches the objectives, the most generous one tried."""
    search = Search(scenario, workload, on_trial)
    work, ample = _work_per_s(workload), _ample_decode(scenario, workload)
    plans = []
    for window_s in WINDOWS_S:
        build = partial(_with_prefill, scenario, work, ample, window_s)
        factor = search.bisect(build, 0.6, 3.0, (1.0 + search.target) / 2)
        plans.append((sum(_held(build(factor).prefill, scenario)), window_s, factor))
    _, window_s, factor = min(plans)
    generous = _with_prefill(scenario, work, ample, window_s, factor)
    load = _decode_load(scenario, workload, search.run(generous)[1], len(generous.prefill))

    def with_decode(raised: float) -> Timetable:
        return replace(generous, decode=_ceil(load * raised, scenario, "decode"))

    decode = with_decode(search.bisect(with_decode, 0.8, 1.6, (1.0 + 2.0 * search.target) / 3.0)).decode

    def with_prefill(raised: float) -> Timetable:
        return replace(_with_prefill(scenario, work, ample, window_s, raised), decode=decode)

    # What one pool left of the budget, the other may use.
    return _trim(search, with_prefill(search.bisect(with_prefill, 0.8 * factor, 1.05 * factor, search.target)))


def search_static(scenario: Scenario, workload: Workload, on_trial: Callable[[int], None]) -> Result:
    """The cheapest fleet of constant size, in hindsight; when none reaches the objectives, the largest tried."""
    search = Search(scenario, workload, on_trial)
    work, ample = _work_per_s(workload), _ample_decode(scenario, workload)
    slots = len(_slots(work))
    peak = 3 * int(np.ceil(_slots(np.convolve(work, np.ones(30) / 30, mode="same")).max())) + 2

    def fixed(prefill: float, decode: float) -> Timetable:
        return Timetable((max(1, round(prefill)),) * slots, (max(1, round(decode)),) * slots)

    prefill = _smallest(search, lambda size: fixed(size, ample), peak, (1.0 + search.target) / 2)
    decode = _smallest(search, lambda size: fixed(prefill, size), ample, search.target)
    return search.run(fixed(prefill, decode))


def _smallest(search: Search, build: Callable[[int], Timetable], most: int, target: float) -> int:
    """The fewest workers, up to `most`, whose plan reaches `target`."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        reached = search.run(build(middle), target)[0].attainment >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def _trim(search: Search, table: Timetable) -> Result:
    """Take a worker away from random stretches while the plan holds."""
    rng = np.random.default_rng(search.scenario.seed)
    best = search.run(table)
    if best[0].attainment < search.target:
        return best
    slots = len(table.prefill)
    width = max(2, int(2 * search.scenario.startup.mean_s / SLOT_S))
    for _ in range(TRIMS):
        start = int(rng.integers(0, max(1, slots - width // 2)))
        stop = start + int(rng.integers(width, max(width + 1, slots // 2)))
        role = "prefill" if rng.random() < 0.7 else "decode"
        row = getattr(table, role)
        trimmed = tuple(max(1, size - 1) if start <= place < stop else size for place, size in enumerate(row))
        candidate = replace(table, prefill=trimmed) if role == "prefill" else replace(table, decode=trimmed)
        result = search.run(candidate, search.target)
        if result[0].attainment >= search.target and result[0].gpu_hours < best[0].gpu_hours:
            table, best = candidate, result
    return best


def _work_per_s(workload: Workload) -> Floats:
    """Seconds of prefill that arrive in each second."""
    seconds = workload.trace.arrival_s.astype(np.int64)
    length = int(workload.trace.span_s) + 1
    return np.asarray(np.bincount(seconds, weights=workload.isolated_s, minlength=length), dtype=np.float64)


def _with_prefill(scenario: Scenario, work: Floats, decode: int, window_s: int, factor: float) -> Timetable:
    smooth = np.convolve(work, np.ones(window_s) / window_s, mode="same")
    prefill = _ceil(_slots(smooth) * factor, scenario, "prefill")
    return Timetable(prefill, (decode,) * len(prefill))


def _slots(per_second: Floats) -> Floats:
    """The largest value of each slot."""
    size = int(SLOT_S)
    padded = np.pad(per_second, (0, -len(per_second) % size), mode="edge")
    return np.asarray(padded.reshape(-1, size).max(axis=1))


def _ceil(sizes: Floats, scenario: Scenario, role: str) -> tuple[int, ...]:
    limits = scenario.fleet.prefill if role == "prefill" else scenario.fleet.decode
    return tuple(np.clip(np.ceil(sizes - 1e-9), limits.awake, limits.maximum).astype(int).tolist())


def _held(row: tuple[int, ...], scenario: Scenario) -> list[int]:
    """The timetable with gaps closed, as the planned policy keeps it."""
    lead = round(LEAD * scenario.startup.mean_s / SLOT_S)
    return [max(row[place : place + lead + 1]) for place in range(len(row))]


def _ample_decode(scenario: Scenario, workload: Workload) -> int:
    """So many decode workers that nothing waits for one."""
    first = scenario.conditions(workload).initial.decode
    rates = _slots(
        np.bincount(workload.trace.arrival_s.astype(np.int64), weights=workload.trace.output_tokens).astype(float)
    )
    smooth = np.convolve(rates, np.ones(30) / 30, mode="same")
    growth = float(smooth.max() / max(1e-9, smooth[:30].mean()))
    return min(scenario.fleet.decode.maximum, int(AMPLE * first * max(1.0, growth)) + 4)


def _decode_load(scenario: Scenario, workload: Workload, run: Run, slots: int) -> Floats:
    """Decode workers that a fleet without queues needs, as a real number per slot."""
    joined, left = np.array(run.journal.joined_s), np.array(run.journal.last_token_s)
    good = ~np.isnan(joined) & ~np.isnan(left)
    held = (workload.trace.input_tokens + workload.trace.output_tokens).astype(np.float64)
    sequences = _occupancy(joined[good], left[good], np.ones(int(good.sum())), slots)
    tokens = _occupancy(joined[good], left[good], held[good], slots)
    spec = scenario.engine()
    tpot_s = 0.95 * scenario.fleet.objectives.tpot_s
    by_tpot = np.array([tpot_limited_workers(spec.model, b, k, tpot_s) for b, k in zip(sequences, tokens, strict=True)])
    return np.asarray(np.maximum.reduce([tokens / spec.kv_capacity_tokens, sequences / spec.max_sequences, by_tpot]))


def _occupancy(start_s: Floats, end_s: Floats, weight: Floats, slots: int) -> Floats:
    """The largest sum of weights held at once in each slot, seen at whole seconds."""
    length = int(slots * SLOT_S) + 1
    change = np.zeros(length + 1)
    np.add.at(change, np.minimum(start_s.astype(np.int64), length), weight)
    np.add.at(change, np.minimum(end_s.astype(np.int64) + 1, length), -weight)
    return _slots(np.cumsum(change)[: length - 1])

"""Tandem's autoscaler: feeds the production decision code what the routers would report."""

from typing import Any

import numpy as np

from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.decision import Decision
from tandem_operator.autoscale.demand import Arrival, Bin, DemandHistory, Gauges
from tandem_operator.autoscale.memory import Memory
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.settings import ROUND_S, Settings
from tandem_simulator.conditions import Sizes
from tandem_simulator.journal import Journal
from tandem_simulator.meters import PoolView, View
from tandem_simulator.workload import Workload, prefill_steps

RECORDS_PER_S = 50


class TandemPolicy:
    """Keeps the demand history and the memory of one fleet, as the operator does."""

    name = "tandem"
    interval_s = ROUND_S
    sees_staleness = True

    def __init__(self, settings: Settings, workload: Workload, journal: Journal, startup_s: float) -> None:
        self._settings, self._workload, self._journal = settings, workload, journal
        self._startup_s = {"prefill": startup_s, "decode": startup_s}
        self._steps = prefill_steps(workload.new, settings.performance.step_tokens)
        self._demand, self._memory = DemandHistory(), Memory()
        self._reported_s = 0
        self._ended = 0
        self._decisions: list[Decision] = []

    def decide(self, view: View) -> Sizes:
        """Feed what is new, then ask the production code."""
        if view.newest_s == view.now_s:
            self._report(int(view.now_s), view)
        decision, self._memory = decide(self._settings, self._observe(view), self._memory)
        self._decisions.append(decision)
        return Sizes(decision.prefill.workers, decision.decode.workers)

    def explain(self) -> list[dict[str, Any]]:
        """Every decision as it would stand in status."""
        return [{"at_s": one.at_s, **one.to_status()} for one in self._decisions]

    def _observe(self, view: View) -> Observation:
        return Observation(
            now_s=view.now_s,
            demand=self._demand,
            gauges=Gauges(
                view.queued_steps, view.queued_tokens, view.queued_square, float(view.sequences), view.kv_tokens
            ),
            newest_s=view.newest_s,
            sources_expected=1,
            sources_fresh=1,
            prefill=self._pool("prefill", view.prefill),
            decode=self._pool("decode", view.decode),
        )

    def _pool(self, role: str, pool: PoolView) -> PoolState:
        """Start-up time as measured: a smoothed mean, as the operator would keep."""
        if pool.last_startup_s is not None:
            self._startup_s[role] += 0.3 * (pool.last_startup_s - self._startup_s[role])
        return PoolState(pool.desired, pool.ready, 0.0, self._startup_s[role])

    def _report(self, until_s: int, view: View) -> None:
        """Bins and records of the whole seconds since the last report. What is held is looked at once per report."""
        seconds = range(self._reported_s, until_s)
        if not seconds:
            return
        bins = {second: Bin(second, held_s=view.sequences, held_kv_s=view.kv_tokens) for second in seconds}
        self._report_arrivals(bins)
        self._report_ended(bins, until_s)
        for one in bins.values():
            self._demand.add_bin(one)
        self._demand.trim(until_s)
        self._reported_s = until_s

    def _report_arrivals(self, bins: dict[int, Bin]) -> None:
        trace = self._workload.trace
        for second, one in bins.items():
            low, end = (int(place) for place in np.searchsorted(trace.arrival_s, (second, second + 1)))
            if end == low:
                continue
            part = slice(low, end)
            one.arrivals = float(end - low)
            one.steps = float(self._steps[part].sum())
            one.new_tokens = float(self._workload.new[part].sum())
            one.square_tokens = float(self._workload.square[part].sum())
            one.prompt_tokens = float(trace.input_tokens[part].sum())
            self._demand.add_arrivals(self._records(low, end))

    def _records(self, low: int, end: int) -> list[Arrival]:
        """Records of one second: all, or an even sample of fifty that stand for the rest."""
        count = end - low
        chosen = range(low, end) if count <= RECORDS_PER_S else np.linspace(low, end - 1, RECORDS_PER_S).astype(int)
        weight = max(1.0, count / RECORDS_PER_S)
        work, times = self._workload, self._workload.trace.arrival_s
        return [
            Arrival(float(times[i]), int(work.new[i]), int(work.cached[i]), float(work.target_s[i]), weight)
            for i in chosen
        ]

    def _report_ended(self, bins: dict[int, Bin], until_s: int) -> None:
        ended, trace = self._journal.ended, self._workload.trace
        while self._ended < len(ended) and ended[self._ended].at_s < until_s:
            one = ended[self._ended]
            self._ended += 1
            found = bins[int(one.at_s)]
            prompt, output = int(trace.input_tokens[one.request]), int(trace.output_tokens[one.request])
            found.finished += 1
            found.prefill_misses += one.prefill_miss
            found.decode_misses += one.decode_miss
            found.kv_token_s += one.decode_s * (prompt + output)
            found.kv_square_s += one.decode_s * (prompt + output) ** 2
            found.ended_prompt_tokens += prompt

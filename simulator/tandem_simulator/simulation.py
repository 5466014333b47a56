"""One run: a workload, an engine, a fleet that a policy sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tandem_simulator.conditions import Conditions, Policy, Scene
from tandem_simulator.decode_stage import DecodeStage
from tandem_simulator.events import Agenda
from tandem_simulator.journal import Journal, empty_journal
from tandem_simulator.meters import PoolView, View
from tandem_simulator.pool import Pool
from tandem_simulator.prefill_stage import PrefillStage
from tandem_simulator.workload import Workload

OVERRUN_S = 7200.0  # after the last arrival; what has not ended by then never will
E = TypeVar("E")


@dataclass(frozen=True)
class Run:
    """What came out.

    Attributes:
        sizes: (time, prefill ready, prefill asked, decode ready, decode asked) per tick.
        worker_s: worker-seconds per role until the last arrival.
    """

    journal: Journal
    sizes: list[tuple[float, int, int, int, int]]
    prefill_worker_s: float
    decode_worker_s: float
    starts: int
    horizon_s: float


class Simulation:
    """Wires the stages, and runs the clock."""

    def __init__(self, workload: Workload, conditions: Conditions) -> None:
        self.agenda, self.journal = Agenda(), empty_journal(len(workload))
        self._workload, self._conditions = workload, conditions
        scene = Scene(workload, conditions, self.agenda, self.journal, np.random.default_rng(conditions.seed))
        self.prefill = PrefillStage(scene)
        self.decode = DecodeStage(scene, self.prefill)
        self.prefill.on_prefilled = self.decode.expect
        self.prefill.add_ready(0.0, conditions.initial.prefill)
        self.decode.add_ready(0.0, conditions.initial.decode)
        self._last_view_s = self._last_busy_s = self._last_tokens = 0.0
        self._missed = self._judged = 0
        self._sizes: list[tuple[float, int, int, int, int]] = []
        self.horizon_s = workload.trace.span_s
        for time_s, role in conditions.faults.kills:
            self.agenda.at(time_s, self._kill, role)

    def run(self, policy: Policy, on_progress: Callable[[int], None] | None = None) -> Run:
        """Serve every request, and return what happened. `on_progress` hears how many have come."""
        self.agenda.at(self._conditions.acts_from_s, self._tick, policy)
        arrivals = self._workload.trace.arrival_s.tolist()
        agenda, arrive = self.agenda, self.prefill.arrive
        next_s = agenda.next_s()
        for number, at_s in enumerate(arrivals):
            while next_s < at_s:
                agenda.run_next()
                next_s = agenda.next_s()
            arrive(at_s, number)
            next_s = agenda.next_s()
            if not number & 0xFFF:
                if on_progress is not None:
                    on_progress(number)
                if self._is_hopeless():
                    return self._result()
        self._run_out(len(arrivals))
        return self._result()

    def _is_hopeless(self) -> bool:
        """More scored requests have missed than the caller can use."""
        limit = self._conditions.give_up_after
        if limit is None:
            return False
        ended, arrival_s = self.journal.ended, self._workload.trace.arrival_s
        for one in ended[self._judged :]:
            scored = arrival_s[one.request] >= self._conditions.unscored_s
            self._missed += bool(scored and (one.prefill_miss or one.decode_miss))
        self._judged = len(ended)
        return self._missed > limit

    def _run_out(self, requests: int) -> None:
        """After the last arrival, until every request has ended."""
        ended = self.journal.ended
        while len(ended) < requests and self.agenda.next_s() < self.horizon_s + OVERRUN_S:
            self.agenda.run_next()

    def _tick(self, now_s: float, policy: Policy) -> None:
        view = self.view(now_s)
        if policy.sees_staleness or view.newest_s == now_s:
            wanted = policy.decide(view)
            self.prefill.resize(now_s, wanted.prefill)
            self.decode.resize(now_s, wanted.decode)
        prefill, decode = self.prefill.pool, self.decode.pool
        self._sizes.append((now_s, len(prefill.ready), prefill.size, len(decode.ready), decode.size))
        self.agenda.at(now_s + policy.interval_s, self._tick, policy)

    def _kill(self, now_s: float, role: str) -> None:
        """The oldest ready worker of a role dies: it is also the fullest."""
        if role == "prefill" and self.prefill.pool.ready:
            self.prefill.kill(now_s, self.prefill.pool.ready[0])
        if role == "decode" and self.decode.pool.ready:
            self.decode.kill(now_s, self.decode.pool.ready[0])

    def view(self, now_s: float) -> View:
        """What can be seen now, and since the last look."""
        since_s = max(now_s - self._last_view_s, 1e-9)
        busy_s, tokens = self.prefill.busy_seconds(now_s), self._decoded_tokens(now_s)
        busy, rate = (busy_s - self._last_busy_s) / since_s, (tokens - self._last_tokens) / since_s
        self._last_view_s, self._last_busy_s, self._last_tokens = now_s, busy_s, tokens
        spec, stage = self._conditions.spec, self.prefill
        engines = [one.engine for one in (*self.decode.pool.ready, *self.decode.pool.draining)]
        sequences = sum(engine.sequences for engine in engines) + len(self.decode.waiting)
        reserved = float(sum(engine.reserved_tokens for engine in engines) + self.decode.waiting_tokens)
        usage = sum(
            max(one.reserved_tokens / spec.kv_capacity_tokens, one.sequences / spec.max_sequences) for one in engines
        )
        slowest = max((spec.model.decode_step_s(one.sequences, one.kv_tokens) for one in engines), default=0.0)
        queued_s = spec.model.prefill_work_s(stage.queued_steps, stage.queued_tokens, stage.queued_square)
        return View(
            now_s=now_s,
            newest_s=self._conditions.faults.newest_data_s(now_s),
            prefill=_pool_view(stage.pool, busy, len(stage.queue) + stage.busy),
            decode=_pool_view(self.decode.pool, usage, sequences),
            sequences=sequences,
            kv_tokens=reserved,
            decode_tokens_per_s=rate,
            queued_steps=stage.queued_steps,
            queued_tokens=stage.queued_tokens,
            queued_square=stage.queued_square,
            predicted_ttft_s=queued_s / max(1, len(stage.pool.ready)),
            tpot_s=slowest,
        )

    def _decoded_tokens(self, now_s: float) -> float:
        """Tokens that all decode workers, living or gone, have produced."""
        pool = self.decode.pool
        for worker in (*pool.ready, *pool.draining):
            worker.engine.advance(now_s)
        return sum(worker.engine.tokens for worker in (*pool.ready, *pool.draining, *pool.gone))

    def _result(self) -> Run:
        prefill, decode = self.prefill.pool, self.decode.pool
        return Run(
            self.journal,
            self._sizes,
            prefill.worker_seconds(self.horizon_s),
            decode.worker_seconds(self.horizon_s),
            prefill.starts + decode.starts,
            self.horizon_s,
        )


def _pool_view(pool: Pool[E], usage: float, in_flight: int) -> PoolView:
    return PoolView(pool.desired, len(pool.ready), len(pool.starting), usage, in_flight, pool.last_startup_s)

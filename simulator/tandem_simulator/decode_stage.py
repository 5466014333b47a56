"""Arrived KV to last token: admission to decode workers, and their batches."""

from collections import deque

from tandem_core.performance import MS_PER_S
from tandem_simulator.conditions import Scene
from tandem_simulator.engine.decode import NEVER, DecodeWorker
from tandem_simulator.journal import Ended
from tandem_simulator.pool import Pool, Worker
from tandem_simulator.prefill_stage import PrefillStage

TPOT_FILL = 0.95  # admit only while the step stays this much below the objective


class DecodeStage:
    """Waiting requests and workers.

    A request goes to the oldest worker that can hold it to its end, within KV, slots and TPOT: the load gathers at
    one end of the pool, and the other end can leave. `waiting` keeps the order in which KV arrived.
    """

    def __init__(self, scene: Scene, back_to_prefill: PrefillStage) -> None:
        workload, agenda, given = scene.workload, scene.agenda, scene.conditions
        spec = given.spec
        self._prompt, self._output = workload.trace.input_tokens.tolist(), workload.trace.output_tokens.tolist()
        self._arrival, self._target = workload.trace.arrival_s.tolist(), workload.target_s.tolist()
        self._spec, self._agenda, self._journal = spec, agenda, scene.journal
        self._transfer_s = (spec.transfer_base_s, spec.transfer_per_token_s)
        self._tpot_s, self._drain_s = given.tpot_s, given.drain_s
        self._back = back_to_prefill
        self.waiting: deque[int] = deque()
        self.waiting_tokens = 0
        self.pool: Pool[DecodeWorker] = Pool(
            given.startup,
            scene.rng,
            lambda now_s: DecodeWorker(spec.model, now_s),
            lambda engine: engine.sequences,
            lambda ready_s, worker: agenda.at(ready_s, self._start_over, worker),
            lambda now_s, worker: agenda.at(now_s + given.drain_s, self._expire, worker),
        )

    def expect(self, now_s: float, request: int) -> None:
        """A prompt is prefilled: its KV is on the way."""
        base_s, per_token_s = self._transfer_s
        self._agenda.at(now_s + base_s + self._prompt[request] * per_token_s, self.arrive, request)

    def arrive(self, now_s: float, request: int) -> None:
        """KV is there."""
        if self._prompt[request] + self._output[request] > self._spec.kv_capacity_tokens:
            self._fail(now_s, request)
            return
        worker = None if self.waiting else self._find(self._prompt[request] + self._output[request])
        if worker is None:
            self.waiting.append(request)
            self.waiting_tokens += self._prompt[request]
        else:
            self._join(worker, now_s, request)

    def resize(self, now_s: float, workers: int) -> None:
        """Change the pool's size."""
        if self.pool.resize(now_s, workers):
            self._admit(now_s)

    def add_ready(self, now_s: float, workers: int) -> None:
        """Workers that are there from the start."""
        self.pool.add_ready(now_s, workers)

    def kill(self, now_s: float, worker: Worker[DecodeWorker]) -> None:
        """A worker dies: streams that had begun fail, the others are prefilled again; the Deployment makes another."""
        self._lose(now_s, worker)
        self.resize(now_s, self.pool.desired)
        self._admit(now_s)

    def lose_gpus(self, now_s: float) -> None:
        """Every worker dies at once, and none starts."""
        for worker in self.pool.lose_gpus(now_s):
            self.kill(now_s, worker)

    def take_waiting(self) -> list[int]:
        """Everybody whose KV came and found no worker, to be prefilled again elsewhere."""
        taken, self.waiting, self.waiting_tokens = list(self.waiting), deque(), 0
        return taken

    def _find(self, tokens: int) -> Worker[DecodeWorker] | None:
        spec, model = self._spec, self._spec.model
        slots, room = spec.max_sequences, spec.kv_capacity_tokens - tokens
        limit_ms = self._tpot_s * MS_PER_S * TPOT_FILL - model.d0_ms - model.d1_ms - model.d2_ms * tokens
        d1_ms, d2_ms = model.d1_ms, model.d2_ms
        for worker in self.pool.ready:
            engine = worker.engine
            batch, held = engine.sequences, engine.reserved_tokens
            if batch < slots and held <= room and (d1_ms * batch + d2_ms * held <= limit_ms or batch == 0):
                return worker
        return None

    def _join(self, worker: Worker[DecodeWorker], now_s: float, request: int) -> None:
        engine = worker.engine
        journal = self._journal
        journal.joined_s[request] = now_s
        journal.first_token_s[request] = engine.join(request, self._prompt[request], self._output[request], now_s)
        self._set_wake(worker)

    def _set_wake(self, worker: Worker[DecodeWorker]) -> None:
        """Look again when the next request ends. An earlier look that proves too early costs little, and stays."""
        engine = worker.engine
        next_s = engine.next_end_s()
        if next_s < engine.wake_s:
            engine.wake_s = next_s
            self._agenda.at(next_s, self._wake, worker)

    def _wake(self, now_s: float, worker: Worker[DecodeWorker]) -> None:
        engine = worker.engine
        if engine.wake_s != now_s:
            return
        engine.wake_s = NEVER
        engine.advance(now_s)
        ended = engine.take_ended()
        for request in ended:
            self._end(now_s, request)
        self._set_wake(worker)
        if not ended:
            return
        if worker.state == "draining" and not engine.sequences:
            self.pool.retire(worker, now_s)
        elif self.waiting:
            self._admit(now_s)

    def _admit(self, now_s: float) -> None:
        """Let in whom the workers can hold, in order."""
        while self.waiting:
            request = self.waiting[0]
            worker = self._find(self._prompt[request] + self._output[request])
            if worker is None:
                return
            self.waiting.popleft()
            self.waiting_tokens -= self._prompt[request]
            self._join(worker, now_s, request)

    def _end(self, now_s: float, request: int) -> None:
        """The last token has left; judge the request as its client would."""
        journal = self._journal
        journal.last_token_s[request] = now_s
        joined_s = journal.joined_s[request]
        # Its first token was foretold for the batch that it joined; the batch may have shrunk since.
        first_s = journal.first_token_s[request] = min(journal.first_token_s[request], now_s)
        tokens = self._output[request]
        slow = tokens > 1 and now_s - first_s > self._tpot_s * (tokens - 1)
        late = first_s - self._arrival[request] > self._target[request]
        waited_for_decode_s = joined_s - journal.prefill_done_s[request]
        decode_fault = late and waited_for_decode_s > 0.5 * self._target[request]
        journal.ended.append(Ended(now_s, request, late and not decode_fault, slow or decode_fault, now_s - joined_s))

    def _fail(self, now_s: float, request: int) -> None:
        self._journal.failed[request] = True
        self._journal.ended.append(Ended(now_s, request, False, True, 0.0))

    def _lose(self, now_s: float, worker: Worker[DecodeWorker]) -> None:
        lost = worker.engine.abandon()
        self.pool.retire(worker, now_s)
        for request in lost:
            if self._journal.first_token_s[request] <= now_s:
                self._fail(now_s, request)
            else:
                self._back.arrive(now_s, request)

    def _expire(self, now_s: float, worker: Worker[DecodeWorker]) -> None:
        """The grace period of a drain is over. A worker that was taken back, or drains anew, is left alone."""
        if worker.state == "draining" and worker.draining_since_s <= now_s - self._drain_s + 1e-6:
            self._lose(now_s, worker)

    def _start_over(self, now_s: float, worker: Worker[DecodeWorker]) -> None:
        if self.pool.on_ready(worker):
            worker.engine.advance(now_s)
            self._admit(now_s)

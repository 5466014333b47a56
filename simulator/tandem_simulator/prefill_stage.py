"""Arrival to prefilled prompt: one late-binding queue in front of all prefill workers."""

from collections.abc import Callable
from heapq import heappop, heappush

from tandem_core.discipline import DeadlineQueue
from tandem_core.performance import MS_PER_S
from tandem_simulator.conditions import Scene
from tandem_simulator.pool import Pool, Worker


class PrefillEngine:
    """Runs one batch of prompts at a time."""

    __slots__ = ("batch",)

    def __init__(self, _now_s: float) -> None:
        self.batch: list[int] = []


class PrefillStage:
    """Queue and workers. `on_prefilled(now, request)` takes over afterwards.

    Attributes:
        busy_s: worker-seconds of prefill done, up to `counted_s`.
        queued_steps, queued_tokens, queued_square: sums over what waits.
    """

    def __init__(self, scene: Scene) -> None:
        workload, spec = scene.workload, scene.conditions.spec
        model = spec.model
        self._p0_s, self._p1_s, self._p2_s = (ms / MS_PER_S for ms in (model.p0_ms, model.p1_ms, model.p2_ms))
        self._step_tokens = model.step_tokens
        self._new, self._square = workload.new.tolist(), workload.square.tolist()
        handover_s = spec.transfer_base_s + workload.trace.input_tokens * spec.transfer_per_token_s
        latest = workload.trace.arrival_s + workload.target_s - workload.isolated_s - handover_s
        self._latest, self._target = latest.tolist(), workload.target_s.tolist()
        self._agenda, self._done_s = scene.agenda, scene.journal.prefill_done_s
        self._idle: list[tuple[int, Worker[PrefillEngine]]] = []
        self.queue: DeadlineQueue[int] = DeadlineQueue()
        self.busy_s = self.counted_s = 0.0
        self.busy = 0
        self.queued_steps = self.queued_tokens = self.queued_square = 0.0
        self.on_prefilled: Callable[[float, int], None] = lambda _now_s, _request: None
        self.pool: Pool[PrefillEngine] = Pool(
            scene.conditions.startup,
            scene.rng,
            PrefillEngine,
            lambda engine: len(engine.batch),
            lambda ready_s, worker: scene.agenda.at(ready_s, self._start_over, worker),
            lambda *_: None,
        )

    @property
    def running_tokens(self) -> float:
        """Prompt tokens in the batches that run."""
        return float(sum(self._new[request] for one in self.pool.ready for request in one.engine.batch))

    def set_prompt(self, request: int, new: int, cached: int) -> None:
        """What a request, not yet here, has to compute: another number than the workload said, by another cache."""
        self._new[request], self._square[request] = new, float(new) * (new + 2.0 * cached)

    def arrive(self, now_s: float, request: int) -> None:
        """A request comes, or comes back after a failure."""
        worker = self._take_idle()
        if worker is not None:
            self._begin(worker, now_s, request)
            return
        self.queue.push(request, self._latest[request], self._target[request])
        self._count_queued(request, 1)

    def resize(self, now_s: float, workers: int) -> None:
        """Change the pool's size."""
        for worker in self.pool.resize(now_s, workers):
            if not worker.engine.batch:
                self._serve(now_s, worker)

    def add_ready(self, now_s: float, workers: int) -> None:
        """Workers that are there from the start."""
        self.pool.add_ready(now_s, workers)
        for worker in self.pool.ready[-workers:] if workers else []:
            self._serve(now_s, worker)

    def kill(self, now_s: float, worker: Worker[PrefillEngine]) -> None:
        """A worker dies; its prompts wait again, and the Deployment makes another."""
        lost, worker.engine.batch = worker.engine.batch, []
        self._count_busy(now_s, -1 if lost else 0)
        self.pool.retire(worker, now_s)
        for request in lost:
            self.arrive(now_s, request)
        self.resize(now_s, self.pool.desired)

    def lose_gpus(self, now_s: float) -> None:
        """Every worker dies at once, and none starts."""
        for worker in self.pool.lose_gpus(now_s):
            self.kill(now_s, worker)

    def take_queue(self, now_s: float) -> list[int]:
        """Everybody who waits, out of the queue, to be served elsewhere."""
        taken = [self.queue.pop(now_s) for _ in range(len(self.queue))]
        for request in taken:
            self._count_queued(request, -1)
        return taken

    def busy_seconds(self, now_s: float) -> float:
        """Worker-seconds of prefill done until now."""
        self._count_busy(now_s, 0)
        return self.busy_s

    def _count_busy(self, now_s: float, change: int) -> None:
        self.busy_s += self.busy * (now_s - self.counted_s)
        self.counted_s = now_s
        self.busy += change

    def _count_queued(self, request: int, sign: int) -> None:
        tokens = self._new[request]
        self.queued_steps += sign * (1 if tokens <= self._step_tokens else -(-tokens // self._step_tokens))
        self.queued_tokens += sign * tokens
        self.queued_square += sign * self._square[request]

    def _take_idle(self) -> Worker[PrefillEngine] | None:
        """The oldest idle worker: work gathers at one end, and the other can leave."""
        while self._idle:
            _, worker = heappop(self._idle)
            if worker.state == "ready" and not worker.engine.batch:
                return worker
        return None

    def _serve(self, now_s: float, worker: Worker[PrefillEngine]) -> None:
        """A worker is free: give it what can wait least, or let it wait."""
        if worker.state == "draining":
            self.pool.retire(worker, now_s)
        elif self.queue:
            request = self.queue.pop(now_s)
            self._count_queued(request, -1)
            self._begin(worker, now_s, request)
        else:
            heappush(self._idle, (worker.number, worker))

    def _begin(self, worker: Worker[PrefillEngine], now_s: float, first: int) -> None:
        """Start a batch: the first prompt, and those after it in the queue that fit into the step."""
        batch, tokens, square = [first], self._new[first], self._square[first]
        queue = self.queue
        while queue:
            request = queue.peek(now_s)
            if tokens + self._new[request] > self._step_tokens:
                break
            queue.pop(now_s)
            self._count_queued(request, -1)
            batch.append(request)
            tokens += self._new[request]
            square += self._square[request]
        worker.engine.batch = batch
        self._count_busy(now_s, 1)
        steps = -(-tokens // self._step_tokens)
        took_s = self._p0_s * steps + self._p1_s * tokens + self._p2_s * square
        self._agenda.at(now_s + took_s, self._end, (worker, batch))

    def _end(self, now_s: float, subject: tuple[Worker[PrefillEngine], list[int]]) -> None:
        worker, batch = subject
        if worker.engine.batch is not batch:
            return  # it died meanwhile
        worker.engine.batch = []
        self._count_busy(now_s, -1)
        for request in batch:
            self._done_s[request] = now_s
            self.on_prefilled(now_s, request)
        self._serve(now_s, worker)

    def _start_over(self, now_s: float, worker: Worker[PrefillEngine]) -> None:
        if self.pool.on_ready(worker):
            self._serve(now_s, worker)

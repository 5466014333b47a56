"""One pool of simulated workers: created, starting, ready, draining, gone; and what that costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

E = TypeVar("E")


@dataclass(eq=False, slots=True)
class Worker(Generic[E]):
    """One worker. `engine` does the work; `number` orders workers by age."""

    number: int
    engine: E
    created_s: float
    ready_s: float
    state: str = "starting"
    gone_s: float | None = None
    startup_s: float = 0.0
    draining_since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Startup:
    """How long workers take to start, and how often they fail to.

    Attributes:
        mean_s: creation to ready; each start is drawn from N(mean, 10 %).
        fail_share: starts that fail after their time and begin again.
        slow_factor, slow_share: that share of starts takes so many times as long.
    """

    mean_s: float = 120.0
    fail_share: float = 0.0
    slow_factor: float = 1.0
    slow_share: float = 0.0

    def draw_s(self, rng: np.random.Generator) -> float:
        """Seconds of one start, repeated starts included."""
        total_s = 0.0
        while True:
            one_s = max(0.1 * self.mean_s, rng.normal(self.mean_s, 0.1 * self.mean_s))
            total_s += one_s * (self.slow_factor if rng.random() < self.slow_share else 1.0)
            if rng.random() >= self.fail_share:
                return float(total_s)


@dataclass(eq=False)
class Pool(Generic[E]):
    """Workers of one role.

    Args:
        build_engine: makes the engine of a new worker at a time.
        load: work on an engine; the least loaded drains first, and one with none goes at once.
        schedule_ready: asks to call `on_ready` when a worker has started.
        on_draining: told when a worker begins to drain.
    """

    startup: Startup
    rng: np.random.Generator
    build_engine: Callable[[float], E]
    load: Callable[[E], float]
    schedule_ready: Callable[[float, "Worker[E]"], None]
    on_draining: Callable[[float, "Worker[E]"], None]
    ready: list[Worker[E]] = field(default_factory=list)
    starting: list[Worker[E]] = field(default_factory=list)
    draining: list[Worker[E]] = field(default_factory=list)
    gone: list[Worker[E]] = field(default_factory=list)
    desired: int = 0
    has_gpus: bool = True  # without, nothing starts; what is asked for pends
    starts: int = 0
    last_startup_s: float | None = None
    _numbers: int = 0

    @property
    def size(self) -> int:
        """Workers that are, or will be, able to take work."""
        return len(self.ready) + len(self.starting)

    def resize(self, now_s: float, workers: int) -> list[Worker[E]]:
        """Bring the pool to a size. Returns workers that are ready at once: those that were draining."""
        self.desired = workers
        if workers < self.size:
            self._shrink(now_s, self.size - workers)
            return []
        revived = self._revive(workers - self.size)
        for _ in range(workers - self.size if self.has_gpus else 0):
            self._create(now_s)
        return revived

    def lose_gpus(self, now_s: float) -> list[Worker[E]]:
        """Nothing starts from now on. Returns the workers that die: ready or draining ones."""
        self.has_gpus = False
        for worker in list(self.starting):
            self.retire(worker, now_s)
        return [*self.ready, *self.draining]

    def add_ready(self, now_s: float, workers: int) -> None:
        """Workers that have been there before the simulation began."""
        self.desired += workers
        for _ in range(workers):
            self.ready.append(self._new(now_s, now_s, "ready"))

    def on_ready(self, worker: Worker[E]) -> bool:
        """A worker's start is over. False when it was cancelled meanwhile."""
        if worker.state != "starting":
            return False
        self.starting.remove(worker)
        self._admit(worker)
        self.last_startup_s = worker.startup_s
        return True

    def retire(self, worker: Worker[E], now_s: float) -> None:
        """A worker is gone: drained, or dead."""
        for group in (self.ready, self.draining, self.starting):
            if worker in group:
                group.remove(worker)
        worker.state, worker.gone_s = "gone", now_s
        self.gone.append(worker)

    def worker_seconds(self, until_s: float) -> float:
        """Seconds that workers existed, starting and draining included."""
        everyone = (*self.gone, *self.ready, *self.starting, *self.draining)
        ends = ((until_s if one.gone_s is None else min(one.gone_s, until_s)) - one.created_s for one in everyone)
        return sum(max(0.0, lived_s) for lived_s in ends)

    def _new(self, created_s: float, ready_s: float, state: str) -> Worker[E]:
        self._numbers += 1
        return Worker(self._numbers, self.build_engine(created_s), created_s, ready_s, state)

    def _create(self, now_s: float) -> None:
        startup_s = self.startup.draw_s(self.rng)
        worker = self._new(now_s, now_s + startup_s, "starting")
        worker.startup_s = startup_s
        self.starts += 1
        self.starting.append(worker)
        self.schedule_ready(worker.ready_s, worker)

    def _revive(self, wanted: int) -> list[Worker[E]]:
        """A draining worker is warm: better than a new one. The fullest come back first."""
        chosen = sorted(self.draining, key=lambda one: -self.load(one.engine))[: max(0, wanted)]
        for worker in chosen:
            self.draining.remove(worker)
            self._admit(worker)
        return chosen

    def _admit(self, worker: Worker[E]) -> None:
        worker.state = "ready"
        place = sum(1 for one in self.ready if one.number < worker.number)
        self.ready.insert(place, worker)

    def _shrink(self, now_s: float, fewer: int) -> None:
        """Cancel what starts, newest first; then drain the least loaded."""
        for worker in sorted(self.starting, key=lambda one: -one.ready_s)[:fewer]:
            self.retire(worker, now_s)
            fewer -= 1
        for worker in sorted(self.ready, key=lambda one: (self.load(one.engine), -one.number))[:fewer]:
            if self.load(worker.engine) == 0:
                self.retire(worker, now_s)
                continue
            self.ready.remove(worker)
            worker.state, worker.draining_since_s = "draining", now_s
            self.draining.append(worker)
            self.on_draining(now_s, worker)

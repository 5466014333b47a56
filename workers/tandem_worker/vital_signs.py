"""What a worker knows of itself right now: gathered from engine and KV ranks, at most four times a second."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from tandem_api.worker import WorkerState
from tandem_worker.engine_api import EngineLoad, EngineQuestions, read_load
from tandem_worker.kv_ranks import KVRanks, KVReport
from tandem_worker.settings import Settings

FRESH_S = 0.25
CIRCUITS_SHOWN = 4  # what fits into the kilobyte of a state
KV_WATCH_S = 2.0
KV_SILENCE_S = 15.0  # longer than any pause of a healthy rank; the socket is served by a thread of its own


@dataclass(frozen=True)
class Signs:
    """One observation. `metrics` is the engine's own Prometheus text."""

    healthy: bool
    load: EngineLoad
    kv: KVReport
    metrics: str = ""

    @property
    def can_serve(self) -> bool:
        """Whether the engine computes and KV can be handed over."""
        return self.healthy and self.kv.answering


class VitalSigns:
    """Observes on demand and remembers for a moment, so that many askers cost as much as one.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, engine: EngineQuestions, ranks: KVRanks, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._ranks = ranks
        self._clock = clock
        self._lock = asyncio.Lock()
        self._signs: Signs | None = None
        self._taken_s = 0.0
        self._kv_heard_s: float | None = None  # None until KV has been seen to work
        self._kv = KVReport(answering=False)

    async def observe(self) -> Signs:
        """The signs, at most FRESH_S old."""
        async with self._lock:
            if self._signs is None or self._clock() - self._taken_s > FRESH_S:
                self._signs = await self._take()
                self._taken_s = self._clock()
            return self._signs

    async def watch_kv(self) -> None:
        """Listen to the KV ranks for ever, so that the liveness probe has its answer without waiting for anybody."""
        while True:
            await self.listen_to_kv()
            await asyncio.sleep(KV_WATCH_S)

    async def listen_to_kv(self) -> KVReport:
        """Ask the KV ranks, and note when they answered. While they do not, what they last said stands: totals that
        fell to zero would look like a restart to whoever adds them up.
        """
        kv = await self._ranks.fetch_report()
        if not kv.answering:
            return replace(self._kv, answering=False)
        self._kv_heard_s = self._clock()
        self._kv = kv
        return kv

    @property
    def is_kv_stuck(self) -> bool:
        """Whether KV worked once and has been silent for KV_SILENCE_S: only a restart helps."""
        return self._kv_heard_s is not None and self._clock() - self._kv_heard_s > KV_SILENCE_S

    @property
    def kv_fault(self) -> str | None:
        """What KV itself says only a restart helps against."""
        return self._kv.stuck

    async def _take(self) -> Signs:
        healthy, metrics, kv = await asyncio.gather(
            self._engine.is_healthy(), self._engine.fetch_metrics(), self.listen_to_kv()
        )
        if metrics is None:  # too busy to answer is not the same as idle
            return Signs(healthy, self._signs.load if self._signs else EngineLoad(), kv)
        return Signs(healthy, read_load(metrics), kv, metrics)


def build_state(settings: Settings, instance: str, slots: int, signs: Signs, *, draining: bool) -> WorkerState:
    """The answer of `/tandem/v1/state`."""
    config = settings.config
    return WorkerState(
        fleet=config.fleet,
        role=config.role,
        kv_revision=config.kv_revision,
        instance=instance,
        ready=signs.can_serve and not draining,
        draining=draining,
        running=signs.load.running,
        waiting=signs.load.waiting,
        slots=slots,
        kv_usage=round(signs.load.kv_usage, 4),
        leases=signs.kv.leases,
        kv=signs.kv.counters,
        circuits_open=signs.kv.circuits_open[:CIRCUITS_SHOWN],
        kv_fallback=signs.kv.fallback,
    )

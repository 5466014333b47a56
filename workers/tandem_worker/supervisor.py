"""The life of a worker: start the engine, serve the admin port, drain when told to, end with the right code."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

from tandem_api.conditions import Reason
from tandem_api.worker import WorkerState
from tandem_worker.admin import Admin
from tandem_worker.bearer import BearerKeys
from tandem_worker.drain import DrainLimits, DrainPhase, Remaining, decide_drain
from tandem_worker.engine_api import EngineApi, EngineQuestions
from tandem_worker.engines.choice import build_engine
from tandem_worker.engines.engine import count_slots
from tandem_worker.errors import WorkerError
from tandem_worker.gate import drain_file
from tandem_worker.group import Headless
from tandem_worker.kv_ranks import KVRanks
from tandem_worker.settings import Settings
from tandem_worker.vital_signs import Signs, VitalSigns, build_state

RACE_WINDOW_S = 3.0  # routers see a pod's deletion within this, or are cut off from the cluster and learn it by the 503
DRAIN_POLL_S = 0.1
STOP_GRACE_S = 8.0  # with KILL_WAIT_S inside the 15 s by which the pod's grace period exceeds the drain's timeout

log = logging.getLogger(__name__)


class Supervisor:
    """One worker. `run` returns when all is over; `request_stop` may be called at any time, from a signal handler."""

    def __init__(
        self, settings: Settings, session: aiohttp.ClientSession, race_window_s: float = RACE_WINDOW_S
    ) -> None:
        self._settings = settings
        self._instance = uuid.uuid4().hex
        self._keys = BearerKeys(settings.keys_dir)
        self._keys.fetch_current()  # a missing Secret shall be said now, not after the model is loaded
        self._ranks = KVRanks(settings.run_dir, settings.ranks)
        self._engine = build_engine(settings, self._instance)
        self._api = self._build_api(session)
        self._signs = VitalSigns(self._api, self._ranks, time.monotonic)
        self._limits = DrainLimits(race_window_s, settings.config.drain_timeout_s)
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._was_ready = False

    def _build_api(self, session: aiohttp.ClientSession) -> EngineQuestions:
        config, place = self._settings.config, self._settings.place
        if place is None or place.leads:
            return EngineApi(session, self._settings.pod_ip, self._keys, config.http_port)
        return Headless(session, f"http://{place.leader}:{config.admin_port}", lambda: self._engine.is_alive)

    def request_stop(self) -> None:
        """Drain and end. Asked a second time: end without waiting for streams."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Returns after a drain. Raises WorkerError when the engine cannot start or ends by itself."""
        drain_file(self._settings.run_dir).unlink(missing_ok=True)  # of a container that was restarted in this pod
        async with self._serve_admin():
            await self._engine.start()
            watch = asyncio.create_task(self._signs.watch_kv())
            try:
                if fault := await self._watch_engine():
                    raise fault
                await self._drain()
            finally:
                watch.cancel()
                await self._engine.stop(STOP_GRACE_S)

    async def _watch_engine(self) -> WorkerError | None:
        """Waits for the engine's end (returns why) or for the order to stop (returns None)."""
        ended, stopped = asyncio.create_task(self._engine.wait()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() and not self._stop.is_set() else None
        finally:
            ended.cancel()
            stopped.cancel()

    async def _drain(self) -> None:
        if not self._was_ready and not (await self._signs.observe()).healthy:
            return  # nobody can have sent anything yet
        log.info("draining for at most %.0f s", self._limits.timeout_s)
        started_s = time.monotonic()
        remaining = await self._wait_until_drained(started_s)
        log.info("drained in %.1f s, %s", time.monotonic() - started_s, remaining)

    async def _wait_until_drained(self, started_s: float) -> Remaining:
        refusing = False
        while True:
            remaining = await self._count_remaining()
            phase = decide_drain(time.monotonic() - started_s, remaining, self._limits, refusing=refusing)
            if phase is DrainPhase.DONE or self._hurry.is_set() or not self._engine.is_alive:
                return remaining
            if phase is DrainPhase.REFUSING:
                drain_file(self._settings.run_dir).touch()
                refusing = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), DRAIN_POLL_S)

    async def _count_remaining(self) -> Remaining:
        streams, kv = await asyncio.gather(self._api.fetch_inflight(), self._ranks.fetch_report())
        return Remaining(streams, kv.leases if kv.answering else None)

    async def observe(self) -> tuple[WorkerState, Signs]:
        """The worker's state, and what it was made from."""
        signs = await self._signs.observe()
        slots = count_slots(self._settings.config.engine)
        state = build_state(self._settings, self._instance, slots, signs, draining=self._stop.is_set())
        self._was_ready |= state.ready
        return state, signs

    def find_fault(self) -> str | None:
        """Why this pod should be restarted, or None."""
        if not self._engine.is_alive:
            return "the engine is not running"
        if self._signs.is_kv_stuck:
            return "the KV connector has stopped answering"
        return f"KV transfer is stuck: {self._signs.kv_fault}" if self._signs.kv_fault else None

    @asynccontextmanager
    async def _serve_admin(self) -> AsyncIterator[None]:
        app = Admin(self.observe, self.find_fault, self._ranks, self._keys).build_app()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner)
            yield
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self._settings.pod_ip, self._settings.config.admin_port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise WorkerError(
                Reason.WORKER_CRASHING, f"The admin port cannot listen on {host}:{port}: {error}"
            ) from error

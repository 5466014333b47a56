"""The sim engine as the supervisor sees it: server, runner and hand-over, put together."""

import asyncio
import time
from contextlib import AsyncExitStack

from aiohttp import web

from tandem_api.conditions import Reason
from tandem_worker.bearer import BearerKeys
from tandem_worker.engine_api import KV_USAGE_METRIC, RUNNING_METRIC, WAITING_METRIC
from tandem_worker.engines.engine import count_slots
from tandem_worker.engines.sim.batch import Batch
from tandem_worker.engines.sim.faults import FaultKind, FaultSwitch
from tandem_worker.engines.sim.generation import Generator
from tandem_worker.engines.sim.handover import Handover
from tandem_worker.engines.sim.openai import Limits
from tandem_worker.engines.sim.runner import Runner
from tandem_worker.engines.sim.server import SimServer
from tandem_worker.engines.sim.settings import SimSettings, read_sim_settings
from tandem_worker.errors import WorkerError
from tandem_worker.settings import Settings


class SimEngine:
    """Implements Engine.

    Raises:
        WorkerError: InvalidSpec for an argument that is not the sim engine's.
    """

    def __init__(self, settings: Settings, instance: str) -> None:
        config = settings.config
        self._settings = settings
        self._sim = read_sim_settings(config.engine.extra_args)
        self._faults = FaultSwitch()
        step_tokens = config.engine.max_num_batched_tokens or self._sim.step_tokens
        self._batch = Batch(self._sim, count_slots(config.engine), step_tokens)
        self._handover = Handover(settings, self._sim, instance, self._may_serve_kv) if config.kv_transfer else None
        self._runner = Runner(self._batch, self._sim.speed, self._book_leases)
        self._stack = AsyncExitStack()
        self._running: asyncio.Task[None] | None = None
        self._healthy_at_s = float("inf")

    @property
    def is_alive(self) -> bool:
        return self._running is not None and not self._running.done()

    async def start(self) -> None:
        self._healthy_at_s = time.monotonic() + self._sim.start_ms / 1000 / self._sim.speed
        try:
            if self._handover:
                await self._stack.enter_async_context(self._handover.serve())
            await self._serve_http()
        except OSError as error:
            raise WorkerError(Reason.WORKER_CRASHING, f"The sim engine cannot listen: {error}") from error
        self._running = asyncio.create_task(self._runner.run())

    async def wait(self) -> WorkerError:
        assert self._running is not None
        await asyncio.wait([self._running])
        fault = None if self._running.cancelled() else self._running.exception()
        return WorkerError(Reason.WORKER_CRASHING, f"The sim engine ended: {fault!r}", exit_code=1)

    async def stop(self, grace_s: float) -> None:
        async with asyncio.timeout(grace_s):
            await self._stack.aclose()
        if self._running:
            self._running.cancel()

    async def _serve_http(self) -> None:
        server = SimServer(
            build_limits(self._settings, self._sim),
            Generator(self._sim, self._runner, self._handover, self._faults),
            self._faults,
            self._render_metrics,
            lambda: time.monotonic() >= self._healthy_at_s,
        )
        app = server.build_app(BearerKeys(self._settings.keys_dir), self._settings.run_dir)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._settings.pod_ip, self._settings.config.http_port).start()

    def _may_serve_kv(self) -> bool:
        return self._faults.strike(FaultKind.KV_REFUSE) is None

    def _book_leases(self) -> None:
        self._batch.leased_tokens = self._handover.leased_tokens if self._handover else 0

    def _render_metrics(self) -> str:
        self._book_leases()
        return render_load(
            self._settings.config.model.served_name,
            {
                RUNNING_METRIC: len(self._batch.running),
                WAITING_METRIC: len(self._batch.waiting),
                KV_USAGE_METRIC: self._batch.kv_usage,
            },
        )


def build_limits(settings: Settings, sim: SimSettings) -> Limits:
    """What requests are checked against."""
    engine = settings.config.engine
    return Limits(settings.config.model.served_name, engine.max_model_len or sim.max_model_len, sim.default_max_tokens)


def render_load(model: str, gauges: dict[str, float]) -> str:
    """Prometheus text under vLLM's names and labels."""
    label = model.replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        f'# TYPE {name} gauge\n{name}{{engine="0",model_name="{label}"}} {value}\n' for name, value in gauges.items()
    ]
    return "".join(lines)

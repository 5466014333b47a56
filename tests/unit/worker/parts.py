"""Parts of a worker for tests: its key, a quick sim configuration, a supervisor in this very process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tandem_api.worker import EngineConfig, KVTransferConfig, ModelConfig, Role, WorkerConfig
from tandem_worker.settings import Settings
from tandem_worker.supervisor import Supervisor

TOKEN = "dGhlIGZsZWV0J3Mga2V5LCBvbmx5IGZvciB0ZXN0cw"
BEARER = {"authorization": f"Bearer {TOKEN}"}
RACE_WINDOW_S = 0.3


def build_config(role: Role = Role.MIXED, **changes: Any) -> WorkerConfig:
    """A sim worker's configuration that is quick: a hundred modelled milliseconds pass in one."""
    fields: dict[str, Any] = {
        "fleet": "default/chat",
        "role": role,
        "kv_revision": "r1",
        "model": ModelConfig(name="tiny", served_name="tiny", source="synthetic://tiny-llama"),
        "engine": EngineConfig(type="sim", max_num_seqs=8, extra_args=("--sim-speed=100",)),
        "kv_transfer": None if role is Role.MIXED else KVTransferConfig(lease_s=5),
        "drain_timeout_s": 5.0,
    }
    return WorkerConfig(**(fields | changes))


class Worker:
    """A running supervisor, and where to reach it."""

    def __init__(self, settings: Settings, supervisor: Supervisor, task: asyncio.Task[None]) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.task = task
        self.engine = f"http://{settings.pod_ip}:{settings.config.http_port}"
        self.admin = f"http://{settings.pod_ip}:{settings.config.admin_port}"


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Worker]:
    async with aiohttp.ClientSession() as client:
        supervisor = Supervisor(settings, client, race_window_s=RACE_WINDOW_S)
        task = asyncio.create_task(supervisor.run())
        try:
            await _wait_ready(supervisor, task)
            yield Worker(settings, supervisor, task)
        finally:
            supervisor.request_stop()
            supervisor.request_stop()
            await asyncio.wait([task])


async def _wait_ready(supervisor: Supervisor, task: asyncio.Task[None]) -> None:
    for _ in range(250):
        if task.done():
            await task  # raises what ended it
        if (await supervisor.observe())[0].ready:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("the worker is not ready after 5 s")

"""vLLM as a child process."""

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

from tandem_api.conditions import Reason
from tandem_worker.child import ChildProcess
from tandem_worker.diagnosis import diagnose_exit
from tandem_worker.engines.vllm import build_command, build_environment, find_build
from tandem_worker.errors import WorkerError
from tandem_worker.kv_offload.disk_budget import watch_disk
from tandem_worker.models import link_model, locate_all
from tandem_worker.settings import Settings

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # vLLM's place, not ours to choose


class VllmEngine:
    """The production engine. Everything that can be checked without starting it is checked here.

    Raises:
        WorkerError: no supported vLLM is installed, or the model's source is wrong.
    """

    def __init__(self, settings: Settings, instance: str) -> None:
        build = find_build()
        _check_connector(settings)
        model, *companions = locate_all(settings.config)
        self._settings = settings
        self._weights = (model, *companions)
        self._instance = instance
        self._disk_watch: asyncio.Task[None] | None = None
        self._child = ChildProcess(
            build_command(settings, model, build, instance),
            build_environment(os.environ, settings, model, build),
            directory=settings.data_dir,
        )

    @property
    def is_alive(self) -> bool:
        return self._child.is_alive

    async def start(self) -> None:
        try:
            for weights in self._weights:
                link_model(weights, self._settings.data_dir)
            await self._child.start()
            self._watch_disk()
        except OSError as error:
            raise WorkerError(Reason.IMAGE_UNAVAILABLE, f"The engine cannot be started: {error}") from error

    async def wait(self) -> WorkerError:
        returncode = await self._child.wait()
        return diagnose_exit(returncode, self._child.tail.read_lines(), self._settings.config.model.source)

    async def stop(self, grace_s: float) -> None:
        if self._disk_watch is not None:
            self._disk_watch.cancel()
        await self._child.stop(grace_s)
        _remove_shared_memory(self._instance)

    def _watch_disk(self) -> None:
        offload = self._settings.config.engine.kv_offload
        if offload is not None and offload.disk_dir is not None and offload.disk_bytes is not None:
            self._disk_watch = asyncio.create_task(watch_disk(Path(offload.disk_dir), offload.disk_bytes))


def _check_connector(settings: Settings) -> None:
    """What would otherwise be an ImportError deep inside vLLM."""
    transfer = settings.config.kv_transfer
    if transfer is not None and transfer.connector == "nixl" and find_spec("nixl") is None:
        raise WorkerError(
            Reason.IMAGE_UNAVAILABLE,
            "The engine image holds no NIXL: use an image with the nixl package, or spec.kvTransfer.connector: tcp",
        )


def _remove_shared_memory(instance: str) -> None:
    """vLLM's offloading leaves its file when it is killed; it is named after the engine's start, which was ours."""
    for path in _SHARED_MEMORY.glob(f"vllm_offload_{instance}*.mmap"):
        path.unlink(missing_ok=True)

"""vLLM as a child process."""

import os

from tandem_api.conditions import Reason
from tandem_worker.child import ChildProcess
from tandem_worker.diagnosis import diagnose_exit
from tandem_worker.engines.vllm import build_command, build_environment, find_build
from tandem_worker.errors import WorkerError
from tandem_worker.models import link_model, locate_model
from tandem_worker.settings import Settings


class VllmEngine:
    """The production engine. Everything that can be checked without starting it is checked here.

    Raises:
        WorkerError: no supported vLLM is installed, or the model's source is wrong.
    """

    def __init__(self, settings: Settings, instance: str) -> None:
        build = find_build()
        model = locate_model(settings.config.model)
        self._settings = settings
        self._model = model
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
            link_model(self._model, self._settings.data_dir)
            await self._child.start()
        except OSError as error:
            raise WorkerError(Reason.IMAGE_UNAVAILABLE, f"The engine cannot be started: {error}") from error

    async def wait(self) -> WorkerError:
        returncode = await self._child.wait()
        return diagnose_exit(returncode, self._child.tail.read_lines())

    async def stop(self, grace_s: float) -> None:
        await self._child.stop(grace_s)

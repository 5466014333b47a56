"""One container over all its runs: getting ready, running, restarting with back-off, stopping for good."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cluster.process_node.api import ApiError, ApiUnreachableError
from cluster.process_node.backoff import Backoff, should_restart
from cluster.process_node.environment import ConfigurationError
from cluster.process_node.fields import FieldError
from cluster.process_node.images import Image, ImageError
from cluster.process_node.instance import Instance, Setup
from cluster.process_node.logs import rotated
from cluster.process_node.objects import JsonObject, pod_name, restart_policy
from cluster.process_node.paths import MountPathError
from cluster.process_node.preparation import PodContext, Preparation
from cluster.process_node.processes import LaunchError
from cluster.process_node.quantities import QuantityError
from cluster.process_node.states import ContainerSnapshot, Running, Terminated, Waiting, recovered_snapshot

START_FAILED_EXIT_CODE = 128


class Container:
    """`run` goes on until the container is over for good; `snapshot` is always its present state."""

    def __init__(self, spec: JsonObject, context: PodContext, *, init: bool) -> None:
        self.spec = spec
        self.name = str(spec["name"])
        self._context = context
        self._pod = context.fields().pod
        self._preparation = Preparation(spec, context)
        self._init = init
        self._policy = restart_policy(self._pod, spec, init=init)
        self._backoff = Backoff(context.node.timing.backoff_s)
        self._instance: Instance | None = None
        self.current_run: int | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        first_reason = "PodInitializing" if self._pod["spec"].get("initContainers") else "ContainerCreating"
        self.snapshot = ContainerSnapshot(self.name, str(spec["image"]), Waiting(first_reason))

    def recover(self, status: JsonObject) -> None:
        """Takes over what an earlier run of the node reported about this container.

        Init containers run again, as after a reboot: what they prepared may be gone with the processes.
        """
        fresh = self.snapshot
        self.snapshot = recovered_snapshot(status, fresh, datetime.now(UTC))
        if self._init and isinstance(self.snapshot.state, Terminated):
            self.snapshot = replace(self.snapshot, last=self.snapshot.state, state=fresh.state)

    async def run(self) -> None:
        while not self._stopping.is_set():
            if not isinstance(self.snapshot.state, Terminated):
                await self._run_once()
            if not self._will_restart():
                return
            await self._back_off()

    def stop(self, grace_s: float) -> None:
        """No further start, and the end of what runs. May be repeated with a shorter grace period."""
        self._stopping.set()
        if self._instance is not None:
            self._instance.stop(grace_s)

    async def until_started(self) -> None:
        """Waits until the container runs and its startup probe, if any, succeeded."""
        while not self.snapshot.started:
            self._changed.clear()
            await self._changed.wait()

    @property
    def succeeded(self) -> bool:
        return isinstance(self.snapshot.state, Terminated) and self.snapshot.state.exit_code == 0

    # What a run reports (instance.Observer)

    def running(self, started_at: datetime) -> None:
        self._show(state=Running(started_at))
        self.note("Started", f"Started container {self.name}")

    def started(self) -> None:
        self._show(started=True)

    def ready(self, is_ready: bool) -> None:
        if is_ready != self.snapshot.ready:
            self._show(ready=is_ready)

    def warn(self, reason: str, message: str) -> None:
        self._context.node.events.warning(self._pod, reason, message, self.name)

    def note(self, reason: str, message: str) -> None:
        self._context.node.events.normal(self._pod, reason, message, self.name)

    # One run

    async def _run_once(self) -> None:
        image = await self._until_image()
        if image is None:
            return
        run = self.snapshot.restart_count + 1 if self.snapshot.last else 0
        try:
            setup = await self._until_configured(image, run)
        except LaunchError as error:
            self._show(state=self._failed_start(str(error)), restart_count=run, container_id="")
            return
        if setup is not None and not self._stopping.is_set():
            self.snapshot = replace(self.snapshot, restart_count=run, container_id=setup.container_id)
            self._forget_logs_before(run - 1)
            ended = await self._run_instance(Instance(setup, self), run)
            # A finished init container counts as ready, as the kubelet reports it.
            self._show(state=ended, ready=self._init and ended.exit_code == 0, started=False)

    async def _run_instance(self, instance: Instance, run: int) -> Terminated:
        self._instance, self.current_run = instance, run
        try:
            return await instance.run()
        except LaunchError as error:
            return self._failed_start(str(error))
        finally:
            self._instance = self.current_run = None

    async def _until_image(self) -> Image | None:
        """The image, looked up with growing pauses; None when stopped meanwhile."""
        pauses = Backoff(self._context.node.timing.backoff_s)
        while not self._stopping.is_set():
            try:
                return self._context.node.images.find(self.snapshot.image)
            except ImageError as error:
                pauses = pauses.after(0)
                await self._wait_for_image(str(error), pauses.delay_s)
        return None

    async def _wait_for_image(self, message: str, pause_s: float) -> None:
        self.warn("Failed", f"Failed to pull image {self.snapshot.image!r}: {message}")
        self._wait(Waiting("ErrImagePull", message))
        if not await self._pause(min(pause_s, self._context.node.timing.retry_s)):
            self._wait(Waiting("ImagePullBackOff", f"Back-off pulling image: {message}"))
            await self._pause(pause_s)

    async def _until_configured(self, image: Image, run: int) -> Setup | None:
        """All that the process needs, retried while something is missing; None when stopped meanwhile.

        Raises LaunchError: the program does not exist.
        """
        while not self._stopping.is_set():
            try:
                return await self._preparation.build_setup(image, run)
            except (ConfigurationError, FieldError, QuantityError, MountPathError) as error:
                self._complain(str(error))
            except (ApiError, ApiUnreachableError) as error:
                self._complain(f"cannot read its configuration: {error}")
            await self._pause(self._context.node.timing.retry_s)
        return None

    def _complain(self, message: str) -> None:
        self.warn("Failed", f"Error: {message}")
        self._wait(Waiting("CreateContainerConfigError", message))

    def _failed_start(self, message: str) -> Terminated:
        self.warn("Failed", f"Error: failed to start container {self.name!r}: {message}")
        now = datetime.now(UTC)
        return Terminated(START_FAILED_EXIT_CODE, "StartError", now, now, message=message)

    def _forget_logs_before(self, run: int) -> None:
        """One run before the present one is kept, for `kubectl logs --previous`."""
        folders = self._context.folders
        for old in (number for number in folders.runs(self.name) if number < run):
            folders.log(self.name, old).unlink(missing_ok=True)
            rotated(folders.log(self.name, old)).unlink(missing_ok=True)

    # Between runs

    def _will_restart(self) -> bool:
        state = self.snapshot.state
        return (
            not self._stopping.is_set()
            and isinstance(state, Terminated)
            and should_restart(self._policy, state.exit_code)
        )

    async def _back_off(self) -> None:
        ended = self.snapshot.state
        assert isinstance(ended, Terminated), "only what ended is started again"
        delay_s = self._backoff.delay_s
        self._backoff = self._backoff.after((ended.finished_at - ended.started_at).total_seconds())
        if not delay_s:
            self.snapshot = replace(self.snapshot, last=ended, state=Waiting("ContainerCreating"))
            return
        message = f"back-off {delay_s:g}s restarting failed container={self.name} pod={pod_name(self._pod)}"
        self.warn("BackOff", message)
        self._show(last=ended, state=Waiting("CrashLoopBackOff", message))
        await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> bool:
        """Whether a stop ended the pause."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _wait(self, state: Waiting) -> None:
        if state != self.snapshot.state:
            self._show(state=state)

    def _show(self, **changes: Any) -> None:
        self.snapshot = replace(self.snapshot, **changes)
        self._changed.set()
        self._context.on_change()

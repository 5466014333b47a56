"""One pod from its binding to this node to its end: level-triggered by the newest version of its object."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from cluster.process_node.addresses import AddressError
from cluster.process_node.api import ApiError, ApiUnreachableError
from cluster.process_node.container import Container
from cluster.process_node.fields import FieldError, PodFields
from cluster.process_node.objects import (
    JsonObject,
    from_rfc3339,
    grace_s,
    init_containers,
    is_deleting,
    is_sidecar,
    is_terminal,
    main_containers,
    pod_name,
    pod_uid,
)
from cluster.process_node.preparation import PodContext
from cluster.process_node.quantities import QuantityError
from cluster.process_node.services import HOST_IP, NodeServices
from cluster.process_node.status import PodFacts, build_status
from cluster.process_node.status_writer import StatusWriter
from cluster.process_node.tokens import TokenSource
from cluster.process_node.volume_payloads import VolumeError
from cluster.process_node.volumes import PodVolumes

log = logging.getLogger(__name__)
VOLUME_ERRORS = (VolumeError, FieldError, QuantityError, ApiError, ApiUnreachableError, OSError)


class PodWorker:
    """Runs one pod. `update`, `vanish` and `shut_down` tell it what changed; `run` does everything."""

    def __init__(self, pod: JsonObject, node: NodeServices) -> None:
        self.pod = pod
        self._node = node
        self.folders = node.folders.pod(pod_uid(pod))
        self._ip = "" if is_terminal(pod) else self._take_address()
        self._volumes = PodVolumes(self.folders, node.cache, TokenSource(node.api, time.time))
        self._volumes_ready = False
        self._started_at = _started_at(pod)
        self._conditions: list[JsonObject] = (pod.get("status") or {}).get("conditions") or []
        self._failure: tuple[str, str] | None = None
        self._is_over = False
        self._writer = StatusWriter(node.api, pod, self._build_status)
        context = PodContext(node, self.folders, self._volumes, self._fields, self._writer.mark)
        self.init = [Container(spec, context, init=True) for spec in init_containers(pod)]
        self.main = [Container(spec, context, init=False) for spec in main_containers(pod)]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._end = asyncio.Event()
        self._vanished = False
        self._end_at_s = float("inf")
        self._stopping: list[Container] = []
        self._recover()
        self.update(pod)

    # What others tell it

    def update(self, pod: JsonObject) -> None:
        self.pod = pod
        self._writer.observe(pod.get("status") or {})
        if is_deleting(pod):
            self._end_within(grace_s(pod))

    def vanish(self) -> None:
        """The object is gone from the API: nobody waits for this pod's end any more."""
        self._vanished = True
        self._end_within(min(grace_s(self.pod), 1.0))

    def shut_down(self, most_s: float) -> None:
        """The node ends: so do the processes, but the pod stays bound and starts again with the node."""
        self._end_within(min(grace_s(self.pod), most_s))

    def find_container(self, name: str) -> Container | None:
        return next((c for c in [*self.init, *self.main] if c.name == name), None)

    # Its life

    async def run(self) -> None:
        writing = asyncio.create_task(self._writer.run())
        try:
            if is_terminal(self.pod):  # its status is final; only its logs are still wanted
                await self._end.wait()
            else:
                await self._live_until_end()
                await self._writer.flush()
                await self._end.wait()
                await self._report_end()
            await self._leave()
        finally:
            writing.cancel()
            if self._ip:
                self._node.addresses.release(self._ip)

    async def _live_until_end(self) -> None:
        life = asyncio.create_task(self._live())
        end = asyncio.create_task(self._end.wait())
        try:
            await asyncio.wait({life, end}, timeout=self._active_left_s(), return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()  # a fault in there is a fault of this worker
            elif not end.done():
                self._failure = ("DeadlineExceeded", "Pod was active on the node longer than its deadline")
        finally:
            for task in (life, end):
                task.cancel()
            await asyncio.gather(life, end, return_exceptions=True)
            await self._stop_containers()

    async def _report_end(self) -> None:
        self._is_over = is_deleting(self.pod)
        await self._writer.flush()

    async def _leave(self) -> None:
        """Removes what is on disk and lets the API server forget the object; not when only the node ends."""
        if self._vanished or is_deleting(self.pod):
            self.folders.remove()
        if is_deleting(self.pod) and not self._vanished:
            await self._writer.delete_pod()

    async def _live(self) -> None:
        """From nothing to the end of the last main container."""
        self._writer.mark()
        await self._until_address()
        self.folders.make()
        await self._until_volumes()
        refreshing = asyncio.create_task(self._refresh_volumes())
        try:
            for container in self.init:
                if not await self._initialise(container):
                    return
            await _all_done([self._start(container) for container in self.main])
        finally:
            refreshing.cancel()

    async def _initialise(self, container: Container) -> bool:
        """Runs an init container to its success, or a sidecar until it is up; False ends the pod."""
        task = self._start(container)
        if not is_sidecar(container.spec, init=True):
            await asyncio.shield(task)
            return container.succeeded
        await container.until_started()
        return True

    def _start(self, container: Container) -> asyncio.Task[None]:
        task = asyncio.create_task(container.run(), name=f"{pod_name(self.pod)}/{container.name}")
        self._tasks[container.name] = task
        return task

    async def _stop_containers(self) -> None:
        """Main containers together, then the sidecars in reverse order, within one grace period."""
        if not self._end.is_set():
            self._end_at_s = _now_s() + grace_s(self.pod)
        sidecars = [c for c in self.init if is_sidecar(c.spec, init=True)]
        await self._stop([c for c in [*self.init, *self.main] if c not in sidecars])
        for sidecar in reversed(sidecars):
            await self._stop([sidecar])

    async def _stop(self, containers: list[Container]) -> None:
        tasks = [self._tasks[c.name] for c in containers if c.name in self._tasks]
        self._stopping = containers
        self._hasten()
        await _all_done(tasks)

    def _end_within(self, seconds: float) -> None:
        self._end_at_s = min(self._end_at_s, _now_s() + seconds)
        self._end.set()
        self._hasten()

    def _hasten(self) -> None:
        for container in self._stopping:
            container.stop(max(0.0, self._end_at_s - _now_s()))

    # Getting ready

    def _take_address(self) -> str:
        try:
            return self._node.addresses.take((self.pod.get("status") or {}).get("podIP"))
        except AddressError as error:
            self._node.events.warning(self.pod, "FailedCreatePodSandBox", str(error))
            return ""

    async def _until_address(self) -> None:
        while not self._ip:
            await asyncio.sleep(self._node.timing.retry_s)
            self._ip = self._take_address()

    async def _until_volumes(self) -> None:
        while not self._volumes_ready:
            try:
                await self._volumes.sync(self._fields(), max_age_s=0)
                self._volumes_ready = True
            except VOLUME_ERRORS as error:
                self._node.events.warning(self.pod, "FailedMount", f"MountVolume.SetUp failed: {error}")
                await asyncio.sleep(self._node.timing.retry_s)
        self._writer.mark()

    async def _refresh_volumes(self) -> None:
        period_s = self._node.timing.refresh_s
        while True:
            await asyncio.sleep(period_s)
            try:
                await self._volumes.sync(self._fields(), max_age_s=0.9 * period_s)
            except VOLUME_ERRORS as error:
                log.warning("volumes of %s keep their old files: %s", pod_name(self.pod), error)

    def _recover(self) -> None:
        status = self.pod.get("status") or {}
        known = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        by_name = {container["name"]: container for container in known}
        for container in [*self.init, *self.main]:
            if container.name in by_name:
                container.recover(by_name[container.name])

    # What it reports

    def _fields(self) -> PodFields:
        return PodFields(self.pod, self._ip, HOST_IP, self._node.allocatable)

    def _build_status(self) -> JsonObject:
        facts = PodFacts(
            init=[container.snapshot for container in self.init],
            main=[container.snapshot for container in self.main],
            host_ip=HOST_IP,
            started_at=self._started_at,
            pod_ip=self._ip,
            volumes_ready=self._volumes_ready,
            ended=self._is_over,
            failure=self._failure,
            conditions=self._conditions,
        )
        status = build_status(self.pod, facts, datetime.now(UTC))
        self._conditions = status["conditions"]
        return status

    def _active_left_s(self) -> float | None:
        limit_s = self.pod["spec"].get("activeDeadlineSeconds")
        if limit_s is None:
            return None
        return max(0.0, float(limit_s) - (datetime.now(UTC) - self._started_at).total_seconds())


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    """Waits for all; unlike gather, a cancelled waiter does not cancel them. Raises what one of them raised."""
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()


def _started_at(pod: JsonObject) -> datetime:
    text = (pod.get("status") or {}).get("startTime")
    return from_rfc3339(text) if text else datetime.now(UTC)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

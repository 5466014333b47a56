"""Kubernetes Events about pods: sent in order, in the background, repeats counted instead of repeated."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.process_node.api import ApiClient, ApiError, ApiUnreachableError
from cluster.process_node.objects import JsonObject, pod_name, pod_namespace, pod_uid, to_rfc3339

MOST_WAITING = 1000
MOST_REMEMBERED = 5000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Happening:
    pod: JsonObject
    kind: str
    reason: str
    message: str
    container: str = ""

    @property
    def event_name(self) -> str:
        """The same for every repeat, so that a repeat finds its predecessor."""
        text = "\0".join((pod_uid(self.pod), self.kind, self.reason, self.message, self.container))
        return f"{pod_name(self.pod)}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class EventRecorder:
    """`normal` and `warning` never wait nor fail; `run` sends until cancelled."""

    def __init__(self, api: ApiClient, node_name: str) -> None:
        self._api = api
        self._node_name = node_name
        self._waiting: asyncio.Queue[Happening] = asyncio.Queue(MOST_WAITING)
        self._counts: dict[str, int] = {}

    def normal(self, pod: JsonObject, reason: str, message: str, container: str = "") -> None:
        self._put(Happening(pod, "Normal", reason, message, container))

    def warning(self, pod: JsonObject, reason: str, message: str, container: str = "") -> None:
        self._put(Happening(pod, "Warning", reason, message, container))

    async def run(self) -> None:
        while True:
            happening = await self._waiting.get()
            try:
                await self._send(happening)
            except (ApiError, ApiUnreachableError) as error:
                # An event is news, not state: a namespace that is going away, for one, refuses it.
                log.info("event %s of %s not sent: %s", happening.reason, pod_name(happening.pod), error)

    def _put(self, happening: Happening) -> None:
        try:
            self._waiting.put_nowait(happening)
        except asyncio.QueueFull:
            log.warning("event %s of %s dropped: too many", happening.reason, pod_name(happening.pod))

    async def _send(self, happening: Happening) -> None:
        if len(self._counts) > MOST_REMEMBERED:
            self._counts.clear()
        count = self._counts.get(happening.event_name, 0) + 1
        path = f"/api/v1/namespaces/{pod_namespace(happening.pod)}/events"
        if count > 1 or not await self._create(path, happening):
            repeat = {"count": count, "lastTimestamp": to_rfc3339(datetime.now(UTC))}
            await self._api.patch(f"{path}/{happening.event_name}", repeat)
        self._counts[happening.event_name] = count

    async def _create(self, path: str, happening: Happening) -> bool:
        """False when it exists already, from before this node process started."""
        try:
            await self._api.create(path, build_event(happening, self._node_name, datetime.now(UTC)))
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True


def build_event(happening: Happening, node_name: str, now: datetime) -> JsonObject:
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod_name(happening.pod),
        "namespace": pod_namespace(happening.pod),
        "uid": pod_uid(happening.pod),
    }
    if happening.container:
        involved["fieldPath"] = f"spec.containers{{{happening.container}}}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": happening.event_name, "namespace": pod_namespace(happening.pod)},
        "involvedObject": involved,
        "type": happening.kind,
        "reason": happening.reason,
        "message": happening.message[:1024],
        "source": {"component": "process-node", "host": node_name},
        "reportingComponent": "process-node",
        "reportingInstance": node_name,
        "firstTimestamp": to_rfc3339(now),
        "lastTimestamp": to_rfc3339(now),
        "count": 1,
    }

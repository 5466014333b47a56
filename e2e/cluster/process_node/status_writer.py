"""Writes one pod's status when it changed, and again until the API server has taken it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster.process_node.api import STRATEGIC_PATCH, ApiClient, ApiError, ApiUnreachableError
from cluster.process_node.objects import JsonObject, pod_name, pod_namespace, pod_uid

# Running, started and ready often come within one turn of the event loop: one write is enough for them.
GATHER_S = 0.01
RETRY_S = 1.0
log = logging.getLogger(__name__)


class StatusWriter:
    def __init__(self, api: ApiClient, pod: JsonObject, build: Callable[[], JsonObject]) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{pod_namespace(pod)}/pods/{pod_name(pod)}"
        self._uid = pod_uid(pod)
        self._build = build
        self._dirty = asyncio.Event()
        self._written: JsonObject = {}
        self._gone = False
        self._last_failure = ""
        self._writing = asyncio.Lock()

    def mark(self) -> None:
        """The status may have changed."""
        self._dirty.set()

    def observe(self, status: JsonObject) -> None:
        """What the API server holds: if another wrote over our part, it is written again."""
        if self._written and not is_kept(self._written, status):
            self._written = {}
            self.mark()

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(GATHER_S)
            await self.flush()

    async def flush(self) -> None:
        """Returns when the present status is written, or the pod is gone."""
        async with self._writing:
            while not self._gone and not await self._write():
                pass

    async def delete_pod(self) -> None:
        """Tells the API server that nothing of this pod is left, so that it may forget the object."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
        while not self._gone:
            try:
                await self._api.delete(self._path, options)
                return
            except (ApiError, ApiUnreachableError) as error:
                await self._note_failure("delete", error)

    async def _write(self) -> bool:
        self._dirty.clear()
        status = self._build()
        if status == self._written:
            return True
        try:
            await self._api.patch(f"{self._path}/status", build_patch(self._uid, status), STRATEGIC_PATCH)
        except (ApiError, ApiUnreachableError) as error:
            if not is_refused(error):
                await self._note_failure("write the status of", error)
                return False
            # It would be refused again. A pod must not be stuck because one of its states cannot be told.
            log.error("the status of %s was refused: this is a bug: %s", self._path, error)
        self._written = status
        return True

    async def _note_failure(self, what: str, error: ApiError | ApiUnreachableError) -> None:
        if isinstance(error, ApiError) and is_gone(error):
            self._gone = True
            return
        if str(error) != self._last_failure:
            log.warning("cannot %s %s: %s", what, self._path, error)
            self._last_failure = str(error)
        await asyncio.sleep(RETRY_S)


def build_patch(uid: str, status: JsonObject) -> JsonObject:
    """The status as a strategic merge: conditions of others stay, but addresses of former lives go."""
    replaced = {name: [{"$patch": "replace"}, *status[name]] for name in ("podIPs", "hostIPs") if name in status}
    return {"metadata": {"uid": uid}, "status": {**status, **replaced}}


def is_refused(error: ApiError | ApiUnreachableError) -> bool:
    """Whether the API server will never take this status for this pod."""
    return isinstance(error, ApiError) and error.status == 422 and not is_gone(error)


def is_gone(error: ApiError) -> bool:
    """Whether the pod is no more, or another pod has its name by now: our uid is in every write."""
    if error.status == 422:
        return "metadata.uid" in error.message
    return error.status == 404 or (error.status == 409 and "UID" in error.message)


def is_kept(written: JsonObject, held: JsonObject) -> bool:
    """Whether the phase and conditions that we wrote still stand."""
    conditions = {c["type"]: c["status"] for c in held.get("conditions") or []}
    ours = {c["type"]: c["status"] for c in written["conditions"]}
    return written["phase"] == held.get("phase") and ours.items() <= conditions.items()

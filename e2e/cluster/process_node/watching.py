"""List and watch: keeps a callback informed about a set of objects, over any fault of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from cluster.process_node.api import ApiClient, ApiError, ApiUnreachableError
from cluster.process_node.objects import JsonObject

WATCH_S = 240
RETRY_S = 1.0
log = logging.getLogger(__name__)


class Observer(Protocol):
    def replace_all(self, objects: list[JsonObject]) -> None:
        """The whole set, after every list: what is not in it is gone."""

    def changed(self, obj: JsonObject) -> None: ...

    def gone(self, obj: JsonObject) -> None: ...


class _ExpiredError(Exception):
    """The server no longer knows our resourceVersion: list again."""


async def watch_forever(
    api: ApiClient, path: str, query: Mapping[str, str], observer: Observer, retry_s: float = RETRY_S
) -> None:
    """Runs until cancelled. Every fault ends in another list, never in a gap."""
    while True:
        try:
            version = await _list(api, path, query, observer)
            while True:
                version = await _watch(api, path, {**query, "resourceVersion": version}, observer)
        except _ExpiredError:
            log.info("watch of %s expired; listing again", path)
        except (ApiError, ApiUnreachableError) as error:
            log.warning("watch of %s: %s; again in %s s", path, error, retry_s)
            await asyncio.sleep(retry_s)


async def _list(api: ApiClient, path: str, query: Mapping[str, str], observer: Observer) -> str:
    answer = await api.get(path, query)
    observer.replace_all(answer.get("items") or [])
    return str(answer["metadata"]["resourceVersion"])


async def _watch(api: ApiClient, path: str, query: Mapping[str, str], observer: Observer) -> str:
    """One watch to its regular end; returns the version to go on from."""
    version = query["resourceVersion"]
    options = {**query, "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
    async for event in api.watch(path, options, silence_s=WATCH_S + 30):
        obj = event["object"]
        if event["type"] == "ERROR":
            raise _failure(obj)
        version = obj["metadata"]["resourceVersion"]
        _tell(observer, event["type"], obj)
    return version


def _failure(status: JsonObject) -> Exception:
    if status.get("code") == 410:
        return _ExpiredError()
    return ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))


def _tell(observer: Observer, kind: str, obj: JsonObject) -> None:
    if kind == "DELETED":
        observer.gone(obj)
    elif kind in ("ADDED", "MODIFIED"):
        observer.changed(obj)

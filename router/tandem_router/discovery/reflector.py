"""Keeps a copy of one kind of object: paged list, then watch, and again after every interruption."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from tandem_router.discovery.api_client import ApiClient, ApiRefusedError, ApiUnreachableError

LOG = logging.getLogger(__name__)
PAGE_SIZE = 250
WATCH_S = 240
SILENCE_S = 255.0  # the server ends a watch by itself before this
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 3.0
STEADY_S = 5.0  # a watch that lasted this long was sound: go on at once
EXPIRED = 410

T = TypeVar("T")


class WatchExpiredError(Exception):
    """The resourceVersion is too old: list again."""


@dataclass
class Reflector(Generic[T]):
    """Copy of the objects at one path.

    Attributes:
        path: e.g. `/api/v1/namespaces/x/pods`.
        selector: label selector, may be empty.
        parse: keeps what is needed of an object; None drops it. Must not raise.
        changed: called after every change of `objects`.
    """

    client: ApiClient
    path: str
    selector: str
    parse: Callable[[dict[str, Any]], T | None]
    changed: Callable[[], None]
    objects: dict[str, T] = field(default_factory=dict)  # by uid
    is_synced: bool = False
    _version: str | None = None
    _last_complaint: str = ""

    async def run(self) -> None:
        """List and watch until cancelled. The copy stays while the API server is gone."""
        clock = asyncio.get_running_loop().time
        delay_s = BACKOFF_FIRST_S
        while True:
            began_s = clock()
            try:
                await self._follow()
            except WatchExpiredError:
                self._version = None
            except ApiRefusedError as error:
                self._version = None
                self._complain(str(error))
            except ApiUnreachableError as error:
                self._complain(str(error))
            if clock() - began_s > STEADY_S:
                delay_s = BACKOFF_FIRST_S
                continue
            await asyncio.sleep(delay_s * (0.5 + random.random() / 2))  # noqa: S311 - jitter
            delay_s = min(BACKOFF_MAX_S, delay_s * 2)

    async def _follow(self) -> None:
        """One watch, from where the last one ended, or from a new list."""
        if self._version is None:
            self._version = await self._list()
            self._last_complaint = ""
        async for event in self.client.follow(self._watch_target(self._version), SILENCE_S):
            self._version = self._take(event)

    async def _list(self) -> str:
        """Replace the copy; what was deleted while nobody watched goes with it."""
        found: dict[str, T] = {}
        token = ""
        while True:
            page = await self.client.get(self._list_target(token))
            for item in page.get("items", ()):
                if (kept := self.parse(item)) is not None:
                    found[item["metadata"]["uid"]] = kept
            token = page["metadata"].get("continue", "")
            if not token:
                break
        self.objects, self.is_synced = found, True
        self.changed()
        return str(page["metadata"]["resourceVersion"])

    def _take(self, event: dict[str, Any]) -> str:
        """Apply one event. Returns the version to go on from."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == EXPIRED:
                raise WatchExpiredError
            raise ApiRefusedError(int(item.get("code", 500)), str(item.get("message", "watch error")))
        newest = str(item["metadata"]["resourceVersion"])
        if kind != "BOOKMARK":
            self._store(kind, item)
        return newest

    def _store(self, kind: str, item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        kept = None if kind == "DELETED" else self.parse(item)
        if kept is None:
            changed = self.objects.pop(uid, None) is not None
        else:
            changed = self.objects.get(uid) != kept
            self.objects[uid] = kept
        if changed:
            self.changed()

    def _list_target(self, token: str) -> str:
        return f"{self.path}?limit={PAGE_SIZE}{self._selected()}" + (f"&continue={quote(token)}" if token else "")

    def _watch_target(self, version: str) -> str:
        options = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={quote(version)}"
        return f"{self.path}?{options}{self._selected()}"

    def _selected(self) -> str:
        return f"&labelSelector={quote(self.selector)}" if self.selector else ""

    def _complain(self, text: str) -> None:
        if text != self._last_complaint:  # once per cause, not once per retry
            LOG.warning("cannot watch %s: %s", self.path, text)
            self._last_complaint = text

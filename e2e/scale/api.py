"""Raw calls to an API server, and one watch that tells when a Deployment has the size that somebody waits for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tandem_operator.credentials import Credentials

NAMESPACE = "default"
FLEETS = f"/apis/tandem.dev/v1alpha1/namespaces/{NAMESPACE}/inferencedeployments"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PATIENCE_S = 120.0

Place = tuple[str, str, int]  # fleet, pool, replicas


class Api:
    """A session of this measurement's own; whatever the operator does, it does in another process."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session, self._server = session, server
        self._waiting: dict[Place, asyncio.Future[float]] = {}

    async def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """One request; raises on an error status."""
        async with self._session.request(
            method, self._server + path, data=json.dumps(body) if body else None, headers={"Content-Type": kind}
        ) as answer:
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return dict(await answer.json())

    async def merge(self, path: str, body: Any) -> dict[str, Any]:
        """Merge patch."""
        return await self.send("PATCH", path, body, "application/merge-patch+json")

    async def apply(self, path: str, body: Any, manager: str) -> dict[str, Any]:
        """Server-side apply by force."""
        return await self.send(
            "PATCH", f"{path}?fieldManager={manager}&force=true", body, "application/apply-patch+yaml"
        )

    async def fetch_all(self, path: str) -> list[dict[str, Any]]:
        """A whole collection, page by page."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self.send("GET", f"{path}?limit=500" + (f"&continue={token}" if token else ""))
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    def expect(self, fleet: str, pool: str, replicas: int) -> asyncio.Future[float]:
        """The moment (`time.perf_counter`) at which the watch shows the fleet's Deployment of a pool at that size."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[fleet, pool, replicas] = future
        return future

    async def watch(self) -> None:
        """Serves those who wait, for ever."""
        version = (await self.send("GET", f"{DEPLOYMENTS}?limit=1"))["metadata"]["resourceVersion"]
        while True:
            url = f"{self._server}{DEPLOYMENTS}?watch=true&resourceVersion={version}"
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as stream:
                async for obj in _objects(stream):
                    version = obj["metadata"]["resourceVersion"]
                    self._tell(obj)

    def _tell(self, obj: dict[str, Any]) -> None:
        labels = obj["metadata"].get("labels", {})
        place = (labels.get("tandem.dev/fleet", ""), labels.get("tandem.dev/pool", ""), obj["spec"]["replicas"])
        waiting = self._waiting.pop(place, None)
        if waiting and not waiting.done():
            waiting.set_result(time.perf_counter())


async def _objects(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for data, _ in stream.content.iter_chunks():
        *lines, rest = (rest + data).split(b"\n")
        for line in filter(None, lines):
            yield json.loads(line)["object"]


@asynccontextmanager
async def connect(credentials: Credentials) -> AsyncIterator[Api]:
    """An `Api` whose watch runs."""
    connector = aiohttp.TCPConnector(ssl=credentials.tls(), limit=0)
    headers = {"Authorization": f"Bearer {credentials.bearer()}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        api = Api(session, credentials.server)
        watching = asyncio.create_task(api.watch())
        try:
            yield api
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def at_once(works: Iterable[Callable[[], Awaitable[Any]]], width: int = 16) -> None:
    """All of them, `width` at a time."""
    gate = asyncio.Semaphore(width)

    async def run(work: Callable[[], Awaitable[Any]]) -> None:
        async with gate:
            await work()

    await asyncio.gather(*(run(work) for work in works))

"""Between an operator and a real API server: a proxy that refuses, delays, cuts and loses, as told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from integration.operator.conftest import Installation

from tandem_operator.credentials import Credentials, read_kubeconfig

_EXPIRED = json.dumps(
    {
        "type": "ERROR",
        "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"},
    }
)
WRITES = ("POST", "PUT", "PATCH", "DELETE")
_PASSED_ON = ("Authorization", "Content-Type", "Accept", "User-Agent")


@dataclass(frozen=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    is_watch: bool

    @property
    def is_change(self) -> bool:
        """Anything but a read."""
        return self.method in WRITES

    @property
    def is_write(self) -> bool:
        """A change of anything but the lease."""
        return self.is_change and not self.is_of("leases")

    def is_of(self, plural: str) -> bool:
        """Whether it is about this collection or an object in it."""
        return plural in self.path.split("/")


@dataclass(frozen=True)
class Refusal:
    """An answer in place of the server's."""

    status: int
    reason: str = ""
    message: str = "refused by the test"
    headers: dict[str, str] = field(default_factory=dict)

    def to_response(self) -> web.Response:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status}
        body = {**status, "reason": self.reason, "message": self.message}
        return web.json_response(body, status=self.status, headers=self.headers)


@dataclass
class FaultProxy:
    """What goes wrong now. Attributes may be set from the test's thread at any time.

    Attributes:
        refuse: answers a call instead of the server, or lets it pass (None).
        is_away: no connection is served.
        held: collections whose watch events are kept back until they are released.
        expired: collections whose next watch, in each namespace, is told once that its version is too old: as an
            event, the real way.
    """

    upstream: Credentials
    refuse: Callable[[Call], Refusal | None] = lambda _: None
    is_away: bool = False
    delay_s: float = 0.0
    held: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    _told: set[str] = field(default_factory=set)
    _watches: set[asyncio.Task[Any]] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _session: aiohttp.ClientSession | None = None

    def cut_watches(self) -> None:
        """Ends every stream of events without a word."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._watches])

    def writes(self) -> int:
        """Changes asked for so far, the lease apart."""
        return sum(call.is_write for call in self.calls)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.refuse, self.is_away, self.delay_s = lambda _: None, False, 0.0
        self.held.clear()
        self.expired.clear()
        self._told.clear()

    async def start(self) -> web.AppRunner:
        """Serves on a free loopback port."""
        connector = aiohttp.TCPConnector(ssl=self.upstream.tls(), limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{rest:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, "watch" in request.query)
        self.calls.append(call)
        if self.is_away:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        refusal = self.refuse(call)
        if refusal:
            return refusal.to_response()
        if call.is_watch and call.path not in self._told and any(map(call.is_of, self.expired)):
            self._told.add(call.path)
            return web.Response(text=_EXPIRED + "\n", content_type="application/json")
        await asyncio.sleep(self.delay_s)
        assert self._session is not None
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        url = self.upstream.server + request.path_qs
        body = await request.read() or None
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            if call.is_watch:
                return await self._relay(request, call, answer)
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": answer.content_type}
            )

    async def _relay(self, request: web.Request, call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
        await response.prepare(request)
        streaming = asyncio.ensure_future(self._copy(call, answer, response))
        self._watches.add(streaming)
        try:
            await streaming
        except (asyncio.CancelledError, ConnectionError, aiohttp.ClientError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watches.discard(streaming)
        return response

    async def _copy(self, call: Call, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for line in _lines(answer):
            while self.is_away or any(map(call.is_of, self.held)):  # noqa: ASYNC110 - set by the test's thread
                await asyncio.sleep(0.05)
            await response.write(line)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines, however long."""
    rest = b""
    async for data, _ in answer.content.iter_chunks():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


@contextmanager
def proxied(installation: Installation, folder: Path) -> Iterator[tuple[FaultProxy, Installation]]:
    """A proxy, and the installation as seen through it."""
    proxy = FaultProxy(read_kubeconfig(installation.kubeconfig))
    loop = proxy._loop
    runner = loop.run_until_complete(proxy.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield proxy, replace(installation, kubeconfig=_write_kubeconfig(installation, proxy.port, folder / "proxied"))
    finally:
        proxy.heal()
        asyncio.run_coroutine_threadsafe(_close(proxy, runner), loop).result(15)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(15)
        loop.close()


async def _close(proxy: FaultProxy, runner: web.AppRunner) -> None:
    for task in list(proxy._watches):
        task.cancel()
    await runner.cleanup()
    if proxy._session:
        await proxy._session.close()


def _write_kubeconfig(installation: Installation, port: int, path: Path) -> Path:
    document: dict[str, Any] = yaml.safe_load(installation.kubeconfig.read_text())
    for entry in document["clusters"]:
        entry["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    path.write_text(json.dumps(document))
    return path

"""A scripted engine and its admin port, a router over them, and a raw client: all in one process, on loopback."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tandem_router.app import Router
from tandem_router.settings import Settings, parse_settings

KV_PARAMS = {"do_remote_prefill": True, "remote_engine_id": "e1", "remote_block_ids": [[1, 2]], "mac": "AbC-_9"}
TOKENS = ("Hel", "lo", " wor", "ld")


@dataclass
class Seen:
    """One request that an engine received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived_s: float
    closed_s: float | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Channel:
    """What a behaviour writes to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, status: int, value: Any, headers: str = "") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def event(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        await self.chunk(f"data: {text}\n\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        self.writer.transport.abort()


Behaviour = Callable[[Seen, Channel], Awaitable[None]]


def token_chunk(text: str) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


def usage_of(completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 11,
        "completion_tokens": completion,
        "total_tokens": 11 + completion,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def answer(seen: Seen, channel: Channel) -> None:
    """Do what a healthy engine does."""
    ask = seen.json
    params = ask.get("kv_transfer_params") or {}
    if params.get("do_remote_decode"):
        await channel.json(200, {"choices": [], "usage": usage_of(1), "kv_transfer_params": KV_PARAMS})
    elif ask.get("stream"):
        await channel.begin_stream()
        for text in TOKENS:
            await channel.event(token_chunk(text))
        if (ask.get("stream_options") or {}).get("include_usage"):
            await channel.event({"id": "x", "choices": [], "usage": usage_of(4)})
        await channel.event("[DONE]")
        await channel.end_stream()
    else:
        await channel.json(200, {"choices": [{"message": {"content": "".join(TOKENS)}}], "usage": usage_of(4)})


async def hang(seen: Seen, channel: Channel) -> None:
    """Never answer."""
    await seen.closed.wait()


async def die(seen: Seen, channel: Channel) -> None:
    """Close the connection without a word."""
    channel.reset()


async def garbage(seen: Seen, channel: Channel) -> None:
    """Answer with what is not HTTP."""
    await channel.send(b"\x00\xff not http at all\r\n\r\n")


def refuse(status: int) -> Behaviour:
    """Answer with an error."""

    async def behave(seen: Seen, channel: Channel) -> None:
        await channel.json(status, {"error": {"message": "scripted", "type": "scripted", "code": status}})

    return behave


async def die_mid_stream(seen: Seen, channel: Channel) -> None:
    """Two tokens, then a reset."""
    await channel.begin_stream()
    for text in TOKENS[:2]:
        await channel.event(token_chunk(text))
    await asyncio.sleep(0.02)
    channel.reset()


@dataclass
class Engine:
    """A scripted worker: engine port and admin port."""

    name: str
    role: str
    behave: Behaviour = answer
    kv_revision: str = "a"
    seen: list[Seen] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    release_tokens: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    state_polls: int = 0
    http_port: int = 0
    admin_port: int = 0
    is_admin_mute: bool = False
    address: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None  # of the engine's port
    servers: list[asyncio.Server] = field(default_factory=list)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    connections: int = 0

    async def start(self) -> None:
        self.http_port = await self._listen(self._serve_engine, self.tls)
        self.admin_port = await self._listen(self._serve_admin)

    async def _listen(self, serve: Any, tls: ssl.SSLContext | None = None) -> int:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.tasks.add(task)
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the router closed, or the test is over
            finally:
                self.tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(guarded, self.address, 0, limit=1 << 24, ssl=tls)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        for server in self.servers:
            server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def saw_request(self) -> Seen:
        """Wait for the first request."""
        while not self.seen:  # noqa: ASYNC110 - what is waited for is another connection's data
            await asyncio.sleep(0.001)
        return self.seen[0]

    def stop_listening(self) -> None:
        self.servers[0].close()

    async def _serve_engine(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            seen = await read_request(reader)
            self.seen.append(seen)
            watcher = asyncio.create_task(watch_close(reader, seen))
            self.tasks.add(watcher)
            try:
                await self.behave(seen, Channel(writer))
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
                self.tasks.discard(watcher)
            if writer.is_closing() or seen.closed.is_set():
                return

    async def _serve_admin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(writer)
        while True:
            seen = await read_request(reader)
            if self.is_admin_mute:
                await asyncio.sleep(3600)
            if seen.path == "/tandem/v1/state":
                self.state_polls += 1
                await channel.json(200, self.describe())
            else:
                self.released.append(seen.json["request_id"])
                self.release_tokens.append(seen.headers.get("authorization", ""))
                await channel.json(200, {"released": 1})

    def describe(self) -> dict[str, Any]:
        base = {
            "fleet": "default/demo",
            "role": self.role,
            "kv_revision": self.kv_revision,
            "instance": f"{self.name}-1",
            "ready": True,
            "draining": False,
            "slots": 8,
        }
        return base | self.state

    def entry(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role,
            "address": self.address,
            "tls": self.tls is not None,
            "httpPort": self.http_port,
            "adminPort": self.admin_port,
            "kvRevision": self.kv_revision,
        }


async def read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, path, _ = first.split(" ")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, path, headers, body, time.monotonic())


async def watch_close(reader: asyncio.StreamReader, seen: Seen) -> None:
    with suppress(ConnectionError):
        await reader.read(1)
    seen.closed_s = time.monotonic()
    seen.closed.set()


@dataclass
class Bench:
    """A running router over scripted engines."""

    router: Router
    engines: dict[str, Engine]
    file: Path
    fleet: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.port}"

    def __getitem__(self, name: str) -> Engine:
        return self.engines[name]

    def write(self) -> None:
        workers = [engine.entry() for engine in self.engines.values()]
        self.file.write_text(json.dumps({"fleets": [{**self.fleet, "workers": workers}]}))

    async def settle(self) -> None:
        """Wait until the router uses every engine."""
        for _ in range(400):
            now_s = asyncio.get_running_loop().time()
            if sum(worker.is_usable(now_s) for _, worker in self.router.catalog.workers()) == len(self.engines):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the router does not use every engine")

    def outcomes(self) -> dict[str, int]:
        return dict(self.router.metrics.of("m").outcomes)

    def routes(self) -> dict[str, int]:
        return dict(self.router.metrics.of("m").routes)

    def assert_idle(self) -> None:
        assert self.router.metrics.of("m").inflight == 0
        for _, worker in self.router.catalog.workers():
            assert (worker.claimed, worker.claimed_tokens, worker.exchanges) == (0, 0, set())

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        for _ in range(200):
            if self.router.metrics.of("m").inflight == 0:
                break
            await asyncio.sleep(0.005)
        self.assert_idle()


def settings_for(file: Path, tmp_path: Path, **changes: Any) -> Settings:
    base = parse_settings(["--host", "127.0.0.1", "--static", str(file), "--keys-dir", str(tmp_path)], {})
    defaults = {"port": 0, "internal_port": 0, "drain_timeout_s": 5.0, "kv_probe": False}
    return replace(base, **(defaults | changes))


@asynccontextmanager
async def running(
    tmp_path: Path, engines: list[Engine], fleet: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Bench]:
    """A router over `engines`; `fleet` and `changes` override the static file's and the settings' fields."""
    for engine in engines:
        await engine.start()
    file = tmp_path / "fleets.yaml"
    bench_fleet = {"name": "demo", "servedName": "m", "uid": "u-1", **(fleet or {})}
    bench = Bench(None, {engine.name: engine for engine in engines}, file, bench_fleet)  # type: ignore[arg-type] # made below
    bench.write()
    bench.router = Router(settings_for(file, tmp_path, **changes))
    await bench.router.start()
    try:
        await bench.settle()
        yield bench
    finally:
        await bench.router.close()
        for engine in engines:
            await engine.stop()


def pair() -> list[Engine]:
    """One prefill and one decode worker."""
    return [Engine("p0", "prefill"), Engine("d0", "decode")]


def chat(**fields: Any) -> dict[str, Any]:
    """Body of a chat request."""
    return {"model": "m", "messages": [{"role": "user", "content": "Say hello"}], **fields}


def http_post(body: bytes | dict[str, Any], path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    """Bytes of a POST request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if "content-type" not in headers.lower():
        headers += "Content-Type: application/json\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: r\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


@dataclass
class RawAnswer:
    """An HTTP answer as it was on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool = False) -> RawAnswer:
    """Read one answer; `is_whole` tells whether its framing was complete."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if is_head or status < 200:
        return RawAnswer(status, headers, b"", True)
    body, is_whole = bytearray(), True
    try:
        if "content-length" in headers:
            body += await reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                body += await reader.readexactly(size)
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
        else:
            body += await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError):
        is_whole = False
    return RawAnswer(status, headers, bytes(body), is_whole)


def connected(
    bench: Bench, tls: ssl.SSLContext | None = None
) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to the router."""
    return connected_to(bench.router.port, bench.router.address, tls)


@asynccontextmanager
async def connected_to(
    port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to a port on loopback."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 24, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(
    bench: Bench, request: bytes, *, is_head: bool = False, tls: ssl.SSLContext | None = None
) -> RawAnswer:
    """Send bytes on a new connection, read one answer."""
    async with connected(bench, tls) as (reader, writer):
        writer.write(request)
        return await asyncio.wait_for(read_answer(reader, is_head=is_head), 10)


async def ask(bench: Bench, headers: str = "", **fields: Any) -> RawAnswer:
    """Send one chat request."""
    return await exchange(bench, http_post(chat(**fields), headers=headers))

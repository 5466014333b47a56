"""Regions in one process: a router each over scripted engines, on loopback, joined by lines that can be cut."""

import asyncio
import contextlib
import json
import random
import shutil
import socket
from dataclasses import dataclass, field
from unittest.mock import patch

from unit.router.scripted import Engine, RawAnswer, chat, connected_to, http_post, read_answer, settings_for

from tandem_core.keys import ROUTER_KEY_FILE, derive_internal_token, encode_key
from tandem_router.app import Router
from tandem_router.discovery import static_file

TOKEN = "region-token-one"


@dataclass
class Wire:
    """A TCP proxy that stands for the way between two regions: slow, or cut in one direction or both.

    Connections go to the targets in turn, as through a load balancer; those that refuse are passed over.
    """

    targets: list[int]
    port: int = 0
    delay_s: float = 0.0
    there: bool = True
    back: bool = True
    is_refusing: bool = False
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task] = field(default_factory=set)

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self):
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        if self.is_refusing:
            writer.transport.abort()
            return
        self._tasks.add(asyncio.current_task())
        far = await self._connect()
        if far is None:
            writer.transport.abort()
            self._tasks.discard(asyncio.current_task())
            return
        far_reader, far_writer = far
        self._writers |= {writer, far_writer}
        ways = [
            asyncio.create_task(self._carry(reader, far_writer, "there")),
            asyncio.create_task(self._carry(far_reader, writer, "back")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (writer, far_writer):
                one.transport.abort()
                self._writers.discard(one)
            self._tasks.discard(asyncio.current_task())

    async def _connect(self):
        for _ in self.targets:
            self.targets.append(self.targets.pop(0))
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self.targets[-1])
        return None

    async def _carry(self, reader, writer, way):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s)
                while not getattr(self, way):  # noqa: ASYNC110 - a hole in the net makes no sound
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()


@dataclass
class Region:
    """One region: its router, its engines, and what its static file says."""

    name: str
    router: Router
    engines: dict[str, Engine]
    fleet: dict
    folder: object
    peers: list[dict] = field(default_factory=list)
    changes: dict = field(default_factory=dict)
    all_engines: list = field(default_factory=list)

    async def start(self, labels):
        """Run, until the own engines are used."""
        for engine in self.engines.values():
            await engine.start()
        self.all_engines = list(self.engines.values())
        self.write(labels=labels)
        self.router = Router(settings_for(self.folder / "fleets.yaml", self.folder, **self.changes))
        await self.router.start()
        await self.until(lambda: len(self.router.catalog.fleets) == 1 and usable(self) == len(self.engines))

    async def stop(self):
        if self.router is not None:
            await self.router.close()
        for engine in self.all_engines:
            await engine.stop()

    def write(self, **own):
        workers = [engine.entry() for engine in self.engines.values()]
        regions = [{"name": self.name, **own}, *self.peers]
        text = json.dumps({"fleets": [{**self.fleet, "workers": workers}], "regions": regions})
        (self.folder / "fleets.yaml").write_text(text)

    async def ask(self, headers="", **fields) -> RawAnswer:
        return await self.send(http_post(chat(**fields), headers=headers))

    async def send(self, request, timeout_s=90) -> RawAnswer:
        async with connected_to(self.router.port) as (reader, writer):
            writer.write(request)
            return await asyncio.wait_for(read_answer(reader), timeout_s)

    async def internal(self, path, token=None, headers="", method="GET", body=b"") -> RawAnswer:
        shown = token or derive_internal_token(self.key)
        head = f"{method} {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {shown}\r\n{headers}"
        async with connected_to(self.router.internal_port) as (reader, writer):
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return await asyncio.wait_for(read_answer(reader), 10)

    @property
    def key(self):
        return self.name.encode().ljust(32, b"k")

    def peer(self, name):
        return self.router.border.atlas.peers[name]

    async def until(self, check, timeout_s=90.0):  # machines are shared
        async with asyncio.timeout(timeout_s):
            while not check():  # noqa: ASYNC110 - the condition is the router's state
                await asyncio.sleep(0.01)

    async def hears(self, *others):
        """Until the others are up, and known with all of their engines."""
        await self.until(lambda: all(self.peer(other.name).state == "up" and self.knows(other) for other in others))

    def knows(self, other):
        digest = self.peer(other.name).digest("default/demo")
        is_known = digest is not None and digest.prefill_workers == len(other.engines)
        return is_known and self.peer(other.name).rtt_s is not None

    def served(self):
        return sum(len(engine.seen) for engine in self.engines.values())


def free_ports(count):
    """Below what the kernel gives away by itself, or another connection takes one before the router listens there."""
    ports = []
    while len(ports) < count:
        port = random.randint(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports


@dataclass
class World:
    """All regions, and the wires between them by (from, to)."""

    regions: dict[str, Region]
    wires: dict[tuple[str, str], Wire]

    def __getitem__(self, name) -> Region:
        return self.regions[name]


@dataclass
class Plan:
    """What a world is made of: by region how many engines, and what its files say."""

    sizes: dict[str, int]
    labels: dict = field(default_factory=dict)
    tenants: str | None = None
    settings: dict = field(default_factory=dict)
    fleet: dict = field(default_factory=dict)
    place: str = "http://127.0.0.1"
    ca: object = None

    def build(self, name, folder, port, wires):
        """One region: files, engines, router; nothing runs yet."""
        (folder / "peers").mkdir(parents=True)
        engines = {f"{name}-{i}": Engine(f"{name}-{i}", "mixed") for i in range(self.sizes[name])}
        fleet = {"name": "demo", "servedName": "m", "uid": f"u-{name}", "ttftSeconds": 2.0, **self.fleet}
        region = Region(name, None, engines, fleet, folder)
        (folder / "token").write_text(TOKEN + "\n")
        (folder / ROUTER_KEY_FILE).write_text(encode_key(region.key))
        for other in self.sizes.keys() - {name}:
            (folder / "peers" / other).mkdir()
            (folder / "peers" / other / "token").write_text(TOKEN)
            if self.ca is not None:
                shutil.copy(self.ca, folder / "peers" / other / "ca.crt")
            url = f"{self.place}:{wires[name, other].port}"
            region.peers.append({"name": other, "url": url, "labels": self.labels.get(other, {})})
        region.changes = {
            "region": name, "regions_dir": folder / "peers", "region_token_file": folder / "token",
            "internal_port": port, "replica": f"router-{name}", **self.settings,
        }  # fmt: skip
        if self.tenants is not None:
            (folder / "tenants.yaml").write_text(self.tenants)
            region.changes["tenants_file"] = folder / "tenants.yaml"
        return region


@contextlib.asynccontextmanager
async def world(tmp_path, sizes, **plan):
    """Regions by name with so many mixed engines each; all hear all when it begins."""
    made_of = Plan(sizes, **plan)
    ports = dict(zip(sizes, free_ports(len(sizes)), strict=True))
    wires = {(a, b): Wire([ports[b]]) for a in sizes for b in sizes if a != b}
    for wire in wires.values():
        await wire.start()
    regions = {name: made_of.build(name, tmp_path / name, ports[name], wires) for name in sizes}
    with patch.object(static_file, "CHECK_INTERVAL_S", 0.05):  # the default is made for people
        try:
            for region in regions.values():
                await region.start(made_of.labels.get(region.name, {}))
            for region in regions.values():
                await region.hears(*(other for other in regions.values() if other is not region))
            yield World(regions, wires)
        finally:
            for region in regions.values():
                await region.stop()
            for wire in wires.values():
                await wire.stop()


def usable(region):
    now_s = asyncio.get_running_loop().time()
    return sum(worker.is_usable(now_s) for _, worker in region.router.catalog.workers())

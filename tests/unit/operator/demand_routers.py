"""Routers that answer for demand on loopback, and a cluster that takes sizes: what the autoscaler's loop touches."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from tandem_api import labels
from tandem_api.router import (
    DEMAND_PAGE_S,
    DEMAND_PATH,
    ArrivalRecord,
    DemandAnswer,
    DemandBin,
    DemandLevels,
    EndingRecord,
    FleetDemand,
)
from tandem_core.keys import RootKeys
from tandem_operator.autoscaler import Autoscaler
from tandem_operator.demand_reader import DemandReader
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, POD, WORKER_POOL, Kind, Manifest
from tandem_operator.metrics import Metrics
from tandem_operator.model import Home, Key
from tandem_operator.store import Store

START = 1_800_000_000
ROOTS = RootKeys(bytes(32))
UID = "uid-fleet"
SCALED = {
    "model": {"name": "org/model"},
    "engine": {"performanceProfile": "70b-h100-tp4"},
    "prefill": {"max": 40, "parallelism": {"tensor": 4}},
    "decode": {"max": 40, "parallelism": {"tensor": 4}},
    "objectives": {"ttft": {"percentile": "p99", "seconds": 2}, "tpot": {"percentile": "p99", "seconds": 0.05}},
    "autoscaling": {"mode": "Objectives"},
}


@dataclass
class Clock:
    """Unix time that a test moves."""

    now_s: float = float(START)

    def __call__(self) -> float:
        return self.now_s


@dataclass
class DemandRouter:
    """One router process. `rate_rps` prompts of `tokens` tokens come each second, and end in it."""

    clock: Callable[[], float]
    rate_rps: int = 0
    tokens: int = 5000
    epoch: str = "first"
    started_s: int = START - 120
    ttft_s: float = 0.5
    repeats: bool = False
    asked: list[int] = field(default_factory=list)
    change: Any = None  # DemandAnswer → what to send instead
    silent_from_s: int | None = None
    is_down: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        if self.is_down:
            return web.Response(status=503)
        cursor = int(request.query["cursor"])
        self.asked.append(cursor)
        now = int(self.clock())
        covers = self.started_s if self.repeats else min(max(cursor, self.started_s, now - 3600), now)
        answer = self._build(covers, min(now, covers + DEMAND_PAGE_S))
        return web.Response(text=self.change(answer) if self.change else answer.model_dump_json())

    def _build(self, covers: int, until: int) -> DemandAnswer:
        last = until if self.silent_from_s is None else min(until, self.silent_from_s)
        seconds = range(covers, last) if self.rate_rps else range(0)
        fleet = FleetDemand(
            namespace="team",
            name="llama",
            uid=UID,
            bins=tuple(self._bin(second) for second in seconds),
            arrivals=tuple(ArrivalRecord(at, self.tokens) for second in seconds for at in self._times(second)),
            endings=tuple(
                EndingRecord(at, ttft_s=self.ttft_s, tpot_s=0.02, decode_s=4.0, prompt_tokens=self.tokens)
                for second in seconds
                for at in self._times(second)
            ),
            levels=DemandLevels(decode_sequences=4 * self.rate_rps if seconds else 0),
        )
        fleets = (fleet,) if seconds else ()
        return DemandAnswer(
            replica="r", epoch=self.epoch, now_s=self.clock(), covers_from=covers, cursor=until, fleets=fleets
        )

    def _times(self, second: int) -> list[float]:
        return [second + number / self.rate_rps for number in range(self.rate_rps)]

    def _bin(self, second: int) -> DemandBin:
        rate, tokens = self.rate_rps, self.tokens
        return DemandBin(
            second=second,
            arrivals=rate,
            new_tokens=rate * tokens,
            square_tokens=rate * tokens * tokens,
            prompt_tokens=rate * tokens,
            finished=rate,
            held_s=4.0 * rate,
            held_kv_s=4.0 * rate * tokens,
        )


class SizesOnly:
    """An API server that takes sizes and Events, and shows them to the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scaled: list[tuple[str, int]] = []
        self.events: list[Manifest] = []

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, manager: str) -> None:
        assert (kind, manager) == (WORKER_POOL, "tandem-scale")
        self.scaled.append((name, replicas))
        put_pool(self._store, name.rsplit("-", 1)[1], replicas)

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        self.events.append(manifest)
        return manifest


def address_of(name: str) -> str:
    """An address that no other test process on this machine has: every router listens on the same port."""
    return f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{ord(name[0]) - 90}"


_versions = iter(range(1, 1_000_000))


def _metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(next(_versions)), **more}


def put_pool(store: Store, role: str, replicas: int) -> None:
    metadata = _metadata(f"llama-{role}", labels={labels.FLEET: "llama", labels.POOL: role})
    store.upsert(WORKER_POOL, {"metadata": metadata, "spec": {"role": role, "fleet": "llama", "replicas": replicas}})


def put_fleet(store: Store, generation: int = 1, status: dict[str, Any] | None = None, **spec: Any) -> None:
    metadata = _metadata("llama", generation=generation) | {"uid": UID}
    store.upsert(INFERENCE_DEPLOYMENT, {"metadata": metadata, "spec": {**SCALED, **spec}, "status": status or {}})


def put_router(store: Store, name: str, address: str) -> None:
    metadata = _metadata(name, labels={labels.COMPONENT: labels.ROUTER_COMPONENT}) | {"namespace": "home"}
    status = {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
    store.upsert(POD, {"metadata": metadata, "status": status})


@dataclass
class Stage:
    """One leader with its store, its routers and its cluster."""

    clock: Clock = field(default_factory=Clock)
    changed: list[Key] = field(default_factory=list)
    home: Home = field(default_factory=lambda: Home("home"))

    def __post_init__(self) -> None:
        self.store = Store(lambda key: None)
        self.cluster = SizesOnly(self.store)
        self.metrics = Metrics()
        self.session: aiohttp.ClientSession
        self.reader: DemandReader
        self.new_leader()

    def new_leader(self) -> None:
        """Another process, which knows what the cluster and the routers tell."""
        made: Any = self.cluster
        self.autoscaler = Autoscaler(
            made, self.store, self.metrics, lambda: True, self.changed.append, clock=self.clock
        )
        self.autoscaler.use(ROOTS)
        if hasattr(self, "session"):
            self.reader = self.autoscaler.build_reader(self.session)

    async def rounds(self, count: int = 1, every_s: float = 5.0) -> None:
        """So many rounds of the loop."""
        for _ in range(count):
            self.clock.now_s += every_s
            await self.autoscaler.round_once(self.reader, self.home)

    def sizes(self) -> tuple[int, int]:
        pools = {p["spec"]["role"]: p["spec"]["replicas"] for p in self.store.all(WORKER_POOL)}
        return pools["prefill"], pools["decode"]

    @property
    def decisions(self) -> float:
        """How many were made, of each role."""
        lines = self.metrics.render().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("tandem_operator_decision_total{")
        )

    @property
    def decision(self) -> Any:
        said = self.autoscaler.said(UID)
        assert said is not None
        return said.decision

    @property
    def word(self) -> Any:
        """What this region says to the others."""
        said = self.autoscaler.said(UID)
        assert said is not None
        return said.region_demand

    @asynccontextmanager
    async def routers(self, **routers: DemandRouter) -> AsyncIterator[None]:
        """Serves them on loopback."""
        runners = []
        async with aiohttp.ClientSession() as self.session:
            self.reader = self.autoscaler.build_reader(self.session)
            for name, router in routers.items():
                address = address_of(name)
                app = web.Application()
                app.add_routes([web.get(DEMAND_PATH, router.answer)])
                runner = web.AppRunner(app, shutdown_timeout=0.1)
                await runner.setup()
                await web.TCPSite(runner, address, labels.ROUTER_INTERNAL_PORT).start()
                runners.append(runner)
                put_router(self.store, name, address)
            try:
                yield
            finally:
                for runner in runners:
                    await runner.cleanup()


def make_stage(sizes: tuple[int, int] = (2, 2), **spec: Any) -> Stage:
    """A fleet that is born, at these sizes."""
    stage = Stage()
    put_fleet(stage.store, **spec)
    for role, replicas in zip(("prefill", "decode"), sizes, strict=True):
        put_pool(stage.store, role, replicas)
    return stage

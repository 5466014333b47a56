"""Clients of all regions: each asks at a steady rate, whatever became of the request before."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from regions.ledger import Ended, Ledger
from regions.setup import KEYS
from regions.world import World

TOKENS = 8
PROMPT = "which region answers this one, and was it allowed to? " * 4
TIMEOUT_S = 60.0
MODEL = "example/chat"


@dataclass
class Load:
    """All clients.

    Attributes:
        rates: requests per second by (region that is asked, tenant); may be changed while it runs.
        moved: requests whose own region was dead, so that its client asked the next one.
    """

    world: World
    rates: dict[tuple[str, str], float]
    model: str = MODEL
    ledger: Ledger = field(default_factory=Ledger)
    moved: int = 0
    _numbers: Any = field(default_factory=itertools.count)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`; every request that was begun is in the ledger then."""
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for entry, tenant in self.rates:
                group.create_task(self._keep_asking(client, entry, tenant, stop))

    async def ask_once(self, entry: str, tenant: str) -> Ended:
        """One request by itself."""
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client:
            return await self._try(client, entry, tenant, time.monotonic())

    async def _keep_asking(self, client: httpx.AsyncClient, entry: str, tenant: str, stop: asyncio.Event) -> None:
        due_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                due_s += 1.0 / self.rates[entry, tenant]
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(self._ask(client, entry, tenant))

    async def _ask(self, client: httpx.AsyncClient, entry: str, tenant: str) -> None:
        """One request; of a region that is dead, to the next one that lives, as name servers would do it."""
        began_s = time.monotonic()
        ended = await self._try(client, entry, tenant, began_s)
        for other in self.world.regions if self.world.regions[entry].is_dead else ():
            if ended.outcome != "lost" or self.world.regions[other].is_dead:
                continue
            self.moved += 1
            ended = await self._try(client, other, tenant, began_s)
        self.ledger.entries.append(ended)

    async def _try(self, client: httpx.AsyncClient, entry: str, tenant: str, began_s: float) -> Ended:
        answer = _Answer()
        try:
            async with client.stream(
                "POST",
                f"{self.world.regions[entry].entry}/v1/completions",
                json=build_body(self.model, next(self._numbers)),
                headers={"Authorization": f"Bearer {KEYS[tenant]}"},
            ) as response:
                answer.take_head(response.headers)
                if response.is_error:
                    answer.refuse(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    answer.take_line(line)
        except httpx.HTTPError as error:
            answer.detail = type(error).__name__
        pods = (self.world.region_of(worker) for worker in answer.workers)
        ttft_s = answer.first_s - began_s if answer.first_s else None
        places = frozenset(place for place in pods if place)
        return Ended(
            entry, tenant, began_s, time.monotonic(), answer.judge(), answer.region, places, ttft_s, answer.detail
        )


def build_body(model: str, number: int) -> Mapping[str, object]:
    """A prompt that nobody else asks."""
    return {
        "model": model,
        "prompt": f"{number:08d} {PROMPT}",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@dataclass
class _Answer:
    """What came of one request, as it comes."""

    region: str | None = None
    workers: tuple[str, ...] = ()
    first_s: float | None = None
    tokens: int = 0
    status: int = 0
    detail: str = ""
    is_told: bool = False  # the client was told of an error

    def take_head(self, headers: Mapping[str, str]) -> None:
        self.region = headers.get("x-tandem-region")
        self.workers = tuple(filter(None, headers.get("x-served-by", "").split(",")))

    def refuse(self, status: int, body: bytes) -> None:
        try:
            error = json.loads(body)["error"]
            self.detail, self.is_told = f"{status} {error['code']}", True
        except (ValueError, KeyError, TypeError):
            self.detail = f"{status} without a typed error"

    def take_line(self, line: str) -> None:
        if not line.startswith("data: {"):
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.detail, self.is_told = f"event {event['error'].get('code')}", True
        if event.get("choices"):
            self.first_s = self.first_s or time.monotonic()
        self.tokens = int((event.get("usage") or {}).get("completion_tokens", self.tokens))

    def judge(self) -> str:
        if self.is_told:
            return "cut" if self.first_s else "refused"
        if self.tokens == TOKENS:
            return "ok"
        self.detail = self.detail or f"{self.tokens} of {TOKENS} tokens"
        return "lost"

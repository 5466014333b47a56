"""What the routers believe of one another, looked at ten times a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from regions.world import Region, World

LOOK_S = 0.1
PODS_S = 1.0


@dataclass(frozen=True)
class Belief:
    """One router's state of one peer, from when on it was seen."""

    at_s: float
    observer: str
    peer: str
    state: str


@dataclass(frozen=True)
class Down:
    """A time in which one router believed a peer down."""

    at_s: float
    observer: str
    peer: str
    lasted_s: float

    def __str__(self) -> str:
        return f"{self.peer} by {self.observer} for {self.lasted_s:.1f} s"


@dataclass
class Watch:
    """Every change of belief, and what each peer is given at last."""

    world: World
    changes: list[Belief] = field(default_factory=list)
    accepts: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: dict[tuple[str, str], str] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client, asyncio.TaskGroup() as group:
            for region in self.world.regions.values():
                group.create_task(self._look_at(client, region, stop))
            group.create_task(self._follow_pods(stop))

    async def _look_at(self, client: httpx.AsyncClient, region: Region, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(LOOK_S)
            if region.is_dead or region.router is None:
                continue
            try:
                matrix = await region.fetch_matrix(client)
            except httpx.HTTPError:
                continue  # between two routers, or dying: the next look tells
            for name, peer in matrix.peers.items():
                self._note(region.name, name, peer.state)
                self.accepts[region.name, name] = peer.accepts

    def _note(self, observer: str, peer: str, state: str) -> None:
        if self._last.get((observer, peer)) != state:
            self._last[observer, peer] = state
            self.changes.append(Belief(time.monotonic(), observer, peer, state))

    async def _follow_pods(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.to_thread(self.world.look)
            await asyncio.sleep(PODS_S)

    def downs(self) -> Iterator[Down]:
        """Every time that a router believed a peer down."""
        for index, one in enumerate(self.changes):
            if one.state == "down":
                later = (
                    two for two in self.changes[index + 1 :] if (two.observer, two.peer) == (one.observer, one.peer)
                )
                until_s = min((change.at_s for change in later), default=time.monotonic())
                yield Down(one.at_s, one.observer, one.peer, until_s - one.at_s)

    def beliefs(self) -> str:
        """What everybody believes now."""
        return ", ".join(f"{peer} is {state} for {observer}" for (observer, peer), state in self._last.items())

    def state(self, observer: str, peer: str) -> str:
        """What `observer` believes of `peer` now."""
        return self._last.get((observer, peer), "unknown")

    def first(self, observer: str, peer: str, states: tuple[str, ...], from_s: float, until_s: float) -> float | None:
        """Seconds from `from_s` until a state was seen; None: it never was."""
        seen = (one for one in self.changes if (one.observer, one.peer) == (observer, peer) and one.state in states)
        return next((one.at_s - from_s for one in seen if from_s <= one.at_s < until_s), None)

    async def until_all_up(self, patience_s: float) -> bool:
        """Every living region believes in every other one, and gives it its whole share."""
        deadline = time.monotonic() + patience_s
        living = [region.name for region in self.world.regions.values() if not region.is_dead]
        pairs = [(a, b) for a in living for b in living if a != b]
        while not all(self.state(*pair) == "up" and self.accepts.get(pair, 0.0) >= 1.0 for pair in pairs):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return True

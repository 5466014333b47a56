"""What is done to the regions, and what has to come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from regions.line import CLEAR
from regions.load import Load
from regions.setup import NAMESPACE
from regions.world import NAMES, World

Pair = tuple[str, str]
ALL_WAYS = frozenset(permutations(NAMES, 2))
HOLD_S = 15.0
OVERLOAD = 5.0  # times its rate: more than one region can prefill, less than all three


@dataclass(frozen=True)
class Scenario:
    """One thing that happens.

    Attributes:
        cut_ways: (from, to) that cannot be used meanwhile.
        found_by: (observer, peer) that has to be believed down, within the limit.
        stays_up: nobody may be believed down.
        may_cut: streams that a lost region was serving may end with a typed error.
        leaves: regions whose clients have to be served elsewhere meanwhile, those of tenants without residency.
    """

    name: str
    hurt: Callable[[World, Load], Awaitable[None]]
    heal: Callable[[World, Load], Awaitable[None]] | None
    hold_s: float = HOLD_S
    cut_ways: frozenset[Pair] = frozenset()
    found_by: tuple[Pair, ...] = ()
    stays_up: bool = False
    may_cut: bool = False
    leaves: tuple[str, ...] = ()
    dead: tuple[str, ...] = field(default=())

    def can_reach(self, entry: str, region: str) -> bool:
        """Whether a request that was asked in `entry` can be served in `region`."""
        return region not in self.dead and (entry == region or (entry, region) not in self.cut_ways)


async def nothing(world: World, load: Load) -> None:
    """All is well."""


def change_lines(ways: frozenset[Pair], **weather: Any) -> Callable[[World, Load], Awaitable[None]]:
    """Another weather on some lines, a clear sky on the others."""

    async def change(world: World, load: Load) -> None:
        for pair in ALL_WAYS:
            world.lines.change(pair, replace(CLEAR, **(weather if pair in ways else {})))

    return change


def multiply(region: str, factor: float) -> Callable[[World, Load], Awaitable[None]]:
    """So many times the requests of a region's clients of tenants that may go anywhere."""

    async def change(world: World, load: Load) -> None:
        load.rates[region, "anywhere"] *= factor

    return change


def set_drain(region: str, is_on: bool) -> Callable[[World, Load], Awaitable[None]]:
    """spec.drain of a region's own InferenceRegion, in its own cluster alone."""

    async def change(world: World, load: Load) -> None:
        await asyncio.to_thread(world.regions[region].patch_region, region, drain=is_on)

    return change


def restart_routers(region: str) -> Callable[[World, Load], Awaitable[None]]:
    """A rollout of a region's routers."""

    async def change(world: World, load: Load) -> None:
        kubectl = world.regions[region].cluster.kubectl
        await asyncio.to_thread(kubectl, "rollout", "restart", "deploy/tandem-router", "-n", NAMESPACE)

    return change


def kill(region: str) -> Callable[[World, Load], Awaitable[None]]:
    """Every process of a region."""

    async def change(world: World, load: Load) -> None:
        await asyncio.to_thread(world.regions[region].kill)

    return change


def ways_of(region: str) -> frozenset[Pair]:
    """All lines to and from a region."""
    return frozenset(pair for pair in ALL_WAYS if region in pair)


_CLEAR = change_lines(frozenset())
_EU_US = frozenset({("eu", "us")})
_BETWEEN = frozenset({("eu", "us"), ("us", "eu")})
_CUT = {"there": False, "back": False}

SCENARIOS = (
    Scenario("clear", nothing, None, stays_up=True),
    Scenario(
        "overloaded", multiply("eu", OVERLOAD), multiply("eu", 1 / OVERLOAD), hold_s=25.0, stays_up=True, leaves=("eu",)
    ),
    Scenario(
        "slow", change_lines(ways_of("us"), delay_s=0.15, loss=0.02, bytes_per_s=200_000.0), _CLEAR, stays_up=True
    ),
    Scenario("drained", set_drain("us", True), set_drain("us", False), stays_up=True, leaves=("us",)),
    Scenario("routers restart", restart_routers("ap"), None, hold_s=25.0, stays_up=True),
    Scenario(
        "cut one way",
        change_lines(_EU_US, there=False),
        _CLEAR,
        cut_ways=_EU_US,
        found_by=(("eu", "us"),),
        may_cut=True,
    ),
    Scenario(
        "cut both ways",
        change_lines(_BETWEEN, **_CUT),
        _CLEAR,
        cut_ways=_BETWEEN,
        found_by=(("eu", "us"), ("us", "eu")),
        may_cut=True,
    ),
    Scenario(
        "cut off",
        change_lines(ways_of("us"), **_CUT),
        _CLEAR,
        cut_ways=ways_of("us"),
        found_by=(("eu", "us"), ("ap", "us"), ("us", "eu"), ("us", "ap")),
        may_cut=True,
    ),
    Scenario("killed", kill("us"), None, found_by=(("eu", "us"), ("ap", "us")), may_cut=True, dead=("us",)),
)

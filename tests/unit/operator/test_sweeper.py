"""Sweeps: when they are wanted, when they are overdue, and what they tell of watches that have died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from unit.operator.test_lease import Clock
from unit.operator.test_store import make

from tandem_operator.cluster import Cluster, Page
from tandem_operator.errors import ApiError
from tandem_operator.kinds import DEPLOYMENT, POD, Kind, Manifest
from tandem_operator.metrics import Metrics
from tandem_operator.store import Store
from tandem_operator.sweeper import PERIOD_S, Sweeper
from tandem_operator.watches import PATIENCE_S


@dataclass
class Lists:
    """What the API server would list."""

    objects: dict[Kind, list[Manifest]] = field(default_factory=dict)
    is_away: bool = False

    async def fetch_pages(self, kind: Kind, namespace: str | None, selector: str) -> AsyncIterator[Page]:
        if self.is_away:
            raise ApiError(503, "", "away")
        yield Page(tuple(self.objects.get(kind, ())), 100)


def make_sweeper(lists: Lists, clock: Clock) -> tuple[Sweeper, Store]:
    store = Store(lambda _: None)
    return Sweeper(cast(Cluster, lists), store, (), Metrics(), clock), store


async def test_news_that_no_event_brings_mean_a_dead_watch() -> None:
    lists, clock = Lists({POD: [make("p", 5)], DEPLOYMENT: [make("d", 5)]}), Clock()
    sweeper, _ = make_sweeper(lists, clock)
    await sweeper.sweep()
    sweeper.note_event(DEPLOYMENT, make("d", 5))
    clock.now_s += PATIENCE_S - 1
    assert sweeper.find_stale_watch() is None
    clock.now_s += 2
    assert sweeper.find_stale_watch() == POD


@pytest.mark.parametrize(
    ("version", "is_stale"),
    [(4, True), (5, False), (6, False)],
)
async def test_only_an_event_at_least_as_new_as_the_list_proves_that_the_watch_lives(
    version: int, is_stale: bool
) -> None:
    lists, clock = Lists({POD: [make("p", 5)]}), Clock()
    sweeper, _ = make_sweeper(lists, clock)
    await sweeper.sweep()
    sweeper.note_event(POD, make("p", version))
    clock.now_s += PATIENCE_S + 1
    assert (sweeper.find_stale_watch() is not None) is is_stale


async def test_what_is_gone_by_the_next_sweep_is_not_waited_for() -> None:
    lists, clock = Lists({POD: [make("p", 5)]}), Clock()
    sweeper, store = make_sweeper(lists, clock)
    await sweeper.sweep()
    lists.objects[POD] = []
    await sweeper.sweep()
    clock.now_s += PATIENCE_S + 1
    assert sweeper.find_stale_watch() is None
    assert store.all(POD) == []


async def test_what_an_event_brought_before_the_sweep_is_no_news() -> None:
    lists, clock = Lists({POD: [make("p", 5)]}), Clock()
    sweeper, store = make_sweeper(lists, clock)
    store.upsert(POD, make("p", 5))
    await sweeper.sweep()
    clock.now_s += PATIENCE_S + 1
    assert sweeper.find_stale_watch() is None


async def test_a_sweep_that_never_succeeds_is_overdue_in_the_end() -> None:
    lists, clock = Lists(is_away=True), Clock()
    sweeper, _ = make_sweeper(lists, clock)
    with pytest.raises(ApiError):
        await sweeper.sweep()
    assert not sweeper.is_synced
    clock.now_s += 3 * PERIOD_S - 1
    assert not sweeper.is_stale
    clock.now_s += 2
    assert sweeper.is_stale
    lists.is_away = False
    await sweeper.sweep()
    assert (sweeper.is_stale, sweeper.is_synced) == (False, True)


async def test_many_wishes_make_one_sweep_and_events_none(monkeypatch: Any) -> None:
    monkeypatch.setattr("tandem_operator.sweeper._DEBOUNCE_S", 0.01)
    sweeper, _ = make_sweeper(Lists(), Clock())
    sweeps: list[int] = []

    async def count() -> None:
        sweeps.append(1)

    monkeypatch.setattr(sweeper, "sweep", count)
    running = asyncio.create_task(sweeper.run())
    sweeper.note_event(POD, make("p", 1))
    await asyncio.sleep(0.05)
    assert sweeps == []
    for _ in range(50):
        sweeper.ask()
    await asyncio.sleep(0.1)
    running.cancel()
    assert len(sweeps) == 1

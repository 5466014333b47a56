"""Who may write, and until when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from tandem_operator.cluster import Cluster
from tandem_operator.errors import NotLeader, Unreachable
from tandem_operator.lease import (
    RENEW_DEADLINE_S,
    WATCH_PERIOD_S,
    Elector,
    Observation,
    Tenure,
    build_lease,
    can_take,
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_leader_stops_writing_before_anybody_else_may_start() -> None:
    clock = Clock()
    tenure = Tenure(clock)
    with pytest.raises(NotLeader):
        tenure.check()
    tenure.extend(clock.now_s)
    clock.now_s += RENEW_DEADLINE_S - 0.01
    tenure.check()
    clock.now_s += 0.01
    with pytest.raises(NotLeader):
        tenure.check()


def test_giving_up_is_immediate() -> None:
    clock = Clock()
    tenure = Tenure(clock)
    tenure.extend(clock.now_s)
    tenure.end()
    assert not tenure.is_held


@pytest.mark.parametrize(
    ("holder", "unchanged_s", "want"),
    [("me", 0.0, True), ("", 0.0, True), ("other", 14.9, False), ("other", 15.0, True)],
)
def test_a_lease_is_taken_when_free_or_unchanged_for_its_duration(holder: str, unchanged_s: float, want: bool) -> None:
    lease = build_lease("ns", "lease", holder, datetime(2026, 1, 1, tzinfo=UTC), 0)
    assert can_take(lease, Observation("7", 100.0), "me", 100.0 + unchanged_s) is want


class Away:
    """An API server that does not answer."""

    async def fetch(self, *_: object) -> None:
        raise Unreachable(0, "Unreachable", "connection refused")


async def test_while_the_api_server_is_away_it_is_asked_once_a_second_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    elector = Elector(cast(Cluster, Away()), Tenure(clock), clock, ("ns", "lease", "me"))
    for _ in range(30):
        await elector.step()
        assert elector.next_step_s() == WATCH_PERIOD_S
        clock.now_s += WATCH_PERIOD_S
    assert not elector.is_connected
    assert [record.levelname for record in caplog.records] == ["WARNING"]

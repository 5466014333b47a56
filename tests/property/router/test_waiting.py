"""Who waits, who starts, who is turned away: promises of the line over arbitrary traffic."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_router.policy.drain_rate import MAX_RETRY_AFTER_S, DrainRate
from tandem_router.policy.waiting import WaitingLine


@dataclass(frozen=True, eq=False)
class Item:
    tenant: str = "a"
    priority: int = 0
    tokens: int = 100
    latest_start_s: float = 10.0
    target_s: float = 1.0


items = st.builds(
    Item,
    tenant=st.sampled_from("abc"),
    priority=st.integers(-1, 1),
    tokens=st.integers(1, 1000),
    latest_start_s=st.floats(0, 100),
    target_s=st.floats(0, 10),
)


def drain(line, now_s=0.0):
    order = []
    while line:
        first = line.first(now_s)
        line.remove(first)
        line.charge(first.tenant, first.tokens)
        order.append(first)
    return order


@given(st.lists(items, max_size=30), st.floats(0, 200))
def test_everybody_leaves_once_and_the_higher_class_first(waiting, now_s):
    line = WaitingLine()
    for item in waiting:
        line.push(item)
    assert line.tokens == sum(item.tokens for item in waiting)
    order = drain(line, now_s)
    assert sorted(map(id, order)) == sorted(map(id, waiting))
    assert [item.priority for item in order] == sorted((item.priority for item in waiting), reverse=True)
    assert (line.tokens, len(line)) == (0, 0)


@given(st.lists(items, max_size=20), st.data())
def test_who_gives_up_leaves_no_trace(waiting, data):
    line = WaitingLine()
    for item in waiting:
        line.push(item)
    gone = data.draw(st.sets(st.sampled_from(waiting), max_size=10)) if waiting else set()
    for item in gone:
        line.remove(item)
        line.remove(item)
    left = [item for item in waiting if item not in gone]
    assert line.tokens == sum(item.tokens for item in left)
    assert set(drain(line)) == set(left)


def test_within_a_tenant_the_one_that_can_wait_least_starts():
    line = WaitingLine()
    late, soon = Item(latest_start_s=20.0), Item(latest_start_s=5.0)
    line.push(late)
    line.push(soon)
    assert line.first(0.0) is soon


@given(st.integers(2, 40), st.integers(1, 10))
def test_a_tenant_with_a_flood_does_not_delay_one_with_a_trickle(flood, trickle):
    line = WaitingLine()
    for _ in range(flood):
        line.push(Item("flood"))
    for _ in range(trickle):
        line.push(Item("trickle"))
    order = [item.tenant for item in drain(line)]
    served = order[: 2 * min(flood, trickle)]
    assert abs(served.count("flood") - served.count("trickle")) <= 1


def test_idleness_saves_up_no_credit():
    line = WaitingLine()
    line.push(Item("busy"))
    for _ in range(100):
        line.charge("busy", 1000)
    for _ in range(10):
        line.push(Item("busy"))
        line.push(Item("back"))
    order = [item.tenant for item in drain(line)]
    assert order[:8].count("back") <= 5


@given(st.lists(items, min_size=1, max_size=20), items)
def test_the_victim_is_of_the_lowest_class_that_there_is(waiting, newcomer):
    line = WaitingLine()
    for item in waiting:
        line.push(item)
    victim = line.find_victim(newcomer)
    assert victim is newcomer or victim in waiting
    assert victim.priority == min(item.priority for item in (*waiting, newcomer))


def test_a_newcomer_of_the_greediest_tenant_displaces_nobody_and_one_of_another_does():
    line = WaitingLine()
    hog = [Item("hog", latest_start_s=float(n)) for n in range(5)]
    for item in hog:
        line.push(item)
    mine = Item("hog")
    assert line.find_victim(mine) is mine
    assert line.find_victim(Item("modest")) is hog[-1]


def test_an_empty_line_has_no_first():
    with pytest.raises(IndexError):
        WaitingLine().first(0.0)


@given(st.lists(st.floats(0, 300), max_size=600), st.integers(0, 10_000))
def test_retry_after_is_always_a_sane_number_of_seconds(ends, waiting):
    rate = DrainRate()
    for at_s in sorted(ends):
        rate.note_end(at_s)
    assert 1 <= rate.retry_after_s(waiting, 300.0) <= MAX_RETRY_AFTER_S

"""Budgets hold at each step of every rollout, and every rollout ends."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_operator.plan.pace import WHOLE, Budget, Count, Lane, clear_first, decide_moves, freeze, ready_share

sizes = st.integers(0, 9)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    surge = draw(st.integers(0, 4))
    return Budget(draw(sizes), surge, draw(st.integers(0 if surge else 1, 3)))


@st.composite
def fresh_lanes(draw: st.DrawFn) -> dict[str, Lane]:
    """Two pools whose old workers, of one or two templates, are complete and ready."""
    lanes = {}
    for role in ("prefill", "decode"):
        budget = draw(budgets())
        second = draw(st.integers(0, budget.size))
        counts = [Count(n, n) for n in (budget.size - second, second) if n]
        lanes[role] = Lane(budget, Count(), tuple(counts))
    return lanes


goals = st.sampled_from([WHOLE, WHOLE, Fraction(1, 10), Fraction(1, 2)])


def take(lane: Lane, new: int, olds: tuple[int, ...], drained: int, started: int) -> Lane:
    """Kubernetes obeys: some that leave have left, some new ones are ready; of the old ones the unready go first."""
    gone = lane.old_desired - sum(olds)
    kept = tuple(Count(count, min(old.ready, count)) for count, old in zip(olds, lane.olds, strict=True))
    return Lane(
        lane.budget, Count(new, min(new, lane.new.ready + started)), kept, max(0, lane.leaving + gone - drained)
    )


@given(fresh_lanes(), goals, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_step_of_a_rollout_breaks_a_budget(
    lanes: dict[str, Lane], goal: Fraction, weather: list[tuple[int, int]]
) -> None:
    """However slowly workers start and leave: never more than size + surge, never fewer than size − unavailable."""
    for drained, started in weather:
        moves = decide_moves(lanes, goal)
        share = ready_share(lanes)
        for role, move in moves.items():
            lane = lanes[role]
            size, budget = lane.budget.size, lane.budget
            before = lane.new.desired + lane.old_desired + lane.leaving
            after = move.new + lane.old_desired + lane.leaving  # what goes now still holds its GPUs
            assert after <= max(before, size + budget.surge)
            carried = min(share, goal) * size
            serving = sum(min(old.ready, count) for old, count in zip(lane.olds, move.olds, strict=True))
            floor = min(sum(old.ready for old in lane.olds), ceil(size - carried) - budget.unavailable)
            assert serving >= floor
            assert move.new <= ceil(goal * size)
            if share == 0 and size:
                assert sum(move.olds) >= 1 or not lane.olds, "a serving pool went before its successor served"
        lanes = {role: take(lanes[role], m.new, m.olds, drained, started) for role, m in moves.items()}


@given(fresh_lanes())
@settings(max_examples=60, deadline=None)
def test_every_rollout_ends_when_workers_start(lanes: dict[str, Lane]) -> None:
    """Unless a pool of one worker has no surge: then its old worker stays, by the promise of Surge."""
    lanes = {
        role: replace(lane, budget=replace(lane.budget, surge=max(lane.budget.surge, 1)))
        for role, lane in lanes.items()
    }
    for _ in range(60):
        moves = decide_moves(lanes, WHOLE)
        if all(not any(move.olds) for move in moves.values()) and ready_share(lanes) == WHOLE:
            return
        lanes = {role: take(lanes[role], m.new, m.olds, drained=99, started=99) for role, m in moves.items()}
    raise AssertionError(f"never ends: {lanes}")


@given(fresh_lanes(), st.sampled_from([Fraction(1, 10), Fraction(1, 2)]))
@settings(max_examples=40, deadline=None)
def test_a_step_is_reached_and_keeps_what_the_rest_of_the_traffic_needs(lanes: dict[str, Lane], goal: Fraction) -> None:
    lanes = {
        role: replace(lane, budget=replace(lane.budget, surge=max(lane.budget.surge, 1)))
        for role, lane in lanes.items()
    }
    for _ in range(60):
        moves = decide_moves(lanes, goal)
        lanes = {role: take(lanes[role], m.new, m.olds, drained=99, started=99) for role, m in moves.items()}
    assert ready_share(lanes) >= goal or not any(lane.budget.size for lane in lanes.values())
    for lane in lanes.values():
        assert lane.new.desired + lane.old_desired >= lane.budget.size - lane.budget.unavailable
        assert lane.old_desired >= ceil((1 - goal) * lane.budget.size) - lane.budget.unavailable


def test_one_pair_with_room_for_one_more_of_each() -> None:
    """1P1D: the second pair comes, then the first goes."""
    lane = Lane(Budget(1, 1, 0), Count(), (Count(1, 1),))
    lanes = {"prefill": lane, "decode": lane}
    assert {role: (m.new, m.olds) for role, m in decide_moves(lanes, WHOLE).items()} == dict.fromkeys(lanes, (1, (1,)))
    ready = {role: replace(lane, new=Count(1, 1)) for role in lanes}
    assert {role: (m.new, m.olds) for role, m in decide_moves(ready, WHOLE).items()} == dict.fromkeys(lanes, (1, (0,)))
    half = ready | {"decode": replace(lane, new=Count(1, 0))}
    assert {role: m.olds for role, m in decide_moves(half, WHOLE).items()} == dict.fromkeys(lanes, (1,))


def test_the_ratio_is_kept_on_the_way() -> None:
    """Three to four, a quarter at a time: what comes can always be paired."""
    lanes = {n: Lane(Budget(s, 1, 0), Count(), (Count(s, s),)) for n, s in (("prefill", 3), ("decode", 4))}
    seen = []
    while any(lane.old_desired for lane in lanes.values()):
        moves = decide_moves(lanes, WHOLE)
        seen.append((moves["prefill"].new, moves["decode"].new))
        lanes = {role: take(lanes[role], m.new, m.olds, 99, 99) for role, m in moves.items()}
    grown = [pair for index, pair in enumerate(seen) if index == 0 or pair != seen[index - 1]]
    assert grown == [(1, 1), (2, 2), (3, 3), (3, 4)] or grown == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4)]


def test_a_draining_worker_still_holds_its_gpu() -> None:
    lane = Lane(Budget(4, 1, 0), Count(1, 1), (Count(3, 3),), leaving=1)
    assert decide_moves({"decode": lane}, WHOLE)["decode"].new == 1
    assert decide_moves({"decode": replace(lane, leaving=0)}, WHOLE)["decode"].new == 2


def test_old_workers_that_are_not_ready_go_first() -> None:
    lane = Lane(Budget(8, 2, 0), Count(), (Count(8, 2), Count(2, 2)))
    assert decide_moves({"decode": lane}, WHOLE)["decode"].olds == (6, 2)


def test_paused_keeps_templates_and_follows_the_size() -> None:
    mixed = Lane(Budget(8, 2, 0), Count(2, 2), (Count(8, 8),))
    assert freeze(mixed).olds == (8,)
    assert freeze(replace(mixed, budget=Budget(4, 2, 0))).olds == (4,)
    assert freeze(replace(mixed, budget=Budget(12, 2, 0))).olds == (10,)
    assert freeze(replace(mixed, new=Count(), budget=Budget(6, 2, 0))).olds == (6,)


def test_recreate_waits_until_the_last_old_worker_has_gone() -> None:
    lane = Lane(Budget(2, 0, 2), Count(), (Count(2, 2),))
    assert clear_first(lane, is_clear=False) == clear_first(replace(lane, leaving=1), is_clear=False)
    assert (clear_first(lane, is_clear=False).new, clear_first(lane, is_clear=True).new) == (0, 2)

"""How many workers each revision may have now, so that a rollout moves and never breaks its budgets.

Integers in, integers out; progress is read from what is there, nothing is remembered. With the pools in

    share  = min over pools of ready new workers / size               what the new revision can carry as pairs
    goal   = the share that the rollout may reach now (a step's traffic, else 1)
    c      = min(share, goal)

old workers of a pool may fall to   need = ⌈(1 − c) · size⌉ − maxUnavailable,   at least 1 while c is 0,
and new ones may rise to            ceiling = size + maxSurge − old workers, those that still drain included,

all pools at the same fraction of their size, that of the tightest ceiling. As ⌈x⌉ < x + 1, with every worker ready
ceiling > c · size in every pool whose surge and unavailability are not both 0: each round raises c, so it ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TypeVar

R = TypeVar("R", bound=str)

WHOLE = Fraction(1)


@dataclass(frozen=True)
class Count:
    """Workers of one template: how many there should be, and how many of these are ready."""

    desired: int = 0
    ready: int = 0


@dataclass(frozen=True)
class Budget:
    """Bounds of one pool, in workers."""

    size: int
    surge: int
    unavailable: int


@dataclass(frozen=True)
class Lane:
    """One pool in a rollout.

    Attributes:
        olds: older templates, the one to keep longest first.
        leaving: old workers that still hold their GPUs: they drain, or never served and go now.
    """

    budget: Budget
    new: Count
    olds: tuple[Count, ...] = ()
    leaving: int = 0

    @property
    def old_desired(self) -> int:
        """Workers that the older templates should have."""
        return sum(old.desired for old in self.olds)


@dataclass(frozen=True)
class Move:
    """How many workers each template of a pool should have now; `olds` in the order of `Lane.olds`."""

    new: int
    olds: tuple[int, ...]


def ready_share(lanes: Mapping[R, Lane]) -> Fraction:
    """What the new revision can carry, 0 to 1: its scarcest role counts. Pools of size 0 do not."""
    shares = (Fraction(lane.new.ready, lane.budget.size) for lane in lanes.values() if lane.budget.size)
    return min((*shares, WHOLE))


def decide_moves(lanes: Mapping[R, Lane], goal: Fraction) -> dict[R, Move]:
    """The next counts of pools that change together."""
    share = ready_share(lanes)
    carried = min(share, goal)
    ceilings = {role: _ceiling(lane, goal) for role, lane in lanes.items()}
    sized = {role: lane.budget.size for role, lane in lanes.items() if lane.budget.size}
    together = min((Fraction(ceilings[role], size) for role, size in sized.items()), default=WHOLE)
    moves = {}
    for role, lane in lanes.items():
        new = _grow_new(lane, goal, min(ceil(together * lane.budget.size), ceilings[role]))
        moves[role] = Move(new, _keep_olds(lane, goal, carried, new))
    return moves


def freeze(lane: Lane) -> Move:
    """Counts of a paused pool: templates keep their workers; a size that changes is met by the oldest kept template."""
    size = lane.budget.size
    if not lane.olds:
        return Move(size, ())
    new = min(lane.new.desired, size)
    surge = lane.budget.surge if new else 0
    kept = distribute(lane.olds, max(size - new, min(lane.old_desired, size + surge - new)))
    return Move(new, _with_more(kept, size - new - sum(kept)))


def clear_first(lane: Lane, *, is_clear: bool) -> Move:
    """Counts for Recreate: no new worker before the last old one of every pool that changes has gone."""
    new = lane.budget.size if is_clear else min(lane.new.desired, lane.budget.size)
    return Move(new, tuple(0 for _ in lane.olds))


def distribute(olds: Sequence[Count], total: int) -> tuple[int, ...]:
    """`total` workers over templates, the first ones first; ready workers before those that are not."""
    kept, left = [], total
    for old in olds:
        kept.append(min(old.ready, old.desired, left))
        left -= kept[-1]
    for index, old in enumerate(olds):
        more = min(old.desired - kept[index], left)
        kept[index] += more
        left -= more
    return tuple(kept)


def _ceiling(lane: Lane, goal: Fraction) -> int:
    size = lane.budget.size
    return max(0, min(ceil(goal * size), size + lane.budget.surge - lane.old_desired - lane.leaving))


def _grow_new(lane: Lane, goal: Fraction, allowed: int) -> int:
    """New workers never shrink for the rollout's sake, only with their pool."""
    return min(max(lane.new.desired, allowed), ceil(goal * lane.budget.size))


def _keep_olds(lane: Lane, goal: Fraction, carried: Fraction, new: int) -> tuple[int, ...]:
    if carried == WHOLE:
        return tuple(0 for _ in lane.olds)
    size = lane.budget.size
    need = max(ceil((1 - carried) * size) - lane.budget.unavailable, int(carried == 0 and size > 0), 0)
    spare = size + lane.budget.surge - ceil(goal * size)
    kept = distribute(lane.olds, max(need, spare))
    if goal < WHOLE:  # the new revision may not grow beyond its step: what the pool lacks is for the old one
        return _with_more(kept, size - lane.budget.unavailable - new - sum(kept))
    return kept


def _with_more(kept: tuple[int, ...], lacking: int) -> tuple[int, ...]:
    return (kept[0] + max(0, lacking), *kept[1:]) if kept else kept

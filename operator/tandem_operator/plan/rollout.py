"""Where a fleet stands between its templates, and how many workers of each it may have now.

A pair of prefill and decode workers works only within one kv-revision. So a change of it brings up *both* roles beside
the old ones, in the fleet's own ratio, moves the traffic as far as the scarcer role can carry it, and retires the old
ones as a unit; a change of one role's template alone replaces that role alone. Workers are counted anew each time; what
must be remembered (the step, the stable revision, a rejection) is in `status.rollout`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tandem_api import labels
from tandem_operator.kinds import Manifest
from tandem_operator.model import Fleet, PoolRole, Snapshot
from tandem_operator.plan.budgets import decide_budget
from tandem_operator.plan.history import read_history
from tandem_operator.plan.pace import WHOLE, Count, Lane, Move, clear_first, decide_moves, freeze, ready_share
from tandem_operator.plan.sizes import decide_sizes
from tandem_operator.plan.traffic import decide_weights
from tandem_operator.plan.wanted import Wanted, decide_wanted, find_kept
from tandem_operator.resources.kept_revision import Kept
from tandem_operator.resources.revisions import kv_revision, template_revision
from tandem_operator.views import Workers, is_ended, of_pool, read_all, template_of


@dataclass(frozen=True)
class Retirement:
    """A Deployment that may go now, and why."""

    workers: Workers
    reason: str


@dataclass(frozen=True)
class Rollout:
    """Where a fleet stands, and what may be done about it now.

    Attributes:
        sizes: wanted size of each pool.
        targets: the Deployment of the wanted template, where it exists.
        counts: workers that the wanted template of each pool may have now.
        old: Deployments of other templates; `kept`: name of one that stays → workers that it should have.
        weights: kv-revision → percent of the traffic.
        goal: share of the pools that the new workers may make up now; `share`: what those that are ready carry.
        is_stuck: nothing moves, nothing is awaited: the budgets leave no room.
    """

    wanted: Wanted
    history: tuple[Kept, ...]
    target_kv: str
    serving_kv: str
    sizes: Mapping[PoolRole, int]
    targets: Mapping[PoolRole, Workers | None]
    counts: Mapping[PoolRole, int]
    old: tuple[Workers, ...]
    kept: Mapping[str, int]
    retire: tuple[Retirement, ...]
    weights: Mapping[str, int]
    goal: Fraction
    share: Fraction
    is_stuck: bool

    @property
    def is_done(self) -> bool:
        """Whether only the wanted templates are left."""
        return not self.old and all(self.targets.values())

    @property
    def is_complete(self) -> bool:
        """Whether only the wanted templates are left, and all their workers are ready."""
        return self.is_done and self.share == WHOLE


def decide_rollout(snapshot: Snapshot) -> Rollout:
    """Where the fleet of a snapshot stands."""
    history = read_history(snapshot)
    wanted = decide_wanted(snapshot.fleet, history)
    workers = read_all(snapshot.deployments)
    sizes = decide_sizes(wanted.fleet, snapshot.pools)
    names = {role: template_revision(wanted.fleet.spec, role) for role in wanted.fleet.pool_roles()}
    targets = {role: _find(of_pool(workers, role), name) for role, name in names.items()}
    old = tuple(w for w in workers if w not in targets.values())
    return _Standing(snapshot, wanted, history, sizes, names, targets, old, kv_revision(wanted.fleet.spec)).decide()


def traffic_kv(fleet: Fleet) -> str | None:
    """The kv-revision that most of the traffic was last given to."""
    given = [r for r in fleet.status.revisions if r.traffic_percent > 0]
    return max(given, key=lambda r: r.traffic_percent).kv_revision if given else None


def decide_goal(wanted: Wanted, has_serving_old: bool) -> Fraction:
    """The share that the wanted revision may reach: the current step's, if its way leads over steps."""
    rollout, memory = wanted.fleet.spec.rollout, wanted.fleet.status.rollout
    if wanted.source != "spec" or not rollout.steps or not has_serving_old:
        return WHOLE
    step = memory.step if memory is not None and memory.revision == wanted.revision else 0
    return Fraction(rollout.steps[step].percent, 100) if step < len(rollout.steps) else WHOLE


def _find(workers: Sequence[Workers], template: str) -> Workers | None:
    return next((w for w in workers if w.template_revision == template), None)


@dataclass(frozen=True)
class _Standing:
    """What the decision is made from. `names`: wanted template of each role; `kv`: the wanted kv-revision."""

    snapshot: Snapshot
    wanted: Wanted
    history: tuple[Kept, ...]
    sizes: Mapping[PoolRole, int]
    names: Mapping[PoolRole, str]
    targets: Mapping[PoolRole, Workers | None]
    old: tuple[Workers, ...]
    kv: str

    def decide(self) -> Rollout:
        serving_old = [w for w in self.old if not self._is_doomed(w)]
        goal = decide_goal(self.wanted, bool(serving_old))
        lanes = {role: self._lane(role) for role in self.sizes}
        groups = self._groups()
        moves = self._decide_moves(lanes, groups, goal)
        meant = self._meant(moves)
        kept = meant | {w.name: w.desired for w in self.old if self._waits_for_routers(w, meant)}
        retire = tuple(self._retirements(kept))
        leaving = {retirement.workers.name for retirement in retire}
        weights = decide_weights(self._capacities(meant), self.kv, goal, traffic_kv(self.wanted.fleet))
        rolling = {role: lanes[role] for group in groups for role in group if lanes[role].olds} or lanes
        return Rollout(
            wanted=self.wanted,
            history=self.history,
            target_kv=self.kv,
            serving_kv=max(weights, key=lambda kv: (weights[kv], kv == self.kv), default=self.kv),
            sizes=self.sizes,
            targets=self.targets,
            counts={role: move.new for role, move in moves.items()},
            old=self.old,
            kept={name: count for name, count in kept.items() if name not in leaving},
            retire=retire,
            weights=weights,
            goal=goal,
            share=ready_share(lanes if self._changes_kv() else rolling),
            is_stuck=not self.is_paused and _is_stuck(lanes, moves, goal),
        )

    @property
    def is_paused(self) -> bool:
        return self.wanted.fleet.spec.rollout.paused

    def _changes_kv(self) -> bool:
        return any(w.kv_revision != self.kv for w in self.old)

    def _groups(self) -> list[tuple[PoolRole, ...]]:
        """Pools that change together: all of them when KV changes, else each for itself."""
        return [tuple(self.sizes)] if self._changes_kv() else [(role,) for role in self.sizes]

    def _decide_moves(
        self, lanes: Mapping[PoolRole, Lane], groups: Iterable[tuple[PoolRole, ...]], goal: Fraction
    ) -> dict[PoolRole, Move]:
        moves: dict[PoolRole, Move] = {}
        for group in groups:
            together = {role: lanes[role] for role in group}
            if self.is_paused:
                moves |= {role: self._freeze(lane) for role, lane in together.items()}
            elif self.wanted.fleet.spec.rollout.strategy == "Recreate":
                is_clear = not any(lane.old_desired or lane.leaving for lane in together.values())
                moves |= {role: clear_first(lane, is_clear=is_clear) for role, lane in together.items()}
            else:
                has_old = any(lane.olds for lane in together.values())
                moves |= decide_moves(together, goal if has_old else WHOLE)
        return moves

    def _freeze(self, lane: Lane) -> Move:
        return freeze(lane) if self.old or any(self.targets.values()) else Move(lane.budget.size, ())

    def _lane(self, role: PoolRole) -> Lane:
        target = self.targets[role]
        olds = self._olds_of(role)
        doomed = sum(w.desired for w in of_pool(self.old, role) if self._is_doomed(w))
        draining = sum(1 for pod in self.snapshot.pods if self._is_leaving(pod, role))
        return Lane(
            budget=decide_budget(self.wanted.fleet.spec.rollout, self.sizes[role]),
            new=Count(target.desired, target.available) if target else Count(),
            olds=tuple(Count(w.desired, w.available) for w in olds),
            leaving=doomed + draining,
        )

    def _olds_of(self, role: str) -> tuple[Workers, ...]:
        """Old Deployments of a pool that count, the one to keep longest first."""
        told = {r.kv_revision: r.traffic_percent for r in self.wanted.fleet.status.revisions}
        olds = [w for w in of_pool(self.old, role) if not self._is_doomed(w)]
        return tuple(sorted(olds, key=lambda w: (not self._is_stable(w), -told.get(w.kv_revision, 0), w.name)))

    def _is_leaving(self, pod: Manifest, role: PoolRole) -> bool:
        """A worker of an older template that is told to stop, or will be, since its Deployment has gone."""
        marks, template = pod["metadata"].get("labels") or {}, template_of(pod)
        if marks.get(labels.POOL) != role or template == self.names[role] or is_ended(pod):
            return False
        return "deletionTimestamp" in pod["metadata"] or all(w.template_revision != template for w in self.old)

    def _is_stable(self, workers: Workers) -> bool:
        """Part of the last revision that ran alone."""
        status = self.wanted.fleet.status.rollout
        kept = find_kept(self.history, status.stable) if status else None
        return kept is not None and any(
            template.template_revision == workers.template_revision for template in kept.templates.values()
        )

    def _is_doomed(self, workers: Workers) -> bool:
        """Superseded before it ever served."""
        return not (workers.has_served or workers.available or self.is_paused or self._is_stable(workers))

    def _meant(self, moves: Mapping[PoolRole, Move]) -> dict[str, int]:
        """Old Deployment → workers that it should have, once the traffic has left those that go."""
        meant = {w.name: 0 if self._is_doomed(w) else w.desired for w in self.old}
        for role, move in moves.items():
            meant |= {w.name: count for w, count in zip(self._olds_of(role), move.olds, strict=True)}
        return meant

    def _waits_for_routers(self, workers: Workers, meant: Mapping[str, int]) -> bool:
        """The last workers of a kv-revision stay until the routers are told to send nothing there."""
        unit = (w for w in self.old if w.kv_revision == workers.kv_revision and w.pool in self.sizes)
        return self._still_told(workers) and all(meant[w.name] == 0 for w in unit)

    def _still_told(self, workers: Workers) -> bool:
        """Routers were told to send requests there: first they are told otherwise. Recreate does not wait."""
        if workers.kv_revision == self.kv or self._is_doomed(workers) or self._recreates():
            return False
        return any(
            r.kv_revision == workers.kv_revision and r.traffic_percent for r in self.wanted.fleet.status.revisions
        )

    def _recreates(self) -> bool:
        return self.wanted.fleet.spec.rollout.strategy == "Recreate"

    def _retirements(self, kept: Mapping[str, int]) -> Iterable[Retirement]:
        """Deployments without workers to keep; those of an old kv-revision go as a unit."""
        if self.is_paused:
            return
        for w in self.old:
            unit = [o for o in self.old if o.kv_revision == w.kv_revision] if w.kv_revision != self.kv else [w]
            rest = [o for o in unit if o.pool in self.sizes]  # without those of a pool that the spec no longer has
            if all(kept[o.name] == 0 for o in rest) and (rest or not self._still_told(w)):
                yield Retirement(w, self._why_retire(w))

    def _why_retire(self, workers: Workers) -> str:
        if self._is_doomed(workers):
            return "superseded before it ever served"
        if self._recreates():
            return "rollout.strategy is Recreate: old workers go first"
        if workers.kv_revision == self.kv:
            return "its successor serves"
        return "the new workers serve and have the traffic"

    def _capacities(self, meant: Mapping[str, int]) -> dict[str, Fraction]:
        """kv-revision that has workers → share of the fleet that the ready pairs which stay can carry."""
        carriers: dict[str, dict[str, int]] = {}
        for w in (*self.old, *filter(None, self.targets.values())):
            ready = carriers.setdefault(w.kv_revision, {})
            ready[w.pool] = ready.get(w.pool, 0) + min(w.available, meant.get(w.name, w.desired))
        return {kv: self._capacity(ready) for kv, ready in carriers.items()}

    def _capacity(self, ready: Mapping[str, int]) -> Fraction:
        shares = (Fraction(ready.get(role, 0), size) for role, size in self.sizes.items() if size)
        return min((*shares, WHOLE))


def _is_stuck(lanes: Mapping[PoolRole, Lane], moves: Mapping[PoolRole, Move], goal: Fraction) -> bool:
    """Templates differ, and no budget lets a worker come or go."""
    rolling = [(lane, moves[role]) for role, lane in lanes.items() if lane.olds and lane.budget.size]
    if not rolling or any(lane.leaving for lane, _ in rolling):
        return False
    moves_on = any(
        move.new != lane.new.desired or move.olds != tuple(old.desired for old in lane.olds) for lane, move in rolling
    )
    awaits = any(lane.new.ready < lane.new.desired for lane, _ in rolling)
    return not moves_on and not awaits and all(lane.new.desired < goal * lane.budget.size for lane, _ in rolling)

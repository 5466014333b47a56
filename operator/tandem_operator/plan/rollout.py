"""How one template replaces another.

A pair of prefill and decode workers works only within one kv-revision. So a change of it brings up *both* roles beside
the old ones, moves the traffic, and only then retires the old ones; a change of one role's template alone replaces that
role alone. Progress is read from the cluster each time: nothing is remembered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.revisions import kv_revision, template_revision
from tandem_operator.views import Workers, of_pool


@dataclass(frozen=True)
class Retirement:
    """A Deployment that may go now, and why."""

    workers: Workers
    reason: str


@dataclass(frozen=True)
class Rollout:
    """Where a fleet stands between its templates, and what may be done about it now."""

    target_kv: str
    serving_kv: str  # the kv-revision that should get the traffic
    targets: Mapping[PoolRole, Workers | None]  # the Deployment of the wanted template, where it exists
    old: tuple[Workers, ...]
    retire: tuple[Retirement, ...]
    may_create: frozenset[PoolRole]

    @property
    def is_done(self) -> bool:
        """Whether only the wanted templates are left."""
        return not self.old and all(self.targets.values())


def decide_rollout(fleet: Fleet, workers: Sequence[Workers], sizes: Mapping[PoolRole, int]) -> Rollout:
    """Where the fleet stands. `workers` are all its Deployments, `sizes` the wanted size of each pool."""
    wanted = {role: template_revision(fleet.spec, role) for role in fleet.pool_roles()}
    targets = {role: _find(of_pool(workers, role), revision) for role, revision in wanted.items()}
    old = tuple(w for w in workers if w not in targets.values())
    target_kv = kv_revision(fleet.spec)
    ready = {role: _is_ready(target, sizes[role]) for role, target in targets.items()}
    serving_kv = _decide_serving(fleet, workers, target_kv, all_ready=all(ready.values()))
    standing = _Standing(fleet, target_kv, serving_kv, ready, old)
    return Rollout(target_kv, serving_kv, targets, old, standing.retirements(), standing.may_create(bool(workers)))


def _find(workers: Sequence[Workers], template: str) -> Workers | None:
    return next((w for w in workers if w.template_revision == template), None)


def _is_ready(target: Workers | None, size: int) -> bool:
    return target is not None and target.is_available(size)


def traffic_kv(fleet: Fleet) -> str | None:
    """The kv-revision that the routers were last told to use."""
    return next((r.kv_revision for r in fleet.status.revisions if r.traffic_percent > 0), None)


def _decide_serving(fleet: Fleet, workers: Sequence[Workers], target_kv: str, *, all_ready: bool) -> str:
    """The new revision once all its pools are ready; until then whatever served before."""
    if all_ready:
        return target_kv
    present = {w.kv_revision for w in workers}
    told = traffic_kv(fleet)
    if told in present and told is not None:
        return told
    # The status was lost. The newest revision that has served is the best guess; all of `workers` is newest first.
    return next((w.kv_revision for w in workers if w.has_served or w.available), target_kv)


@dataclass(frozen=True)
class _Standing:
    fleet: Fleet
    target_kv: str
    serving_kv: str
    ready: Mapping[PoolRole, bool]
    old: tuple[Workers, ...]

    def retirements(self) -> tuple[Retirement, ...]:
        if self.fleet.spec.rollout.paused:
            return ()
        reasons = ((w, self._why_retire(w)) for w in self.old)
        return tuple(Retirement(w, reason) for w, reason in reasons if reason)

    def may_create(self, exists: bool) -> frozenset[PoolRole]:
        roles = self.fleet.pool_roles()
        if self.fleet.spec.rollout.paused:
            return frozenset() if exists else frozenset(roles)
        if self.fleet.spec.rollout.strategy == "Surge":
            return frozenset(roles)
        return frozenset(role for role in roles if not self._is_blocked(role))

    def _is_blocked(self, role: PoolRole) -> bool:
        """Recreate: the new workers of a role need the GPUs of the old ones, and of both roles when KV changes."""
        return any(w.pool == role or w.kv_revision != self.target_kv for w in self.old)

    def _why_retire(self, workers: Workers) -> str | None:
        if self.fleet.spec.rollout.strategy == "Recreate":
            return "rollout.strategy is Recreate: old workers go first"
        if workers.kv_revision == self.target_kv:
            return self._why_retire_role(workers)
        return self._why_retire_pair(workers)

    def _why_retire_role(self, workers: Workers) -> str | None:
        """Its kv-revision stays; only the template of its role is another."""
        if any(workers.pool == role and ready for role, ready in self.ready.items()):
            return "its successor serves"
        if not workers.has_served and not workers.available:
            return "superseded before it ever served"
        return None

    def _why_retire_pair(self, workers: Workers) -> str | None:
        """Its kv-revision goes, with both roles."""
        told = traffic_kv(self.fleet)
        if told is None or workers.kv_revision in (told, self.serving_kv):
            return None
        if told != self.target_kv:
            return "superseded: neither serving nor wanted"
        return "both new pools serve and have the traffic" if all(self.ready.values()) else None

"""What the conditions are computed from, gathered once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tandem_api.conditions import Reason, Status
from tandem_api.v1alpha1 import Condition
from tandem_operator.model import PoolRole, Problem, Snapshot
from tandem_operator.plan.rollout import Rollout, decide_rollout
from tandem_operator.status.causes import Cause, find_cause
from tandem_operator.validate import find_problem
from tandem_operator.views import of_pool, template_of

PATIENCE = timedelta(seconds=30)
"""How long a cause that may pass by itself (a node that comes, a Secret that is applied next) is not yet Stalled."""


@dataclass(frozen=True)
class PoolFacts:
    """One pool: what is wanted, what is there."""

    role: PoolRole
    desired: int
    ready: int  # of any template
    updated: int  # ready, of the wanted template
    cause: Cause | None
    is_overdue: bool

    @property
    def is_ready(self) -> bool:
        """Whether all wanted workers of the wanted template are ready."""
        return self.updated >= self.desired


@dataclass(frozen=True)
class Verdict:
    """Status, reason and message of one condition."""

    status: Status
    reason: Reason
    message: str


@dataclass(frozen=True)
class Refusal:
    """The API server refused a child for good."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Facts:
    """Everything that a condition may depend on."""

    snapshot: Snapshot
    now: datetime
    rollout: Rollout
    pools: Mapping[PoolRole, PoolFacts]
    problem: Problem | None
    refusal: Refusal | None

    @property
    def is_paused(self) -> bool:
        """Whether templates differ from the spec and may not change."""
        waits = bool(self.rollout.old) or not all(self.rollout.targets.values())
        return self.snapshot.fleet.spec.rollout.paused and waits

    @property
    def serves_old(self) -> bool:
        """Whether workers of an older template are ready in every pool that the spec has."""
        return all(pool.ready > 0 or pool.desired == 0 for pool in self.pools.values())

    def previous(self, kind: str) -> Condition | None:
        """The condition as it was last written."""
        return next((c for c in self.snapshot.fleet.status.conditions if c.type == kind), None)

    def is_stalling(self, cause: Cause) -> bool:
        """Whether a cause has lasted long enough to be called Stalled."""
        return cause.since is None or self.now - cause.since >= PATIENCE


def gather_facts(snapshot: Snapshot, now: datetime, refusal: Refusal | None) -> Facts:
    """Facts of one snapshot."""
    rollout = decide_rollout(snapshot)
    asked = replace(snapshot, fleet=rollout.wanted.fleet)  # what should run decides what is missing
    pools = {role: _pool_facts(asked, rollout, role, size) for role, size in rollout.sizes.items()}
    problem = find_problem(snapshot.fleet.spec) or rollout.wanted.problem
    return Facts(asked, now, rollout, pools, problem, refusal)


def _pool_facts(snapshot: Snapshot, rollout: Rollout, role: PoolRole, size: int) -> PoolFacts:
    target = rollout.targets[role]
    updated = min(target.ready, size) if target else 0
    everyone = of_pool(rollout.old, role) + ((target,) if target else ())
    pods = [pod for pod in snapshot.pods if target and template_of(pod) == target.template_revision]
    cause = find_cause(target, pods) if updated < size else None
    return PoolFacts(role, size, sum(w.ready for w in everyone), updated, cause, bool(target and target.is_overdue))

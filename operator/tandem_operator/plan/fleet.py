"""The plan of one fleet: what should exist, less what exists already."""

from collections.abc import Iterator
from dataclasses import replace

from tandem_operator.diff import first_difference
from tandem_operator.kinds import WORKER_POOL, Manifest, kind_of
from tandem_operator.model import Action, Apply, CreatePool, Delete, PoolRole, Scale, Snapshot
from tandem_operator.plan.drain import find_shrinks, plan_marks
from tandem_operator.plan.history import decide_templates, plan_history
from tandem_operator.plan.leaving import plan_leaving
from tandem_operator.plan.rollout import Rollout, decide_rollout
from tandem_operator.plan.sizes import plan_scale
from tandem_operator.resources.deployment import build_deployment
from tandem_operator.resources.disruption_budget import build_disruption_budget
from tandem_operator.resources.kept_revision import RoleTemplate
from tandem_operator.resources.keys_secret import build_keys_secret
from tandem_operator.resources.leader_worker_set import build_leader_worker_set
from tandem_operator.resources.names import policy_name, pool_name
from tandem_operator.resources.network_policy import build_network_policy
from tandem_operator.resources.revisions import pool_of
from tandem_operator.resources.service import build_service
from tandem_operator.resources.worker_pool import build_newborn_worker_pool, build_worker_pool
from tandem_operator.validate import find_problem
from tandem_operator.views import Workers, of_pool, read_all


def plan_fleet(snapshot: Snapshot) -> tuple[Action, ...]:
    """Actions that bring the cluster one step nearer to the spec, in the order in which to take them.

    Empty when nothing differs, and when the spec has a problem: then what serves stays as it is. The children of a
    pool that is yet to be born are planned once it is.
    """
    if not snapshot.fleet.is_here:
        return tuple(plan_leaving(snapshot))
    rollout = decide_rollout(snapshot)
    if find_problem(snapshot.fleet.spec) is not None or rollout.wanted.problem is not None:
        return ()
    asked = replace(snapshot, fleet=rollout.wanted.fleet)  # as if the spec asked for just what should run
    return (*_plan_shared(asked), *_plan_pools(asked, rollout), *_plan_workers(asked, rollout))


def _plan_shared(snapshot: Snapshot) -> Iterator[Action]:
    fleet = snapshot.fleet
    yield from _plan_apply(build_keys_secret(fleet, snapshot.keys), snapshot.secret)
    defaults = snapshot.defaults
    policy = build_network_policy(fleet, defaults.router_namespace, defaults.monitoring_namespace)
    yield from _plan_apply(policy, snapshot.policies.get(policy_name(fleet.key.name)))


def _plan_pools(snapshot: Snapshot, rollout: Rollout) -> Iterator[Action]:
    for role, size in rollout.sizes.items():
        pool = snapshot.pools.get(role)
        if pool is None:
            yield CreatePool(build_newborn_worker_pool(snapshot.fleet, role, size), f"the {role} pool does not exist")
        else:
            yield from _plan_live_pool(snapshot, role, pool, size)


def _plan_live_pool(snapshot: Snapshot, role: PoolRole, pool: Manifest, size: int) -> Iterator[Action]:
    fleet, name = snapshot.fleet, pool_name(snapshot.fleet.key.name, role)
    yield from _plan_apply(build_worker_pool(fleet, role), pool)
    scale = plan_scale(fleet, pool, size)
    if scale is not None:
        yield scale
    yield from _plan_apply(build_service(fleet, role, pool), snapshot.services.get(name))
    yield from _plan_apply(build_disruption_budget(fleet, role, pool), snapshot.budgets.get(name))


def _plan_workers(snapshot: Snapshot, rollout: Rollout) -> Iterator[Action]:
    workers = read_all(snapshot.deployments)
    templates = decide_templates(snapshot, rollout.wanted, rollout.history, workers)
    yield from plan_history(snapshot, rollout.wanted, rollout.history, templates, workers)
    yield from plan_marks(snapshot, find_shrinks(_wanted_counts(rollout), workers))
    for role, count in rollout.counts.items():
        yield from _plan_target(snapshot, rollout, role, templates[role], count)
    yield from _plan_old(rollout)
    for retirement in rollout.retire:
        yield _delete_workers(retirement.workers, retirement.reason)
    yield from _plan_unwanted_pool(snapshot, workers)


def _wanted_counts(rollout: Rollout) -> dict[str, int]:
    """Live Deployment that stays → workers that it should have."""
    targets = {target.name: rollout.counts[role] for role, target in rollout.targets.items() if target}
    return targets | dict(rollout.kept)


def _plan_target(
    snapshot: Snapshot, rollout: Rollout, role: PoolRole, template: RoleTemplate, count: int
) -> Iterator[Action]:
    """The Deployment, or LeaderWorkerSet, of the wanted template: born, repaired, resized."""
    pool, target = snapshot.pools.get(role), rollout.targets[role]
    if pool is None or (target is None and not count and rollout.sizes[role]):
        return
    build = build_leader_worker_set if pool_of(snapshot.fleet.spec, role).nodes > 1 else build_deployment
    rendered = build(snapshot.fleet, role, pool, template, count)
    yield from _plan_apply(rendered, target.manifest if target else None)


def _plan_old(rollout: Rollout) -> Iterator[Action]:
    """Old workers that stay for now."""
    for workers in rollout.old:
        count = rollout.kept.get(workers.name, workers.desired)
        if count != workers.desired:
            share, goal = float(rollout.share), float(rollout.goal)
            reason = f"new workers carry {share:.0%} of the {workers.pool} pool, and may carry {goal:.0%}"
            namespace, kind = workers.manifest["metadata"]["namespace"], kind_of(workers.manifest)
            yield Scale(namespace, workers.name, count, reason, kind)


def _plan_unwanted_pool(snapshot: Snapshot, workers: tuple[Workers, ...]) -> Iterator[Action]:
    """A pool that the spec no longer has goes when its last workers have gone."""
    for role, pool in snapshot.pools.items():
        if role not in snapshot.fleet.pool_roles() and not of_pool(workers, role):
            metadata = pool["metadata"]
            reason = f"spec.{role} was removed"
            yield Delete(WORKER_POOL, metadata["namespace"], metadata["name"], metadata["uid"], reason)


def _plan_apply(rendered: Manifest, live: Manifest | None) -> Iterator[Apply]:
    if live is None:
        yield Apply(rendered, "it does not exist")
        return
    difference = first_difference(rendered, live)
    if difference is not None:
        yield Apply(rendered, f"{difference} differs", live["metadata"]["uid"])


def _delete_workers(workers: Workers, reason: str) -> Delete:
    namespace = workers.manifest["metadata"]["namespace"]
    return Delete(kind_of(workers.manifest), namespace, workers.name, workers.uid, reason)

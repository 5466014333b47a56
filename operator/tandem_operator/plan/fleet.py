"""The plan of one fleet: what should exist, less what exists already."""

from collections.abc import Iterator

from tandem_operator.diff import first_difference
from tandem_operator.kinds import DEPLOYMENT, WORKER_POOL, Manifest
from tandem_operator.model import Action, Apply, CreatePool, Delete, PoolRole, Scale, Snapshot
from tandem_operator.plan.images import decide_images
from tandem_operator.plan.rollout import Rollout, decide_rollout
from tandem_operator.plan.sizes import decide_sizes, plan_scale
from tandem_operator.plan.templates import keep_template
from tandem_operator.resources.deployment import build_deployment
from tandem_operator.resources.disruption_budget import build_disruption_budget
from tandem_operator.resources.keys_secret import build_keys_secret
from tandem_operator.resources.names import policy_name, pool_name
from tandem_operator.resources.network_policy import build_network_policy
from tandem_operator.resources.service import build_service
from tandem_operator.resources.worker_pool import build_newborn_worker_pool, build_worker_pool
from tandem_operator.validate import find_problem
from tandem_operator.views import Workers, of_pool, read_all


def plan_fleet(snapshot: Snapshot) -> tuple[Action, ...]:
    """Actions that bring the cluster one step nearer to the spec, in the order in which to take them.

    Empty when nothing differs, and when the spec has a problem: then what serves stays as it is. The children of a
    pool that is yet to be born are planned once it is.
    """
    if find_problem(snapshot.fleet.spec) is not None:
        return ()
    return (*_plan_shared(snapshot), *_plan_pools(snapshot), *_plan_workers(snapshot))


def _plan_shared(snapshot: Snapshot) -> Iterator[Action]:
    fleet = snapshot.fleet
    yield from _plan_apply(build_keys_secret(fleet, snapshot.keys), snapshot.secret)
    defaults = snapshot.defaults
    policy = build_network_policy(fleet, defaults.router_namespace, defaults.monitoring_namespace)
    yield from _plan_apply(policy, snapshot.policies.get(policy_name(fleet.key.name)))


def _plan_pools(snapshot: Snapshot) -> Iterator[Action]:
    for role, size in decide_sizes(snapshot.fleet, snapshot.pools).items():
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


def _plan_workers(snapshot: Snapshot) -> Iterator[Action]:
    workers = read_all(snapshot.deployments)
    sizes = decide_sizes(snapshot.fleet, snapshot.pools)
    rollout = decide_rollout(snapshot.fleet, workers, sizes)
    for role, size in sizes.items():
        yield from _plan_target(snapshot, rollout, role, size, workers)
        yield from _plan_old(rollout, role, size)
    for retirement in rollout.retire:
        yield _delete_workers(retirement.workers, retirement.reason)
    yield from _plan_unwanted_pool(snapshot, workers)


def _plan_target(
    snapshot: Snapshot, rollout: Rollout, role: PoolRole, size: int, workers: tuple[Workers, ...]
) -> Iterator[Action]:
    """The Deployment of the wanted template: born, repaired, resized."""
    pool, target = snapshot.pools.get(role), rollout.targets[role]
    if pool is None or (target is None and role not in rollout.may_create):
        return
    images = decide_images(snapshot.fleet.spec, rollout.target_kv, workers, snapshot.defaults)
    rendered = build_deployment(snapshot.fleet, role, pool, images, size)
    live = target.manifest if target else None
    yield from _plan_apply(keep_template(rendered, live), live)


def _plan_old(rollout: Rollout, role: PoolRole, size: int) -> Iterator[Action]:
    """Old workers that stay for now never number more than the pool should have."""
    leaving = {retirement.workers.name for retirement in rollout.retire}
    for workers in of_pool(rollout.old, role):
        if workers.name not in leaving and workers.desired > size:
            namespace = workers.manifest["metadata"]["namespace"]
            yield Scale(namespace, workers.name, size, f"the {role} pool has {size} workers", DEPLOYMENT)


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
    return Delete(DEPLOYMENT, workers.manifest["metadata"]["namespace"], workers.name, workers.uid, reason)

"""Workers that span nodes: LeaderWorkerSets in the place of Deployments."""

from __future__ import annotations

from typing import Any

from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_api import labels
from tandem_api.conditions import Reason
from tandem_operator.errors import NotFound
from tandem_operator.groups import are_groups_starting, uses_groups
from tandem_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, LEADER_WORKER_SET
from tandem_operator.model import Apply, Delete, Scale
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.status.refusals import explain_refusal
from tandem_operator.store import Store
from tandem_operator.views import read_workers

WIDE = {"replicas": 2, "nodes": 2, "parallelism": {"tensor": 16}}


def make_world(**spec: Any) -> World:
    world = World(make_fleet(make_spec(prefill=None, **spec)))
    world.reconcile()
    world.settle()
    return world


def test_a_worker_of_two_nodes_is_a_group_of_two_pods_and_only_the_leader_has_a_role() -> None:
    world = make_world(decode=WIDE)
    assert world.of("Deployment") == []
    (group,) = (one["spec"] for one in world.of("LeaderWorkerSet"))
    assert (group["replicas"], group["leaderWorkerTemplate"]["size"]) == (2, 2)
    leader, follower = (group["leaderWorkerTemplate"][f"{name}Template"] for name in ("leader", "worker"))
    assert leader["metadata"]["labels"][labels.ROLE] == "mixed"
    assert labels.ROLE not in follower["metadata"]["labels"]
    assert leader["spec"] == follower["spec"]
    assert leader["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert plan_fleet(world.snapshot()) == ()


def test_a_group_that_is_ready_makes_the_fleet_ready() -> None:
    world = World(make_fleet(make_spec(prefill=None, decode=WIDE)))
    world.reconcile()
    (group,) = world.of("LeaderWorkerSet")
    group["status"] = {"replicas": 2, "readyReplicas": 1, "conditions": [{"type": "Available", "status": "False"}]}
    assert (read_workers(group).ready, read_workers(group).has_served) == (1, False)
    group["status"] = {"replicas": 2, "readyReplicas": 2, "conditions": [{"type": "Available", "status": "True"}]}
    assert (read_workers(group).available, read_workers(group).has_served) == (2, True)
    world.report()
    assert next(c for c in world.fleet.status.conditions if c.type == "DecodeReady").status == "True"


def test_from_one_node_to_two_and_back_the_old_kind_goes_when_the_new_serves() -> None:
    world = make_world(decode={"replicas": 1, "parallelism": {"tensor": 16}})
    world.edit(decode={**WIDE, "replicas": 1})
    actions = world.reconcile()
    assert any(isinstance(a, Apply) and a.manifest["kind"] == "LeaderWorkerSet" for a in actions)
    assert not any(isinstance(a, Delete) and a.kind == DEPLOYMENT for a in actions)
    world.settle()
    assert (len(world.of("Deployment")), len(world.of("LeaderWorkerSet"))) == (0, 1)
    world.edit(decode={"replicas": 1, "parallelism": {"tensor": 16}})
    world.settle()
    assert (len(world.of("Deployment")), len(world.of("LeaderWorkerSet"))) == (1, 0)


def test_a_group_is_scaled_and_deleted_as_what_it_is() -> None:
    world = make_world(decode=WIDE)
    world.edit(decode={**WIDE, "engineOverrides": {"maxModelLen": 1024}})
    world.settle()
    old = {type(a): a.kind for a in world.writes if isinstance(a, Delete | Scale)}
    assert old[Delete] == LEADER_WORKER_SET
    assert old.get(Scale, LEADER_WORKER_SET) == LEADER_WORKER_SET


def test_a_cluster_without_the_kind_is_told_what_to_install() -> None:
    world = World(make_fleet(make_spec(prefill=None, decode=WIDE)))
    actions = world.reconcile()
    group = next(a for a in actions if isinstance(a, Apply) and a.manifest["kind"] == "LeaderWorkerSet")
    missing = NotFound(404, "NotFound", "the server could not find the requested resource")
    refusal = explain_refusal(group, missing)
    assert refusal is not None
    assert refusal.reason == Reason.LEADER_WORKER_SET_MISSING
    assert "set nodes to 1" in refusal.message
    other = next(a for a in actions if isinstance(a, Apply) and a.manifest["kind"] == "Service")
    assert explain_refusal(other, missing) is None


def test_groups_are_looked_at_for_fleets_that_have_or_had_them() -> None:
    world = make_world(decode=WIDE)
    store = Store(lambda key: None)
    assert uses_groups(world.fleet, store)
    narrow = make_fleet(make_spec(prefill=None))
    assert not uses_groups(narrow, store)
    for number, revision in enumerate(world.of("ControllerRevision")):
        kept = {**revision, "metadata": {**revision["metadata"], "resourceVersion": str(number + 1)}}
        store.upsert(CONTROLLER_REVISION, kept)
    assert uses_groups(narrow, store)
    (group,) = world.of("LeaderWorkerSet")
    group["metadata"]["resourceVersion"] = "9"
    store.upsert(LEADER_WORKER_SET, group)
    assert not are_groups_starting(store, world.fleet.key)
    starting = {**group, "status": {}, "metadata": {**group["metadata"], "resourceVersion": "10"}}
    store.upsert(LEADER_WORKER_SET, starting)
    assert are_groups_starting(store, world.fleet.key)

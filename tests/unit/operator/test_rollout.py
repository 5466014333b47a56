"""One template replaces another, step by step."""

from __future__ import annotations

from typing import Any

from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World, is_kind

from tandem_operator.kinds import DEPLOYMENT
from tandem_operator.model import Delete
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.resources.revisions import kv_revision, template_revision

OTHER_MODEL = {"name": "org/other"}


def serving_world(**spec: Any) -> World:
    """A fleet whose workers all serve; all of them may come up beside the old ones, unless `spec` says otherwise."""
    spec.setdefault("rollout", {"maxSurge": "100%"})
    world = World(make_fleet(make_spec(**spec)))
    world.reconcile()
    world.settle()
    return world


def deleted(world: World) -> list[str]:
    return [a.name for a in world.writes if isinstance(a, Delete)]


def traffic(world: World) -> dict[str, int]:
    return {r.kv_revision: r.traffic_percent for r in world.fleet.status.revisions}


def test_both_roles_come_up_beside_the_old_ones_when_kv_changes() -> None:
    world = serving_world()
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    assert [len(world.deployments(role)) for role in ("prefill", "decode")] == [2, 2]
    assert deleted(world) == []


def test_one_new_pool_alone_takes_no_traffic_and_retires_nothing() -> None:
    world = serving_world()
    before = kv_revision(world.fleet.spec)
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    world.make_available(f"llama-prefill-{template_revision(world.fleet.spec, 'prefill')}")
    world.reconcile()
    assert traffic(world) == {before: 100, kv_revision(world.fleet.spec): 0}
    assert deleted(world) == []


def test_traffic_moves_before_the_old_pools_go() -> None:
    world = serving_world()
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    world.make_all_available()
    assert not [a for a in plan_fleet(world.snapshot()) if isinstance(a, Delete)]
    world.report()
    assert traffic(world)[kv_revision(world.fleet.spec)] == 100
    gone = [a for a in plan_fleet(world.snapshot()) if isinstance(a, Delete)]
    assert len(gone) == 2
    assert {a.reason for a in gone} == {"the new workers serve and have the traffic"}


def test_a_change_of_one_role_replaces_that_role_alone() -> None:
    world = serving_world()
    prefill = world.deployments("prefill")
    world.edit(decode={"replicas": 2, "engineOverrides": {"maxModelLen": 4096}})
    world.reconcile()
    assert len(world.deployments("decode")) == 2
    world.settle()
    assert len(world.deployments("decode")) == 1
    assert [d["metadata"]["uid"] for d in world.deployments("prefill")] == [d["metadata"]["uid"] for d in prefill]


def test_recreate_takes_the_old_ones_first() -> None:
    world = serving_world(rollout={"strategy": "Recreate"})
    world.edit(model=OTHER_MODEL)
    first = [a for a in plan_fleet(world.snapshot()) if is_kind(a, "Deployment")]
    assert first
    assert all(isinstance(a, Delete) and a.kind == DEPLOYMENT for a in first)
    world.settle()
    assert [len(world.deployments(role)) for role in ("prefill", "decode")] == [1, 1]


def test_a_revision_that_never_served_goes_when_it_is_superseded() -> None:
    world = serving_world()
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    broken = kv_revision(world.fleet.spec)
    world.edit(model={"name": "org/third"})
    world.reconcile()
    assert broken not in traffic(world)
    assert len(world.deployments("decode")) == 2


def test_a_revision_that_is_ready_but_has_no_traffic_yet_goes_when_it_is_superseded() -> None:
    world = serving_world()
    first = kv_revision(world.fleet.spec)
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    world.make_all_available()
    world.edit(model={"name": "org/third"})
    world.reconcile()
    assert set(traffic(world)) == {first, kv_revision(world.fleet.spec)}
    assert traffic(world)[first] == 100


def test_going_back_midway_keeps_the_workers_that_serve() -> None:
    world = serving_world()
    serving = {d["metadata"]["uid"] for d in world.of("Deployment")}
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    world.edit(model={"name": "org/model"})
    world.settle()
    assert {d["metadata"]["uid"] for d in world.of("Deployment")} == serving


def test_paused_changes_no_template_but_scales() -> None:
    world = serving_world()
    names = [d["metadata"]["name"] for d in world.of("Deployment")]
    world.edit(model=OTHER_MODEL, rollout={"paused": True}, decode={"replicas": 1})
    world.settle()
    assert [d["metadata"]["name"] for d in world.of("Deployment")] == names
    assert [d["spec"]["replicas"] for d in world.deployments("decode")] == [1]
    ready = next(c for c in world.fleet.status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("Unknown", "Paused")
    world.edit(rollout={"paused": False})
    world.settle()
    assert [d["metadata"]["name"] for d in world.of("Deployment")] != names


def test_removing_the_prefill_pool_keeps_it_until_mixed_workers_serve() -> None:
    world = serving_world()
    world.edit(prefill=None)
    world.reconcile()
    assert len(world.deployments("prefill")) == 1
    assert world.deployments("decode")[0]["metadata"]["labels"]["tandem.dev/role"] in ("decode", "mixed")
    world.settle()
    assert world.deployments("prefill") == []
    assert [pool["spec"]["role"] for pool in world.of("WorkerPool")] == ["decode"]
    assert [d["metadata"]["labels"]["tandem.dev/role"] for d in world.deployments("decode")] == ["mixed"]


def test_old_workers_shrink_with_the_pool_and_never_grow() -> None:
    world = serving_world(decode={"replicas": 4})
    old = world.deployments("decode")[0]["metadata"]["name"]
    world.edit(model=OTHER_MODEL, decode={"replicas": 2})
    world.reconcile()
    assert world.objects["Deployment", old]["spec"]["replicas"] == 2
    world.edit(decode={"replicas": 6})
    world.reconcile()
    assert world.objects["Deployment", old]["spec"]["replicas"] == 2


def test_a_lost_status_does_not_end_what_serves() -> None:
    world = serving_world()
    world.edit(model=OTHER_MODEL)
    world.reconcile()
    world.fleet = make_fleet(world.fleet.spec, generation=world.fleet.generation)
    world.reconcile()
    assert deleted(world) == []
    assert [len(world.deployments(role)) for role in ("prefill", "decode")] == [2, 2]

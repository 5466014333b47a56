"""Steps, the gate, the way back, pins: what a rollout remembers and what it forgets."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from unit.operator.fleets import DEFAULTS, make_fleet, make_spec
from unit.operator.world import World

from tandem_api.router import FleetReport, Trial, TrialBin
from tandem_api.v1alpha1 import RolloutStatus
from tandem_operator.model import Delete, RouterView
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.plan.gate import Tally, find_breach, lower_bound
from tandem_operator.resources.revisions import fleet_revision, kv_revision, template_revision

OTHER = {"name": "org/other"}
STEPS = {"steps": [{"traffic": "10%", "hold": "5m"}, {"traffic": "50%", "hold": "1m"}], "minRequests": 20}


def stepped(**rollout: Any) -> World:
    """A fleet of four pairs that serves, whose changes go in steps."""
    spec = make_spec(prefill={"replicas": 4}, decode={"replicas": 4}, rollout={**STEPS, **rollout})
    world = World(make_fleet(spec))
    world.reconcile()
    world.settle()
    return world


def rollout(world: World) -> RolloutStatus:
    status = world.fleet.status.rollout
    assert status is not None
    return status


def traffic(world: World) -> dict[str, int]:
    return {r.kv_revision: r.traffic_percent for r in world.fleet.status.revisions}


def sizes(world: World, role: str = "decode") -> dict[str, int]:
    return {d["metadata"]["labels"]["tandem.dev/kv-revision"]: d["spec"]["replicas"] for d in world.deployments(role)}


def condition(world: World, kind: str) -> tuple[str, str, str]:
    return next((c.status, c.reason, c.message) for c in world.fleet.status.conditions if c.type == kind)


def report(world: World, new: Tally, old: Tally) -> None:
    """The routers tell what ended on either template's decode workers just now."""
    begun = int(world.now.timestamp())
    mine = template_revision(world.fleet.spec, "decode")
    trials = [
        Trial(template_revision=name, bins=(TrialBin(begun, t.requests, t.failed, t.ttft_missed, t.tpot_missed),))
        for name in {d["metadata"]["labels"]["tandem.dev/template-revision"] for d in world.deployments("decode")}
        for t in [new if name == mine else old]
    ]
    told = FleetReport(
        namespace="team",
        name="llama",
        uid="uid-fleet",
        generation=99,
        served_name="m",
        serving=True,
        trials=tuple(trials),
    )
    world.routers = RouterView(1, 1, (told,))


GOOD = Tally(100, 0, 1, 1)


def test_a_step_gets_its_share_and_holds() -> None:
    """One new pair of four carries a quarter; it gets the tenth that the step says, and all old ones stay."""
    world = stepped()
    before = kv_revision(world.fleet.spec)
    world.edit(model=OTHER)
    world.settle()
    after = kv_revision(world.fleet.spec)
    assert traffic(world) == {before: 90, after: 10}
    assert sizes(world) == {before: 4, after: 1}
    assert (rollout(world).phase, rollout(world).step) == ("Holding", 0)
    assert condition(world, "Ready")[0] == "Unknown"


def test_a_step_goes_on_after_its_time_and_enough_requests() -> None:
    world = stepped()
    world.edit(model=OTHER)
    world.settle()
    world.now += timedelta(minutes=6)
    world.settle()
    assert rollout(world).step == 0
    assert "20 requests" in rollout(world).message
    report(world, GOOD, GOOD)
    world.settle()
    assert rollout(world).step == 1
    assert set(traffic(world).values()) == {50}
    world.now += timedelta(minutes=2)
    report(world, GOOD, GOOD)
    world.settle()
    assert traffic(world) == {kv_revision(world.fleet.spec): 100}
    assert (rollout(world).phase, rollout(world).stable) == ("Complete", fleet_revision(world.fleet.spec))


def test_requests_of_before_the_step_count_for_nothing() -> None:
    world = stepped()
    world.edit(model=OTHER)
    world.reconcile()
    report(world, GOOD, GOOD)
    world.settle()
    world.now += timedelta(minutes=6)
    world.settle()
    assert rollout(world).step == 0


def breached() -> World:
    """A fleet that took a revision back, wholly."""
    world = stepped()
    world.edit(model=OTHER)
    world.settle()
    report(world, Tally(100, 30, 0, 0), GOOD)
    world.settle()
    return world


def test_a_breach_takes_the_revision_back_and_says_so() -> None:
    world = breached()
    assert list(sizes(world).values()) == [4]
    assert kv_revision(world.fleet.spec) not in sizes(world)
    assert rollout(world).phase == "RolledBack"
    status, reason, message = condition(world, "Stalled")
    assert (status, reason) == ("True", "RolledBack")
    assert "30.0% of 100 requests failed" in message
    assert condition(world, "Ready")[0] != "True"
    assert plan_fleet(world.snapshot()) == ()


def test_a_rejection_is_remembered_until_the_spec_or_retry_changes() -> None:
    world = breached()
    bad = kv_revision(world.fleet.spec)
    world.routers = RouterView()
    world.edit(decode={"replicas": 5})
    world.settle()
    assert bad not in sizes(world)
    assert list(sizes(world).values()) == [5]
    world.edit(rollout={**STEPS, "retry": 1})
    world.settle()
    assert sizes(world)[bad] == 1
    assert rollout(world).rejected is None


def test_another_spec_after_a_rejection_starts_anew() -> None:
    world = breached()
    world.routers = RouterView()
    world.edit(model={"name": "org/third"})
    world.settle()
    assert sizes(world)[kv_revision(world.fleet.spec)] == 1
    assert rollout(world).rejected is None
    assert rollout(world).phase == "Holding"


def test_taking_the_spec_back_after_a_rejection_changes_no_pod() -> None:
    world = breached()
    uids = {d["metadata"]["uid"] for d in world.of("Deployment")}
    world.edit(model={"name": "org/model"})
    world.settle()
    assert {d["metadata"]["uid"] for d in world.of("Deployment")} == uids
    assert condition(world, "Stalled")[0] == "False"


def test_the_old_revision_of_a_rejection_comes_back_as_it_was_born_even_under_a_newer_operator() -> None:
    """Its Deployment is rendered from what was kept, not by this operator's code."""
    world = stepped()
    born = {d["metadata"]["name"]: d["spec"]["template"] for d in world.of("Deployment")}
    world.edit(model=OTHER)
    world.settle()
    report(world, Tally(100, 60, 0, 0), GOOD)
    world.reconcile()
    for place in [p for p in world.objects if p[0] == "Deployment" and p[1] in born]:
        del world.objects[place]
    world.defaults = replace(DEFAULTS, worker_image="worker:v9", engine_image="vllm:v9")
    world.settle()
    assert {d["metadata"]["name"]: d["spec"]["template"] for d in world.of("Deployment")} == born


@pytest.mark.parametrize("kept", [True, False])
def test_a_newer_operator_changes_no_template(kept: bool) -> None:
    """Neither with the kept revision nor, when somebody deleted that, by the live Deployment alone."""
    world = stepped()
    born = {d["metadata"]["name"]: d["spec"]["template"] for d in world.of("Deployment")}
    if not kept:
        for place in [p for p in world.objects if p[0] == "ControllerRevision"]:
            del world.objects[place]
    world.defaults = replace(DEFAULTS, worker_image="worker:v9", engine_image="vllm:v9")
    world.edit(decode={"replicas": 6})
    world.settle()
    assert {d["metadata"]["name"]: d["spec"]["template"] for d in world.of("Deployment")} == born


def test_a_pin_runs_a_kept_revision_without_steps() -> None:
    world = stepped(steps=[])
    first, kv = fleet_revision(world.fleet.spec), kv_revision(world.fleet.spec)
    world.edit(model=OTHER)
    world.settle()
    world.edit(rollout={**STEPS, "pin": first})
    world.settle()
    assert traffic(world) == {kv: 100}
    assert list(sizes(world)) == [kv]
    assert rollout(world).revision == first
    world.edit(rollout={"steps": []})
    world.settle()
    assert traffic(world) == {kv_revision(world.fleet.spec): 100}


def test_an_unknown_pin_changes_nothing_and_names_the_known() -> None:
    world = stepped()
    known = fleet_revision(world.fleet.spec)
    world.edit(rollout={"pin": "00000000"}, model=OTHER)
    assert world.reconcile() == []
    status, reason, message = condition(world, "Stalled")
    assert (status, reason) == ("True", "InvalidSpec")
    assert "spec.rollout.pin" in message
    assert known in message


def test_five_revisions_are_kept_and_the_newest_number_is_the_wanted_one() -> None:
    world = stepped(steps=[])
    for n in range(8):
        world.edit(model={"name": f"org/m{n}"})
        world.settle()
    kept = {r["metadata"]["labels"]["tandem.dev/revision"]: r["revision"] for r in world.of("ControllerRevision")}
    assert len(kept) == 5
    assert max(kept, key=lambda name: kept[name]) == fleet_revision(world.fleet.spec)


def test_one_pair_without_spare_gpus_serves_on() -> None:
    """1P1D, Surge: the second pair never becomes ready; nothing of the first is touched, also after a day."""
    world = World(make_fleet(make_spec(decode={"replicas": 1})))
    world.reconcile()
    world.settle()
    serving = {d["metadata"]["name"] for d in world.of("Deployment")}
    world.edit(model=OTHER)
    for _ in range(5):
        world.now += timedelta(hours=5)
        world.reconcile()
    assert not [a for a in world.writes if isinstance(a, Delete)]
    assert all(world.objects["Deployment", name]["spec"]["replicas"] == 1 for name in serving)
    assert traffic(world)[kv_revision(make_spec(decode={"replicas": 1}))] == 100


def test_no_surge_for_a_single_worker_is_said_to_be_stuck() -> None:
    world = World(make_fleet(make_spec(decode={"replicas": 1}, rollout={"maxSurge": 0, "maxUnavailable": 1})))
    world.reconcile()
    world.settle()
    world.edit(model=OTHER)
    world.settle()
    status, reason, message = condition(world, "Stalled")
    assert (status, reason) == ("True", "RolloutBlocked")
    assert "maxSurge" in message


def test_a_second_change_on_the_way_keeps_what_serves() -> None:
    """A → B, half way, → C: A and B carry the traffic until C can, and both go."""
    world = stepped(steps=[], maxSurge=1)
    world.edit(model=OTHER)
    for _ in range(5):
        world.make_all_available()
        world.reconcile()
    assert len(sizes(world)) == 2
    world.edit(model={"name": "org/third"})
    for _ in range(20):
        world.now += timedelta(seconds=1)
        world.reconcile()
        ready = sum(d["status"].get("availableReplicas", 0) for d in world.deployments("decode") if "status" in d)
        assert ready >= 4
        world.make_all_available()
    assert traffic(world) == {kv_revision(world.fleet.spec): 100}


def test_scaling_goes_on_during_a_step() -> None:
    """The new revision may not grow beyond its share: what the pools need meanwhile, the old one brings."""
    world = stepped()
    old = kv_revision(world.fleet.spec)
    world.edit(model=OTHER)
    world.settle()
    world.edit(prefill={"replicas": 8}, decode={"replicas": 8})
    world.settle()
    new = kv_revision(world.fleet.spec)
    assert sizes(world) == {old: 7, new: 1}
    world.edit(prefill={"replicas": 2}, decode={"replicas": 2})
    world.settle()
    assert sizes(world)[old] == 2


def test_a_handful_of_requests_refuses_only_what_always_fails() -> None:
    assert find_breach(Tally(3, 1), Tally(100, 0), None) is None
    assert find_breach(Tally(5, 5), Tally(100, 0), None) is not None
    assert lower_bound(0, 0) == 0.0


def test_what_both_do_badly_refuses_nothing() -> None:
    """An overloaded fleet says nothing about its new revision."""
    objectives = make_spec(objectives={"ttft": {"seconds": 2}, "tpot": {"seconds": 1}}).objectives
    assert find_breach(Tally(200, 0, 80), Tally(200, 0, 90), objectives) is None
    assert find_breach(Tally(200, 0, 80), Tally(200, 0, 2), objectives) is not None
    assert find_breach(Tally(200, 0, 8), Tally(200, 0, 2), objectives) is None
    assert find_breach(Tally(200, 0, 0, 80), Tally(200, 0, 2), objectives) is not None


def test_two_old_templates_of_one_kv_revision_do_not_wait_for_each_other() -> None:
    """One may go while the other still carries the traffic of their kv-revision."""
    world = World(make_fleet(make_spec(prefill=None, decode={"replicas": 3}, rollout={"maxSurge": 1})))
    world.reconcile()
    world.settle()
    world.edit(decode={"replicas": 3, "engineOverrides": {"maxModelLen": 1024}})
    for _ in range(2):
        world.reconcile()
        world.make_all_available()
    assert len(world.deployments("decode")) == 2
    world.edit(model=OTHER)
    world.settle()
    assert traffic(world) == {kv_revision(world.fleet.spec): 100}
    assert len(world.deployments("decode")) == 1

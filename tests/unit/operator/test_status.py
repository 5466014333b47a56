"""Conditions that tell the truth, and one of Ready, Reconciling, Stalled at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import START, World

from tandem_api.router import FleetReport, KVEdges, RecentTraffic
from tandem_api.v1alpha1 import InferenceDeploymentStatus
from tandem_operator.errors import Conflict, Rejected
from tandem_operator.model import Apply, Problem, RouterView
from tandem_operator.status.facts import Refusal
from tandem_operator.status.fleet import build_report, build_unreadable_status
from tandem_operator.status.refusals import explain_refusal
from tandem_operator.transitions import build_event, changed_conditions


def serving(**spec: Any) -> World:
    world = World(make_fleet(make_spec(**spec)))
    world.reconcile()
    world.settle()
    return world


def conditions(status: InferenceDeploymentStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


def routed(world: World, **changes: Any) -> World:
    """The same world with one router that says this."""
    report = FleetReport(
        namespace="team", name="llama", uid="uid-fleet", generation=1, served_name="m", serving=True, **changes
    )
    world.routers = RouterView(1, 1, (report,))
    world.report()
    return world


def test_a_fleet_that_serves_behind_a_router_is_ready() -> None:
    found = conditions(routed(serving()).fleet.status)
    assert found["Ready"] == ("True", "Available")
    assert found["Reconciling"] == ("False", "Settled")
    assert found["Stalled"][0] == "False"
    assert found["KVTransferReady"] == ("Unknown", "KVUntested")


@pytest.mark.parametrize(
    ("view", "reason"),
    [(RouterView(), "RouterUnreachable"), (RouterView(2, 0), "RouterUnreachable"), (RouterView(1, 1), "RouterBehind")],
)
def test_without_a_router_nothing_is_ready(view: RouterView, reason: str) -> None:
    world = serving()
    world.routers = view
    world.report()
    found = conditions(world.fleet.status)
    assert found["RouterReady"] == ("False", reason)
    assert found["Ready"] == ("False", reason)
    assert found["Reconciling"][0] == "True"


def test_kv_that_moves_is_proved_and_stays_proved_when_a_router_restarts() -> None:
    world = routed(serving(), recent=RecentTraffic(kv_bytes=10, remote_prefills=1))
    assert conditions(world.fleet.status)["DisaggregationEffective"] == ("True", "RemotePrefillSeen")
    routed(world)
    found = conditions(world.fleet.status)
    assert found["KVTransferReady"] == ("True", "KVMoved")
    assert found["DisaggregationEffective"] == ("True", "RemotePrefillSeen")


def test_kv_over_another_transport_than_was_asked_for_is_said_with_the_reason() -> None:
    world = routed(
        serving(), recent=RecentTraffic(kv_bytes=10, remote_prefills=1), kv_fallbacks=("nccl_versions_differ",)
    )
    found = conditions(world.fleet.status)
    assert found["KVTransferReady"] == ("True", "KVFellBack")
    message = next(c.message for c in world.fleet.status.conditions if c.type == "KVTransferReady")
    assert "nccl_versions_differ" in message
    routed(world, recent=RecentTraffic(kv_bytes=10, remote_prefills=1))
    assert conditions(world.fleet.status)["KVTransferReady"] == ("True", "KVMoved")


def test_silent_local_prefill_is_caught() -> None:
    world = routed(serving(), recent=RecentTraffic(kv_failures=3, local_prefills=5))
    found = conditions(world.fleet.status)
    assert found["KVTransferReady"] == ("False", "KVFailing")
    assert found["DisaggregationEffective"] == ("False", "LocalPrefillOnly")


def test_a_proof_falls_when_the_newest_traffic_says_otherwise() -> None:
    """Disaggregation that worked once and fails now is not called effective."""
    world = routed(serving(), recent=RecentTraffic(kv_bytes=10, remote_prefills=1))
    routed(world, recent=RecentTraffic(kv_failures=4, remote_prefills=1, local_prefills=4))
    found = conditions(world.fleet.status)
    assert found["KVTransferReady"] == ("False", "KVFailing")
    assert found["DisaggregationEffective"] == ("False", "LocalPrefillOnly")


def test_a_fleet_without_prefill_is_ready_and_says_that_it_is_aggregated() -> None:
    found = conditions(routed(serving(prefill=None)).fleet.status)
    assert found["Ready"] == ("True", "Available")
    assert found["PrefillReady"] == ("True", "NotConfigured")
    assert found["DisaggregationEffective"] == ("False", "Aggregated")


def test_a_worker_that_is_lost_later_is_unavailable_not_starting() -> None:
    world = routed(serving())
    name = world.deployments("decode")[0]["metadata"]["name"]
    world.objects["Deployment", name]["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    world.report()
    assert conditions(world.fleet.status)["DecodeReady"] == ("False", "PoolUnavailable")
    world.report()
    assert conditions(world.fleet.status)["DecodeReady"] == ("False", "PoolUnavailable")


def test_a_rollout_is_reconciling_and_unknown_while_the_old_one_serves() -> None:
    world = routed(serving())
    world.edit(model={"name": "org/other"})
    world.reconcile()
    found = conditions(world.fleet.status)
    assert found["Ready"][0] == "Unknown"
    assert found["Reconciling"][0] == "True"
    phases = {r.phase: r.traffic_percent for r in world.fleet.status.revisions}
    assert phases == {"Starting": 0, "Serving": 100}


def test_a_passing_cause_stalls_only_after_some_patience() -> None:
    world = World()
    world.reconcile()
    template = world.deployments("decode")[0]["spec"]["template"]["metadata"]["labels"]
    pod = {
        "metadata": {"name": "p", "labels": template, "creationTimestamp": START.isoformat()},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient nvidia.com/gpu"}]
        },
    }
    world.pods = [pod]
    early = build_report(world.snapshot(), START + timedelta(seconds=10))
    late = build_report(world.snapshot(), START + timedelta(seconds=30))
    assert conditions(early.status)["Stalled"][0] == "False"
    assert early.look_again_at == START + timedelta(seconds=30)
    assert conditions(late.status)["Stalled"] == ("True", "InsufficientGPU")
    assert late.look_again_at is None


def test_a_deadline_that_passes_stalls() -> None:
    world = World()
    world.reconcile()
    name = world.deployments("decode")[0]["metadata"]["name"]
    overdue = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
    world.objects["Deployment", name]["status"] = {"conditions": overdue, "observedGeneration": 1}
    world.report()
    assert conditions(world.fleet.status)["Stalled"] == ("True", "ProgressDeadlineExceeded")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"decode": {"resources": {"gpu": 3}}}, "spec.decode.resources.gpu"),
        ({"decode": {"resources": {"sharedMemory": "1Mi"}}}, "spec.decode.resources.sharedMemory"),
        ({"prefill": {"resources": {"memory": "16"}}}, "spec.prefill.resources.memory"),
        ({"decode": {"podTemplate": {"labels": {"a b": "c"}}}}, "spec.decode.podTemplate.labels"),
        ({"decode": {"podTemplate": {"nodeSelector": {"a": "c" * 64}}}}, "spec.decode.podTemplate.nodeSelector"),
        ({"engine": {"type": "sim", "image": "x"}}, "spec.engine.image"),
        (
            {"engine": {"maxModelLen": 4096, "batching": {"chunkedPrefill": False, "maxNumBatchedTokens": 2048}}},
            "spec.engine.batching.maxNumBatchedTokens",
        ),
    ],
)
def test_a_spec_that_admission_let_through_stalls_and_writes_nothing(spec: dict[str, Any], field: str) -> None:
    world = serving()
    world.edit(**spec)
    assert world.reconcile() == []
    stalled = next(c for c in world.fleet.status.conditions if c.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "InvalidSpec")
    assert stalled.message.startswith(f"{field}: ")


def test_an_unreadable_spec_keeps_all_other_conditions() -> None:
    before = routed(serving()).fleet.status
    after = build_unreadable_status(before, 2, Problem("spec.x", "unknown"), START)
    assert conditions(after)["Stalled"] == ("True", "InvalidSpec")
    assert conditions(after)["DecodeReady"] == conditions(before)["DecodeReady"]
    assert after.pools == before.pools


def test_a_transition_time_moves_only_when_the_status_flips() -> None:
    world = routed(serving())
    before = {c.type: c.last_transition_time for c in world.fleet.status.conditions}
    world.now += timedelta(hours=1)
    world.report()
    assert {c.type: c.last_transition_time for c in world.fleet.status.conditions} == before


def test_events_tell_transitions_once() -> None:
    world = routed(serving())
    old, key = world.fleet.status, world.fleet.key
    assert list(changed_conditions(old, old)) == []
    told = {c.type for c in changed_conditions(InferenceDeploymentStatus(), old)}
    assert {"Ready", "DecodeReady", "PrefillReady", "RouterReady"} == told
    world.routers = RouterView()
    world.report()
    lost = {c.type: build_event(key, "u", c, world.now)["type"] for c in changed_conditions(old, world.fleet.status)}
    assert lost == {"Ready": "Warning", "RouterReady": "Warning"}


def test_a_refusal_of_the_server_becomes_a_reason() -> None:
    action = Apply({"kind": "Service", "metadata": {"name": "s"}}, "new")
    taken = Conflict(409, "Conflict", 'Apply failed with 1 conflict: conflict with "kubectl": .spec.selector')
    assert explain_refusal(action, taken) is not None
    assert explain_refusal(replace(action, uid="u"), taken) is None
    assert explain_refusal(action, Conflict(409, "Conflict", "the object has been modified")) is None
    invalid = explain_refusal(action, Rejected(422, "Invalid", "spec.x: bad"))
    assert isinstance(invalid, Refusal)
    assert (invalid.reason, invalid.message.endswith("spec.x: bad")) == ("InvalidSpec", True)


def test_objectives_are_not_passed_over_in_silence() -> None:
    """A release that does not act on them says so where people look."""
    assert "ObjectivesMet" not in conditions(routed(serving()).fleet.status)
    found = conditions(routed(serving(objectives={"ttft": {"seconds": 2}})).fleet.status)
    assert found["ObjectivesMet"] == ("Unknown", "NotMeasured")
    assert found["Ready"] == ("True", "Available")


def test_without_traffic_probes_say_whether_kv_moves() -> None:
    found = conditions(routed(serving(), kv_edges=KVEdges(proved=1)).fleet.status)
    assert found["KVTransferReady"] == ("True", "KVMoved")
    assert found["DisaggregationEffective"] == ("True", "RemotePrefillSeen")
    found = conditions(routed(serving(), kv_edges=KVEdges(failing=1, failure="p0 to d0: no")).fleet.status)
    assert found["KVTransferReady"] == ("False", "KVFailing")


def test_one_failing_pair_among_good_ones_is_named() -> None:
    world = routed(serving(), kv_edges=KVEdges(proved=3, failing=1, failure="p0 to d1: 0 bytes came"))
    condition = next(one for one in world.fleet.status.conditions if one.type == "KVTransferReady")
    assert (condition.status, "p0 to d1" in condition.message) == ("True", True)

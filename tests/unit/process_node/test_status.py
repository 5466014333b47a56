"""A pod's phase and conditions follow from its containers as the kubelet would say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from unit.process_node.pods import make_pod

from cluster.process_node.objects import JsonObject
from cluster.process_node.states import (
    ContainerSnapshot,
    Running,
    State,
    Terminated,
    Waiting,
    recovered_snapshot,
)
from cluster.process_node.status import PodFacts, build_status, decide_phase
from cluster.process_node.status_writer import is_kept

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 12, 5, 0, tzinfo=UTC)
WAITING, RUNNING = Waiting("ContainerCreating"), Running(NOW)


def ended(code: int) -> Terminated:
    return Terminated(code, "Completed" if code == 0 else "Error", NOW, NOW)


def snapshot(state: State, *, last: int | None = None, ready: bool = False) -> ContainerSnapshot:
    return ContainerSnapshot(
        "c",
        "i",
        state,
        last=None if last is None else ended(last),
        ready=ready,
        started=isinstance(state, Running),
    )


def facts(*main: ContainerSnapshot, init: tuple[ContainerSnapshot, ...] = ()) -> PodFacts:
    return PodFacts(init=init, main=main, host_ip="127.0.0.1", started_at=NOW, pod_ip="127.9.0.1", volumes_ready=True)


def pod(policy: str, containers: int = 1, init: tuple[JsonObject, ...] = ()) -> JsonObject:
    specs = [{"name": f"c{i}", "image": "i"} for i in range(containers)]
    return make_pod(*specs, init=init, restartPolicy=policy)


@pytest.mark.parametrize(
    ("policy", "main", "want"),
    [
        ("Always", snapshot(WAITING), "Pending"),
        ("Always", snapshot(RUNNING), "Running"),
        ("Always", snapshot(Waiting("CrashLoopBackOff"), last=1), "Running"),
        ("Always", snapshot(ended(0)), "Running"),
        ("OnFailure", snapshot(ended(1)), "Running"),
        ("OnFailure", snapshot(ended(0)), "Succeeded"),
        ("Never", snapshot(ended(0)), "Succeeded"),
        ("Never", snapshot(ended(137)), "Failed"),
    ],
)
def test_phase_of_a_pod_with_one_container(policy: str, main: ContainerSnapshot, want: str) -> None:
    assert decide_phase(pod(policy), facts(main)) == want


def test_a_pod_is_pending_until_every_container_has_run() -> None:
    assert decide_phase(pod("Always", 2), facts(snapshot(RUNNING), snapshot(WAITING))) == "Pending"


def test_a_pod_runs_while_any_container_does() -> None:
    assert decide_phase(pod("Never", 2), facts(snapshot(RUNNING), snapshot(ended(1)))) == "Running"


@pytest.mark.parametrize(("policy", "want"), [("Never", "Failed"), ("Always", "Pending"), ("OnFailure", "Pending")])
def test_a_failed_init_container_ends_only_a_pod_that_never_restarts(policy: str, want: str) -> None:
    init = ({"name": "init", "image": "i"},)
    assert decide_phase(pod(policy, init=init), facts(snapshot(WAITING), init=(snapshot(ended(1)),))) == want


def test_a_sidecar_that_was_stopped_at_the_end_does_not_take_the_success_back() -> None:
    init = ({"name": "side", "image": "i", "restartPolicy": "Always"},)
    assert decide_phase(pod("Never", init=init), facts(snapshot(ended(0)), init=(snapshot(ended(0)),))) == "Succeeded"


def test_a_deleted_pod_ends_as_its_containers_did() -> None:
    over = replace(facts(snapshot(ended(0))), ended=True)
    assert decide_phase(pod("Always"), over) == "Succeeded"
    assert decide_phase(pod("Always"), replace(facts(snapshot(ended(143))), ended=True)) == "Failed"


def test_a_failure_of_the_whole_pod_is_its_phase_reason_and_message() -> None:
    status = build_status(
        pod("Always"), replace(facts(snapshot(RUNNING)), failure=("DeadlineExceeded", "too long")), NOW
    )
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")


def conditions(status: JsonObject) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def test_a_ready_container_makes_a_ready_pod_with_its_address() -> None:
    status = build_status(pod("Always"), facts(snapshot(RUNNING, ready=True)), NOW)
    assert conditions(status) == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"), "True"
    )
    assert status["podIPs"] == [{"ip": "127.9.0.1"}]
    assert status["observedGeneration"] == 3


def test_an_unready_container_is_named() -> None:
    status = build_status(pod("Always"), facts(snapshot(RUNNING)), NOW)
    (ready,) = (c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [c]"


def test_a_readiness_gate_holds_a_pod_back_until_its_condition_is_true() -> None:
    gated = {**pod("Always"), "status": {}}
    gated["spec"]["readinessGates"] = [{"conditionType": "tandem.dev/warm"}]
    ready = facts(snapshot(RUNNING, ready=True))
    assert conditions(build_status(gated, ready, NOW))["Ready"] == "False"
    gated["status"] = {"conditions": [{"type": "tandem.dev/warm", "status": "True"}]}
    assert conditions(build_status(gated, ready, NOW))["Ready"] == "True"


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = build_status(pod("Always"), facts(snapshot(RUNNING)), NOW)
    same = build_status(pod("Always"), replace(facts(snapshot(RUNNING)), conditions=first["conditions"]), LATER)
    turned = build_status(
        pod("Always"), replace(facts(snapshot(RUNNING, ready=True)), conditions=first["conditions"]), LATER
    )
    assert same == first
    times = {c["type"]: c["lastTransitionTime"] for c in turned["conditions"]}
    assert times["Ready"] == "2026-01-01T12:05:00Z"
    assert times["Initialized"] == "2026-01-01T12:00:00Z"


def test_a_container_that_ran_when_the_node_died_is_reported_as_killed() -> None:
    before = snapshot(RUNNING).to_json() | {"restartCount": 2, "containerID": "process://1"}
    recovered = recovered_snapshot(before, snapshot(WAITING), LATER)
    assert isinstance(recovered.state, Terminated)
    assert (recovered.state.exit_code, recovered.restart_count) == (137, 2)
    assert recovered.state.finished_at == LATER


def test_terminated_states_survive_a_round_trip_through_the_api() -> None:
    before = replace(
        snapshot(Waiting("CrashLoopBackOff")), last=replace(ended(3), signal=9, message="m", container_id="x")
    )
    assert recovered_snapshot(before.to_json(), snapshot(WAITING), LATER).last == before.last


def test_a_status_that_another_wrote_over_is_noticed() -> None:
    written = build_status(pod("Always"), facts(snapshot(RUNNING, ready=True)), NOW)
    held = {"phase": "Running", "conditions": [*written["conditions"], {"type": "Other", "status": "True"}]}
    assert is_kept(written, held)
    held["conditions"][3] = {"type": "Ready", "status": "False"}
    assert not is_kept(written, held)

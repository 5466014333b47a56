"""From container states to a pod's status, by the kubelet's rules. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cluster.process_node.objects import (
    JsonObject,
    init_containers,
    is_sidecar,
    restart_policy,
    to_rfc3339,
)
from cluster.process_node.states import ContainerSnapshot, Running, Terminated, Waiting


@dataclass(frozen=True)
class PodFacts:
    """What the node knows about one pod at one moment. `failure` is (reason, message) of a pod-wide end."""

    init: Sequence[ContainerSnapshot]
    main: Sequence[ContainerSnapshot]
    host_ip: str
    started_at: datetime
    pod_ip: str = ""
    volumes_ready: bool = False
    ended: bool = False
    failure: tuple[str, str] | None = None
    conditions: Sequence[JsonObject] = field(default_factory=tuple)


def build_status(pod: JsonObject, facts: PodFacts, now: datetime) -> JsonObject:
    """The status to patch in. Conditions of others in `facts.conditions` stay untouched."""
    phase = decide_phase(pod, facts)
    status: JsonObject = {
        "phase": phase,
        "conditions": _conditions(pod, facts, phase, now),
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "startTime": to_rfc3339(facts.started_at),
        "containerStatuses": [snapshot.to_json() for snapshot in facts.main],
        "observedGeneration": pod["metadata"].get("generation", 1),
    }
    if facts.init:
        status["initContainerStatuses"] = [snapshot.to_json() for snapshot in facts.init]
    if facts.pod_ip:
        status |= {"podIP": facts.pod_ip, "podIPs": [{"ip": facts.pod_ip}]}
    if facts.failure:
        status |= {"reason": facts.failure[0], "message": facts.failure[1]}
    return status


def decide_phase(pod: JsonObject, facts: PodFacts) -> str:
    """Pending, Running, Succeeded or Failed. An end is final; `ended` means that nothing will start again."""
    if facts.failure:
        return "Failed"
    if facts.ended:
        return _final_phase(facts)
    if not _is_initialized(pod, facts):
        return "Failed" if _init_failed(pod, facts) else "Pending"
    return _phase_of_main(pod, facts.main)


def _final_phase(facts: PodFacts) -> str:
    done = all(isinstance(c.state, Terminated) and c.state.exit_code == 0 for c in facts.main)
    return "Succeeded" if done else "Failed"


def _init_failed(pod: JsonObject, facts: PodFacts) -> bool:
    return any(
        isinstance(snapshot.state, Terminated)
        and snapshot.state.exit_code != 0
        and restart_policy(pod, container, init=True) == "Never"
        for container, snapshot in zip(init_containers(pod), facts.init, strict=True)
    )


def _is_initialized(pod: JsonObject, facts: PodFacts) -> bool:
    # Main containers start last: once one has, a sidecar that stops, or an init container that runs again
    # after a restart of the node, changes nothing about it.
    return any(_has_run(snapshot) for snapshot in facts.main) or all(
        _is_initialized_one(container, snapshot)
        for container, snapshot in zip(init_containers(pod), facts.init, strict=True)
    )


def _has_run(snapshot: ContainerSnapshot) -> bool:
    return not isinstance(snapshot.state, Waiting) or snapshot.last is not None


def _phase_of_main(pod: JsonObject, main: Sequence[ContainerSnapshot]) -> str:
    if not all(map(_has_run, main)):
        return "Pending"
    if any(isinstance(c.state, Running) for c in main):
        return "Running"
    ends = [_last_end(c) for c in main]
    policies = [restart_policy(pod, container, init=False) for container in pod["spec"]["containers"]]
    over = all(
        isinstance(c.state, Terminated) and (policy == "Never" or (policy == "OnFailure" and end == 0))
        for c, policy, end in zip(main, policies, ends, strict=True)
    )
    if not over:
        return "Running"
    return "Succeeded" if all(end == 0 for end in ends) else "Failed"


def _last_end(snapshot: ContainerSnapshot) -> int | None:
    if isinstance(snapshot.state, Terminated):
        return snapshot.state.exit_code
    return snapshot.last.exit_code if snapshot.last else None


def _conditions(pod: JsonObject, facts: PodFacts, phase: str, now: datetime) -> list[JsonObject]:
    over = phase in ("Succeeded", "Failed")
    initialized = _is_initialized(pod, facts)
    unready = [c.name for c in facts.main if not c.ready]
    containers_ready = not unready and initialized and not over
    gates_ready, gate_message = _readiness_gates(pod)
    not_ready = _not_ready_reason(phase, unready)
    wanted = [
        _condition("PodReadyToStartContainers", bool(facts.pod_ip) and facts.volumes_ready and not over),
        _condition("Initialized", initialized, *_not_initialized_reason(pod, facts)),
        _condition("ContainersReady", containers_ready, *not_ready),
        _condition("Ready", containers_ready and gates_ready, *(not_ready if unready or over else gate_message)),
    ]
    generation = pod["metadata"].get("generation", 1)
    return [{**_with_transition(c, facts.conditions, now), "observedGeneration": generation} for c in wanted]


def _condition(kind: str, holds: bool, reason: str = "", message: str = "") -> JsonObject:
    condition: JsonObject = {"type": kind, "status": "True" if holds else "False"}
    # null, not absence: the status is merged, and an old reason must go when the condition turns true.
    return {
        **condition,
        "reason": reason if reason and not holds else None,
        "message": message if message and not holds else None,
    }


def _with_transition(condition: JsonObject, before: Sequence[JsonObject], now: datetime) -> JsonObject:
    for old in before:
        if old["type"] == condition["type"] and old["status"] == condition["status"]:
            return {**condition, "lastTransitionTime": old.get("lastTransitionTime") or to_rfc3339(now)}
    return {**condition, "lastTransitionTime": to_rfc3339(now)}


def _not_ready_reason(phase: str, unready: Sequence[str]) -> tuple[str, str]:
    if phase == "Succeeded":
        return "PodCompleted", ""
    if phase == "Failed":
        return "PodFailed", ""
    return "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"


def _not_initialized_reason(pod: JsonObject, facts: PodFacts) -> tuple[str, str]:
    pending = [
        snapshot.name
        for container, snapshot in zip(init_containers(pod), facts.init, strict=True)
        if not _is_initialized_one(container, snapshot)
    ]
    return "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(pending)}]"


def _is_initialized_one(container: JsonObject, snapshot: ContainerSnapshot) -> bool:
    if is_sidecar(container, init=True):
        return snapshot.started
    return isinstance(snapshot.state, Terminated) and snapshot.state.exit_code == 0


def _readiness_gates(pod: JsonObject) -> tuple[bool, tuple[str, str]]:
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    true = {c["type"] for c in (pod.get("status", {}).get("conditions") or []) if c["status"] == "True"}
    missing = [gate for gate in gates if gate not in true]
    return not missing, ("ReadinessGatesNotReady", f"the conditions {missing} are not true" if missing else "")

"""Bad input and bad luck: each gives a condition with reason and fix, and nothing that serves is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until

pytestmark = pytest.mark.integration

ALONE = {"prefill": None, "decode": {"replicas": 1}}
FLEET_SURGE = "tandem.dev/fleet=surge"
MANUAL = {"decode": {"replicas": 1, "podTemplate": {"nodeSelector": {"kubernetes.io/hostname": "manual"}}}}


@pytest.fixture(scope="module")
def operator(installation: Installation) -> Iterator[OperatorProcess]:
    """A leading replica for the whole module, and a node whose pods get the status that a test writes."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "manual", "labels": {"kubernetes.io/hostname": "manual"}},
        "status": {
            "capacity": {"cpu": "64", "memory": "64Gi", "pods": "100"},
            "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "100"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    installation.cluster.kubectl("create", "-f", "-", "--validate=false", stdin=json.dumps(node))
    try:
        with installation.replica() as process:
            yield process
    finally:
        installation.cluster.kubectl("delete", "node", "manual")


def pods_of(kube: Kube, fleet: str) -> list[dict[str, Any]]:
    return [p for p in kube.list("pods", f"tandem.dev/fleet={fleet}") if not p["metadata"].get("deletionTimestamp")]


def write_state(kube: Kube, fleet: str, state: dict[str, Any], last: dict[str, Any] | None = None) -> None:
    """What a kubelet would say of the fleet's only pod."""
    wait_until(lambda: pods_of(kube, fleet), 15)
    (pod,) = pods_of(kube, fleet)
    container = {
        "name": "worker",
        "image": pod["spec"]["containers"][0]["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 1 if last else 0,
        "state": state,
        **({"lastState": last} if last else {}),
    }
    patch = json.dumps({"status": {"phase": "Pending", "containerStatuses": [container]}})
    kube.run("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", patch)


def test_each_fault_of_a_pod_becomes_a_typed_condition_and_stalls(kube: Kube, operator: OperatorProcess) -> None:
    faults = {
        "image": ({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, None, "ImageUnavailable"),
        "secret": (
            {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}},
            None,
            "SecretMissing",
        ),
        "model": (
            {"waiting": {"reason": "CrashLoopBackOff"}},
            {
                "terminated": {
                    "exitCode": 1,
                    "message": "ModelUnavailable: org/nothing is not on the hub",
                }
            },
            "ModelUnavailable",
        ),
        "crash": (
            {"waiting": {"reason": "CrashLoopBackOff"}},
            {"terminated": {"exitCode": 1, "message": "Traceback\nRuntimeError: no kernel image"}},
            "WorkerCrashing",
        ),
    }
    for name in faults:
        kube.apply(make_manifest(name, **{**ALONE, **MANUAL}))
    kube.apply(make_manifest("gpu", prefill=None, decode=gpus(64), engine={"type": "vllm"}))
    for name, (state, last, reason) in faults.items():
        write_state(kube, name, state, last)
        condition = kube.wait_condition(name, "DecodeReady", "False", reason)
        assert "1 pod" in condition["message"]
    assert "2 pods" in kube.wait_condition("gpu", "DecodeReady", "False", "InsufficientGPU")["message"]
    assert "no kernel image" in kube.condition("crash", "DecodeReady")["message"]
    kube.wait_condition("model", "Stalled", "True", "ModelUnavailable", 5)
    assert kube.condition("image", "Stalled")["status"] == "False"
    for name, reason in [("image", "ImageUnavailable"), ("gpu", "InsufficientGPU"), ("secret", "SecretMissing")]:
        kube.wait_condition(name, "Stalled", "True", reason, 40)
        assert kube.condition(name, "Ready")["reason"] == reason
    events = {e["reason"] for e in kube.list("events") if e["source"].get("component") == "tandem-operator"}
    assert {"ImageUnavailable", "InsufficientGPU"} <= events


def gpus(count: int) -> dict[str, Any]:
    return {"replicas": 2, "parallelism": {"tensor": count}, "resources": {"gpu": count}}


def test_a_spec_that_admission_cannot_judge_stalls_and_touches_nothing(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("serving", **ALONE))
    kube.wait_condition("serving", "DecodeReady", "True", "Available")
    before = [d["metadata"]["resourceVersion"] for d in kube.list("deploy", "tandem.dev/fleet=serving")]
    kube.apply(make_manifest("serving", prefill=None, decode={"replicas": 1, "resources": {"memory": "16"}}))
    stalled = kube.wait_condition("serving", "Stalled", "True", "InvalidSpec")
    assert stalled["message"].startswith("spec.decode.resources.memory: 16 is less than any engine needs")
    assert [d["metadata"]["resourceVersion"] for d in kube.list("deploy", "tandem.dev/fleet=serving")] == before
    kube.apply(make_manifest("serving", **ALONE))
    assert kube.wait_condition("serving", "Stalled", "False", "Progressing")


def test_a_template_that_the_server_refuses_stalls_with_its_words(kube: Kube, operator: OperatorProcess) -> None:
    template = {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}
    kube.apply(make_manifest("refused", prefill=None, decode={"replicas": 1, "podTemplate": template}))
    stalled = kube.wait_condition("refused", "Stalled", "True", "InvalidSpec")
    assert "tolerations" in stalled["message"]


def test_a_name_that_is_taken_is_not_taken_over(kube: Kube, operator: OperatorProcess) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken-decode"},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    }
    kube.apply(service)
    kube.apply(make_manifest("taken", **ALONE))
    stalled = kube.wait_condition("taken", "Stalled", "True", "NameTaken")
    assert "Service taken-decode" in stalled["message"]
    assert kube.get("svc", "taken-decode")["spec"]["selector"] == {"app": "mine"}
    kube.run("delete", "svc", "taken-decode")
    kube.wait_condition("taken", "Stalled", "False", "Progressing", 40)


def test_a_new_template_without_gpus_leaves_the_old_one_serving(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("surge", prefill=None, decode=gpus(8) | {"replicas": 1}, engine={"type": "vllm"}))
    kube.wait_condition("surge", "DecodeReady", "True", "Available")
    (old,) = kube.list("deploy", FLEET_SURGE)
    kube.apply(make_manifest("surge", prefill=None, decode=gpus(16) | {"replicas": 1}, engine={"type": "vllm"}))
    kube.wait_condition("surge", "DecodeReady", "False", "InsufficientGPU")
    assert "1 of an older template serve on" in kube.condition("surge", "DecodeReady")["message"]
    names = {d["metadata"]["name"]: d["status"].get("readyReplicas") for d in kube.list("deploy", FLEET_SURGE)}
    assert len(names) == 2
    assert names[old["metadata"]["name"]] == 1
    kube.apply(make_manifest("surge", prefill=None, decode=gpus(8) | {"replicas": 1}, engine={"type": "vllm"}))
    wait_until(lambda: len(kube.list("deploy", FLEET_SURGE)) == 1, 15)
    (kept,) = kube.list("deploy", FLEET_SURGE)
    assert kept["metadata"]["uid"] == old["metadata"]["uid"]


def test_a_rollout_ends_with_the_new_pair_alone(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("roll"))
    kube.wait_condition("roll", "DecodeReady", "True", "Available")
    before = {d["metadata"]["uid"] for d in kube.list("deploy", "tandem.dev/fleet=roll")}
    kube.apply(make_manifest("roll", engine={"type": "sim", "dtype": "float16"}))

    def is_replaced() -> bool:
        now = {d["metadata"]["uid"] for d in kube.list("deploy", "tandem.dev/fleet=roll")}
        return len(now) == 2 and not now & before

    wait_until(is_replaced, 30)
    (revision,) = kube.get("infd", "roll")["status"]["revisions"]
    assert (revision["trafficPercent"], revision["phase"]) == (100, "Serving")


def test_an_upgraded_operator_restarts_no_pod(
    installation: Installation, kube: Kube, operator: OperatorProcess
) -> None:
    """New defaults are for revisions that are born later."""
    kube.apply(make_manifest("stays", **ALONE))
    kube.wait_condition("stays", "DecodeReady", "True", "Available")
    before = {p["metadata"]["uid"] for p in pods_of(kube, "stays")}
    operator.stop()
    try:
        with installation.replica(
            "--worker-image", "tandem.dev/worker:next", "--engine-image", "vllm:next"
        ) as upgraded:
            kube.apply(make_manifest("stays", prefill=None, decode={"replicas": 2}))
            wait_until(lambda: kube.get("infd", "stays")["status"]["readyText"] == "D 2/2")
            assert before <= {p["metadata"]["uid"] for p in pods_of(kube, "stays")}
            (deployment,) = kube.list("deploy", "tandem.dev/fleet=stays")
            assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "tandem.dev/worker:0.1.0"
            kube.apply(
                make_manifest("stays", prefill=None, decode={"replicas": 2}, engine={"type": "sim", "dtype": "float16"})
            )
            wait_until(lambda: _images(kube, "stays") == {"tandem.dev/worker:next"}, 30)
            assert upgraded.is_leading()
    finally:
        operator.start()
        wait_until(operator.is_leading, 25)


def _images(kube: Kube, fleet: str) -> set[str]:
    found = kube.list("deploy", f"tandem.dev/fleet={fleet}")
    return {d["spec"]["template"]["spec"]["containers"][0]["image"] for d in found}

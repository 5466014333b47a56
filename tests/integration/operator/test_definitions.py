"""The generated definitions on a real API server: each rule admits what is right and refuses what is wrong, by name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from integration.operator.conftest import Kube, make_manifest

from cluster.errors import ClusterError
from tandem_api.v1alpha1 import InferenceDeploymentSpec

pytestmark = pytest.mark.integration

HUB = {"name": "org/model"}
POOL = {"replicas": 1}


OBJECTIVES = {"ttft": {"seconds": 2}, "tpot": {"percentile": "p99", "seconds": 0.05}}
SCALED = {
    "engine": {"type": "sim", "performanceProfile": "8b-h100-tp1"},
    "prefill": {"max": 4},
    "decode": {"max": 8},
    "objectives": OBJECTIVES,
    "autoscaling": {"mode": "Objectives"},
}
MODEL = {"p1Ms": 0.04, "d0Ms": 7.0, "kvCapacityTokens": 400_000}
NIGHT = {"start": "22:00", "end": "06:00", "timeZone": "Europe/Berlin", "days": ["Fri", "Sat"], "decodeMin": 2}


def pool(**parts: Any) -> dict[str, Any]:
    return {**POOL, **parts}


@pytest.fixture
def try_apply(tandem_kube: Kube) -> Any:
    """Applies without storing: the server runs all of its validation."""

    def send(manifest: dict[str, Any]) -> None:
        tandem_kube.cluster.kubectl(
            "create", "--dry-run=server", "-n", tandem_kube.namespace, "-f", "-", stdin=yaml.safe_dump(manifest)
        )

    return send


ADMITTED = [
    {},
    {"model": HUB},
    {"model": {**HUB, "revision": "main", "tokenSecret": {"name": "hub"}}},
    {"model": {"name": "x", "source": "pvc://claim/models/x"}},
    {"prefill": None},
    {"prefill": None, "decode": pool(parallelism={"pipeline": 2})},
    {"engine": {"extraArgs": ["--max-logprobs=5", "--seed", "7"]}},
    {"autoscaling": {"mode": "External"}},
    {"decode": pool(podTemplate={"labels": {"team": "a"}, "nodeSelector": {"gpu": "h200"}})},
    {"objectives": OBJECTIVES},
    {"objectives": {"ttft": {"seconds": 2}}},
    SCALED,
    {**SCALED, "engine": {"type": "sim", "performanceModel": MODEL}},
    {**SCALED, "autoscaling": {"advisory": True}},
    {**SCALED, "autoscaling": {"mode": "Objectives", "gpuBudget": 8, "ratio": {"min": 0.5}, "schedules": [NIGHT]}},
    {"decode": {"min": 0, "max": 1}},
]

REFUSED = [
    ({"model": {"name": "x"}}, "model.source is missing"),
    ({"model": {"name": "x", "source": "pvc://claim/../etc"}}, "may not contain"),
    ({"model": {"name": "x", "source": "pvc://claim", "revision": "main"}}, "model.revision goes with hf://"),
    ({"model": {"name": "x", "source": "http://evil"}}, "spec.model.source"),
    ({"prefill": pool(parallelism={"tensor": 2})}, "parallelism.tensor"),
    ({"prefill": pool(parallelism={"pipeline": 2})}, "spec.prefill.parallelism.pipeline must be 1"),
    ({"decode": pool(parallelism={"pipeline": 2})}, "spec.decode.parallelism.pipeline must be 1"),
    ({"kvTransfer": {"connector": "nccl"}}, "kvTransfer.connector: only tcp"),
    ({**SCALED, "objectives": None}, "needs objectives.ttft.seconds and objectives.tpot.seconds"),
    ({**SCALED, "objectives": {"ttft": {"seconds": 2}}}, "needs objectives.ttft.seconds and objectives.tpot.seconds"),
    ({**SCALED, "engine": {"type": "sim"}}, "set engine.performanceProfile, or engine.performanceModel"),
    ({**SCALED, "engine": None}, "set engine.performanceProfile, or engine.performanceModel"),
    ({**SCALED, "prefill": {}}, "set spec.prefill.max and spec.decode.max"),
    ({**SCALED, "prefill": None}, "add spec.prefill"),
    ({**SCALED, "decode": {"min": 9, "max": 8}}, "min is above max"),
    ({"autoscaling": {"advisory": True}}, "(or advisory) needs"),
    ({"autoscaling": {"ratio": {"min": 2, "max": 1}}}, "autoscaling.ratio.min is above ratio.max"),
    ({"autoscaling": {"gpuBudget": 0}}, "spec.autoscaling.gpuBudget"),
    ({"autoscaling": {"scaleToZeroAfterSeconds": 5}}, "spec.autoscaling.scaleToZeroAfterSeconds"),
    ({"autoscaling": {"schedules": [{**NIGHT, "start": "24:00"}]}}, "spec.autoscaling.schedules[0].start"),
    ({"autoscaling": {"schedules": [{**NIGHT, "days": ["Someday"]}]}}, "spec.autoscaling.schedules[0].days[0]"),
    ({"objectives": {"ttft": {"seconds": 2, "percentile": "p100"}}}, "spec.objectives.ttft.percentile"),
    ({"engine": {"type": "sim", "performanceModel": {**MODEL, "p1Ms": 0}}}, "spec.engine.performanceModel.p1Ms"),
    ({"engine": {"extraArgs": ["--kv-transfer-config={}"]}}, "extraArgs may not set what Tandem owns"),
    ({"decode": pool(engineOverrides={"extraArgs": ["--port", "1"]})}, "extraArgs may not set what Tandem owns"),
    ({"decode": pool(podTemplate={"labels": {"tandem.dev/role": "x"}})}, "podTemplate.labels may not use"),
    ({"decode": pool(podTemplate={"annotations": {"app.kubernetes.io/name": "x"}})}, "podTemplate.annotations may not"),
    ({"decode": pool(resources={"memory": "lots"})}, "spec.decode.resources.memory"),
    ({"decode": pool(replicas=-1)}, "spec.decode.replicas"),
    ({"decode": None}, "spec.decode"),
    ({"engine": {"image": "x; rm -rf /"}}, "spec.engine.image"),
    ({"engine": {"kvCache": {"blockSize": 7}}}, "spec.engine.kvCache.blockSize"),
    ({"engine": {"kvCache": {"gpuMemoryUtilization": 0}}}, "spec.engine.kvCache.gpuMemoryUtilization"),
]


@pytest.mark.parametrize("spec", ADMITTED, ids=str)
def test_what_is_right_is_admitted(try_apply: Any, spec: dict[str, Any]) -> None:
    try_apply(make_manifest("right", **spec))


@pytest.mark.parametrize(("spec", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_refused_with_field_and_fix(try_apply: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError) as refusal:
        try_apply(make_manifest("wrong", **spec))
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", ["a" * 41, "1abc", "a.b"])
def test_a_name_that_does_not_fit_into_child_names_is_refused(try_apply: Any, name: str) -> None:
    with pytest.raises(ClusterError, match="DNS label of at most 40 characters"):
        try_apply(make_manifest(name))


def test_the_longest_name_is_admitted(try_apply: Any) -> None:
    try_apply(make_manifest("a" * 40))


def test_defaults_are_filled_in_and_nothing_else(tandem_kube: Kube) -> None:
    tandem_kube.apply(make_manifest("defaults", prefill=None, decode={}, drain=None))
    spec = tandem_kube.get("infd", "defaults")["spec"]
    tandem_kube.run("delete", "infd", "defaults", "--wait=false")
    assert spec == {
        "model": {"name": "tiny", "source": "synthetic://tiny-llama"},
        "engine": {"type": "sim"},
        "decode": {
            "min": 1,
            "parallelism": {"tensor": 1, "pipeline": 1},
            "resources": {"gpuResource": "nvidia.com/gpu", "sharedMemory": "2Gi"},
        },
        "kvTransfer": {"connector": "tcp", "onPrefillFailure": "Retry"},
        "autoscaling": {"mode": "Fixed", "advisory": False, "paused": False},
        "rollout": {"strategy": "Surge", "progressDeadlineSeconds": 1800, "paused": False},
        "routing": {"requestTimeoutSeconds": 1800},
        "drain": {"timeoutSeconds": 600},
    }


def test_our_reading_of_a_stored_object_gives_back_what_is_stored(tandem_kube: Kube) -> None:
    """The defaults of the models are those of the server: reading adds nothing and loses nothing."""
    tandem_kube.apply(make_manifest("round-trip", objectives={"ttft": {"seconds": 2}}))
    stored = tandem_kube.get("infd", "round-trip")["spec"]
    tandem_kube.run("delete", "infd", "round-trip", "--wait=false")
    again = InferenceDeploymentSpec.model_validate(stored)
    assert again == InferenceDeploymentSpec.model_validate(again.to_wire())
    wire = again.to_wire()
    for part in stored:
        assert {k: wire[part][k] for k in stored[part]} == stored[part]


def test_a_second_manager_conflicts_on_a_field_of_the_first(tandem_kube: Kube) -> None:
    tandem_kube.apply(make_manifest("shared"))
    other = yaml.safe_dump(make_manifest("shared", decode={"replicas": 7}))
    with pytest.raises(ClusterError, match=r"conflict with \"kubectl\".*replicas"):
        tandem_kube.cluster.kubectl(
            "apply", "--server-side", "--field-manager=other", "-n", tandem_kube.namespace, "-f", "-", stdin=other
        )
    tandem_kube.run("delete", "infd", "shared", "--wait=false")


def test_short_names_categories_and_selectable_fields_work(tandem_kube: Kube) -> None:
    tandem_kube.apply(make_manifest("chosen", model={"name": "org/chosen"}))
    found = tandem_kube.run("get", "infd", "--field-selector=spec.model.name=org/chosen", "-o", "name")
    assert found.split() == ["inferencedeployment.tandem.dev/chosen"]
    assert "inferencedeployment.tandem.dev/chosen" in tandem_kube.run("get", "tandem", "-o", "name")
    tandem_kube.run("delete", "infd", "chosen", "--wait=false")

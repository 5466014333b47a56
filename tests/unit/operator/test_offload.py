"""`kvCache.offload` becomes room in the pod and a setting of the worker; what cannot be is named with its fix."""

import json
from typing import Any

import pytest
from unit.operator.fleets import make_fleet, make_spec

from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_api.worker import OFFLOAD_DIR, KVOffloadConfig, WorkerConfig
from tandem_operator.model import PoolRole
from tandem_operator.resources.podspec import Images, build_pod_template
from tandem_operator.resources.revisions import kv_revision, template_revision
from tandem_operator.validate import find_problem

GI = 1 << 30
ROLES: tuple[PoolRole, PoolRole] = ("prefill", "decode")


def make_offloading(offload: dict[str, Any] | None, **decode: Any) -> InferenceDeploymentSpec:
    cache = {"blockSize": 32, **({"offload": offload} if offload else {})}
    return make_spec(engine={"kvCache": cache}, decode={"replicas": 1, **decode})


def render(spec: InferenceDeploymentSpec, role: PoolRole = "decode") -> dict[str, Any]:
    pod: dict[str, Any] = build_pod_template(make_fleet(spec), role, Images("engine:1", "worker:1"))["spec"]
    return pod


def read_config(pod: dict[str, Any]) -> WorkerConfig:
    (text,) = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "TANDEM_WORKER"]
    return WorkerConfig.model_validate(json.loads(text))


def test_memory_widens_shared_memory_and_disk_is_a_volume_of_bounded_size() -> None:
    pod = render(make_offloading({"memory": "16Gi", "disk": "100Gi"}, resources={"sharedMemory": "2Gi"}))
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(18 * GI)}
    assert 100 * GI < int(volumes["kv"]["emptyDir"]["sizeLimit"]) < 120 * GI
    assert {"name": "kv", "mountPath": OFFLOAD_DIR} in pod["containers"][0]["volumeMounts"]
    assert read_config(pod).engine.kv_offload == KVOffloadConfig(
        memory_bytes=16 * GI, disk_dir=OFFLOAD_DIR, disk_bytes=100 * GI
    )


def test_without_a_disk_there_is_no_volume_and_without_the_field_nothing_changes() -> None:
    pod = render(make_offloading({"memory": "1Gi"}))
    assert "kv" not in {volume["name"] for volume in pod["volumes"]}
    assert read_config(pod).engine.kv_offload == KVOffloadConfig(memory_bytes=GI)
    assert read_config(render(make_offloading(None))).engine.kv_offload is None


def test_a_role_may_have_its_own() -> None:
    own = {"engineOverrides": {"kvCache": {"offload": {"memory": "4Gi"}}}}
    spec = make_offloading({"memory": "1Gi"}, **own)
    sizes = [read_config(render(spec, role)).engine.kv_offload for role in ROLES]
    assert sizes == [KVOffloadConfig(memory_bytes=GI), KVOffloadConfig(memory_bytes=4 * GI)]


def test_offloading_changes_the_template_and_not_what_may_be_paired() -> None:
    plain, offloading = make_offloading(None), make_offloading({"memory": "1Gi"})
    assert kv_revision(plain) == kv_revision(offloading)
    assert template_revision(plain, "decode") != template_revision(offloading, "decode")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (make_offloading({"memory": "64Gi"}, resources={"memory": "32Gi"}), "spec.decode.resources.memory"),
        (make_spec(engine={"type": "sim", "kvCache": {"offload": {"memory": "1Gi"}}}), "engine sim keeps no KV"),
    ],
)
def test_what_cannot_be_is_named(spec: InferenceDeploymentSpec, words: str) -> None:
    problem = find_problem(spec)
    assert problem is not None
    assert words in str(problem)

"""What holds for the pods of every fleet that admission lets through: a writer of custom resources gains nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import assume, given, settings
from property.operator.specs import specs
from unit.operator.fleets import DEFAULTS, make_fleet

from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_operator.model import Fleet
from tandem_operator.resources.network_policy import build_network_policy
from tandem_operator.resources.podspec import Images, build_pod_template
from tandem_operator.validate import find_problem

# Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
RESTRICTED_VOLUMES = {"emptyDir", "secret", "persistentVolumeClaim", "image"}
HOST_FIELDS = {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "serviceAccountName", "shareProcessNamespace"}
OTHER_NAMESPACES = {"namespace", "namespaces", "namespaceSelector", "hostPath", "csi", "nfs", "exec", "lifecycle"}
WORKER_COMMANDS = (["python3", "-m", "tandem_worker"], ["python3", "-m", "tandem_worker.install", "/opt/tandem"])


def render(spec: dict[str, Any]) -> tuple[Fleet, list[dict[str, Any]]]:
    """The fleet, and the pod templates of all its roles."""
    fleet = make_fleet(InferenceDeploymentSpec.model_validate(spec))
    images = Images(DEFAULTS.engine_image, DEFAULTS.worker_image)
    return fleet, [build_pod_template(fleet, role, images) for role in fleet.pool_roles()]


def render_valid(spec: dict[str, Any]) -> tuple[Fleet, list[dict[str, Any]]]:
    """The same; skips specs that would be stalled."""
    assume(find_problem(InferenceDeploymentSpec.model_validate(spec)) is None)
    return render(spec)


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*pod.get("initContainers", ()), *pod["containers"])


def names(value: Any) -> Iterator[str]:
    """Every name of a field, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from names(inner)
    elif isinstance(value, list):
        for item in value:
            yield from names(item)


@given(specs)
@settings(deadline=None, max_examples=30)
def test_every_pod_is_confined(spec: dict[str, Any]) -> None:
    for template in render_valid(spec)[1]:
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & HOST_FIELDS
        assert not set(names(pod)) & OTHER_NAMESPACES
        assert all(set(volume) - {"name"} <= RESTRICTED_VOLUMES for volume in pod["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
            }


@given(specs)
@settings(deadline=None, max_examples=30)
def test_no_shell_reads_what_a_user_wrote(spec: dict[str, Any]) -> None:
    for template in render_valid(spec)[1]:
        for container in containers(template["spec"]):
            assert "args" not in container
            if container["name"].startswith("fetch-"):
                assert container["command"][:3] == ["aws", "s3", "sync"]
                assert container["command"][-2].startswith("s3://")
                assert not any(sign in part for part in container["command"] for sign in "$`;|&<>\n '\"")
            else:
                assert container["command"] in WORKER_COMMANDS


@given(specs)
@settings(deadline=None, max_examples=30)
def test_no_variable_of_tandem_is_shadowed_or_expanded(spec: dict[str, Any]) -> None:
    for template in render_valid(spec)[1]:
        (worker,) = template["spec"]["containers"]
        variables = [variable["name"] for variable in worker["env"]]
        assert len(variables) == len(set(variables))
        orders = next(v["value"] for v in worker["env"] if v["name"] == "TANDEM_WORKER")
        assert "$" not in orders
        assert json.loads(orders)["model"]["name"] == spec["model"]["name"]


@given(specs)
@settings(deadline=None, max_examples=30)
def test_a_pod_mounts_what_it_has_and_reads_weights_only(spec: dict[str, Any]) -> None:
    for template in render_valid(spec)[1]:
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in containers(template["spec"]):
            places = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(places) == len(set(places))
            for mount in container["volumeMounts"]:
                source = volumes[mount["name"]]
                claim = source.get("persistentVolumeClaim", {}).get("claimName")
                assert mount.get("readOnly") or claim in (None, "cache")


@given(specs)
@settings(deadline=None, max_examples=30)
def test_only_sources_outside_the_cluster_open_a_way_out(spec: dict[str, Any]) -> None:
    fleet, _ = render_valid(spec)
    policy = build_network_policy(fleet, "tandem-system", None)["spec"]
    sources = str(spec["model"]) + str(spec["engine"].get("speculative", ""))
    is_remote = ("hf://" in sources or "s3://" in sources) and spec["engine"].get("type") != "sim"
    open_ports = {p["port"] for rule in policy["egress"] if "to" not in rule for p in rule["ports"]}
    assert (open_ports != {53}) == is_remote
    assert all(rule.get("from") for rule in policy["ingress"])

"""A spec that cannot work is refused before anything starts, naming the field and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.api import find_differences
from cluster.errors import ClusterError
from cluster.nodes import build_image_table, build_kwok_node, build_process_node_command, is_ready_node
from cluster.places import RunFolder
from cluster.spec import ClusterSpec, NodeCapacity


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        (ClusterSpec(provider="cloud"), "provider: there is no 'cloud'; choose one of source, kind, existing"),
        (ClusterSpec(kwok_nodes=-1), "kwok_nodes: -1 is out of range; take 0 to 5000"),
        (ClusterSpec(process_nodes=17), "process_nodes: 17 is out of range"),
        (ClusterSpec(provider="kind", kwok_nodes=1), "provider kind brings its own nodes"),
        (ClusterSpec(images={"x": Path("/nowhere")}), "image x: /nowhere is no virtual environment"),
        (ClusterSpec(capacity=NodeCapacity(gpus=-1)), "gpus: -1 is out of range"),
    ],
)
def test_a_bad_field_is_named_with_its_fix(spec: ClusterSpec, want: str) -> None:
    """Bad input never reaches a running component."""
    with pytest.raises(ClusterError) as raised:
        spec.validate()
    assert want in str(raised.value)


def test_specs_differ_only_in_what_makes_another_cluster() -> None:
    """The owner of a cluster does not change what it is."""
    spec = ClusterSpec(kwok_nodes=1)
    assert find_differences(spec.to_json(), ClusterSpec(kwok_nodes=1, owner=5).to_json()) == []
    assert find_differences(spec.to_json(), ClusterSpec(audit_log=True).to_json()) == ["kwok_nodes", "audit_log"]
    assert find_differences({}, spec.to_json()) != []


def test_gpus_are_left_out_of_a_node_without_any() -> None:
    """A resource of zero would show in every listing."""
    assert "nvidia.com/gpu" not in NodeCapacity(gpus=0).resources()
    assert build_kwok_node("n", NodeCapacity(gpus=4))["status"]["allocatable"]["nvidia.com/gpu"] == "4"


def test_the_process_node_is_started_by_its_contract() -> None:
    """Every flag of the process node's command line has its value."""
    run = RunFolder(Path("/c/run/one"))
    command = build_process_node_command(run, "process-0", "127.1.2.0/24", NodeCapacity(gpus=2, pods=7))
    assert command[1:4] == ["-P", "-m", "cluster.process_node"]
    assert command[4:] == [
        "--node-name=process-0",
        "--kubeconfig=/c/run/one/process-0.kubeconfig",
        "--ca=/c/run/one/pki/ca.crt",
        "--cert=/c/run/one/pki/process-0.crt",
        "--key=/c/run/one/pki/process-0.key",
        "--root=/c/run/one/nodes/process-0",
        "--image-table=/c/run/one/images.json",
        "--pod-cidr=127.1.2.0/24",
        "--capacity=cpu=64,memory=512Gi,pods=7,nvidia.com/gpu=2",
    ]


def test_the_image_table_names_environments() -> None:
    """The process node reads one entry per image."""
    assert build_image_table(ClusterSpec(images={"a/b:1": Path("/v")})) == {"a/b:1": {"venv": "/v"}}


@pytest.mark.parametrize(
    ("conditions", "want"),
    [
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "Unknown"}], False),
        ([{"type": "DiskPressure", "status": "True"}], False),
        ([], False),
    ],
)
def test_a_node_is_ready_only_by_its_ready_condition(conditions: list[dict[str, str]], want: bool) -> None:
    """Unknown is not ready."""
    assert is_ready_node({"status": {"conditions": conditions}}) is want

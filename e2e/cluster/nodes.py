"""Nodes of a source-built cluster: KWOK's, which only pretend, and process nodes, which run local processes.

The real node (kubelet and containerd) is the third kind; it joins here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cluster.client import ApiClient
from cluster.control_plane import build_environment, check_alive
from cluster.errors import ClusterError
from cluster.pki import KeyPair
from cluster.places import RunFolder
from cluster.processes import spawn
from cluster.progress import Step
from cluster.spec import ClusterSpec, NodeCapacity, kwok_node_name, process_node_name
from cluster.subnets import claim_subnets, find_claims_folder
from cluster.waiting import wait_until

PACKAGE_ROOT = Path(__file__).parent.parent
BASE_PATIENCE_S = 60.0
PATIENCE_PER_NODE_S = 0.1


def start_nodes(run: RunFolder, spec: ClusterSpec, client: ApiClient, step: Step) -> None:
    """Create or start all nodes and wait until they are Ready and pods may be created."""
    for index in range(spec.kwok_nodes):
        client.create("/api/v1/nodes", build_kwok_node(kwok_node_name(index), spec.capacity))
        step.update(f"created {index + 1} of {spec.kwok_nodes} KWOK nodes")
    start_process_nodes(run, spec)
    wait_for_default_service_account(run, client)
    wait_for_nodes(run, spec, client, step)


def build_kwok_node(name: str, capacity: NodeCapacity) -> dict[str, Any]:
    """A Node that KWOK keeps Ready; its status is kept as created."""
    resources = capacity.resources()
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "tandem.dev/node": "kwok",
            },
        },
        "status": {"capacity": resources, "allocatable": resources},
    }


def start_process_nodes(run: RunFolder, spec: ClusterSpec) -> None:
    """Start one process node per count, each with a loopback subnet of its own."""
    if not spec.process_nodes:
        return
    run.image_table.write_text(json.dumps(build_image_table(spec), indent=2))
    environment = {**build_environment(), "PYTHONPATH": str(PACKAGE_ROOT)}
    for index, subnet in enumerate(claim_subnets(run, spec.process_nodes, find_claims_folder())):
        name = process_node_name(index)
        run.node(name).mkdir(parents=True, mode=0o700)
        spawn(name, build_process_node_command(run, name, subnet, spec.capacity), run, environment)


def build_image_table(spec: ClusterSpec) -> dict[str, dict[str, str]]:
    return {image: {"venv": str(folder)} for image, folder in spec.images.items()}


def build_process_node_command(run: RunFolder, name: str, subnet: str, capacity: NodeCapacity) -> list[str]:
    serving = KeyPair(run.keys / f"{name}.crt", run.keys / f"{name}.key")
    resources = ",".join(f"{resource}={amount}" for resource, amount in capacity.resources().items())
    return [
        sys.executable,
        "-P",  # the working directory of whoever runs the tool must not shadow modules
        "-m",
        "cluster.process_node",
        f"--node-name={name}",
        f"--kubeconfig={run.kubeconfig(name)}",
        f"--ca={run.keys / 'ca.crt'}",
        f"--cert={serving.certificate}",
        f"--key={serving.key}",
        f"--root={run.node(name)}",
        f"--image-table={run.image_table}",
        f"--pod-cidr={subnet}",
        f"--capacity={resources}",
    ]


def wait_for_default_service_account(run: RunFolder, client: ApiClient) -> None:
    """Pods created before it exists are refused."""
    path = "/api/v1/namespaces/default/serviceaccounts/default"

    def exists() -> bool:
        check_alive(run)
        return client.fetch(path) is not None

    wait_until(
        exists,
        BASE_PATIENCE_S,
        lambda: ClusterError(
            "the default ServiceAccount did not appear",
            "read the controller manager's log",
            run.log("kube-controller-manager"),
        ),
    )


def wait_for_nodes(run: RunFolder, spec: ClusterSpec, client: ApiClient, step: Step) -> None:
    """Wait until every node of the spec is Ready."""
    wanted = spec.kwok_nodes + spec.process_nodes

    def are_ready() -> bool:
        check_alive(run)
        ready = sum(is_ready_node(node) for node in (client.fetch("/api/v1/nodes") or {}).get("items", []))
        step.update(f"{ready} of {wanted} nodes are Ready")
        return ready >= wanted

    wait_until(
        are_ready,
        BASE_PATIENCE_S + PATIENCE_PER_NODE_S * wanted,
        lambda: ClusterError("the nodes did not become Ready", "read the logs of kwok and the nodes", run.logs),
    )


def is_ready_node(node: dict[str, Any]) -> bool:
    """True when the Node's Ready condition holds."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

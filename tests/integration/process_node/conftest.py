"""A process node of the tests' own beside the cluster's, so that it can be killed; its back-off is short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Cluster
from cluster.client import connect
from cluster.process_node.folders import NodeFolders
from cluster.process_node.orphans import NODE_MARK, marked_processes, remove_all_traces
from cluster.spec import process_node_name
from cluster.subnets import claim_subnets, find_claims_folder

E2E = Path(__file__).parents[3] / "e2e"
IMAGE = "test/python"
Json = dict[str, Any]


def within(seconds: float, holds: Callable[[], Any], what: str) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return answer


def count_restarts(pod: Json) -> int:
    """Of its first container; -1 while the node has not said anything of it."""
    statuses = pod["status"].get("containerStatuses")
    return int(statuses[0]["restartCount"]) if statuses else -1


@dataclass
class OwnNode:
    """One process node: started, killed and started again by tests. Everything it prints goes to `log`."""

    name: str
    cluster: Cluster
    root: Path
    cidr: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        keys = self.cluster.run.keys
        certificate = process_node_name(0)
        command = [
            *(sys.executable, "-m", "cluster.process_node", f"--node-name={self.name}", f"--root={self.root}"),
            *(f"--kubeconfig={self.cluster.kubeconfig}", f"--ca={keys / 'ca.crt'}", f"--pod-cidr={self.cidr}"),
            *(f"--cert={keys / f'{certificate}.crt'}", f"--key={keys / f'{certificate}.key'}"),
            *(f"--image-table={self.image_table}", "--capacity=nvidia.com/gpu=8,cpu=16,memory=64Gi,pods=110"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(E2E), "TANDEM_NODE_BACKOFF_S": "0.3"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def end(self, number: signal.Signals, patience_s: float = 15) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(patience_s)

    @property
    def image_table(self) -> Path:
        return self.root.with_suffix(".images.json")

    @property
    def folders(self) -> NodeFolders:
        return NodeFolders(self.root)

    def processes(self) -> list[int]:
        return marked_processes(NODE_MARK, str(self.root))


@dataclass(frozen=True)
class Pods:
    """kubectl in one namespace, with pods pinned to one node."""

    cluster: Cluster
    namespace: str
    node: OwnNode

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def create(self, name: str, *containers: Json, kind: str = "Pod", **spec: Any) -> None:
        """A pod whose containers have the test image and a short grace period, unless they say otherwise."""
        pod_spec = {
            "nodeSelector": {"kubernetes.io/hostname": self.node.name},
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": IMAGE, **container} for container in containers],
            **spec,
        }
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": pod_spec}
        self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    def find(self, name: str) -> Json | None:
        """Over plain HTTP: kubectl costs 100 ms of CPU, and tests ask often."""
        with connect(self.cluster.kubeconfig, self.cluster.run.keys / "ca.crt") as client:
            return client.fetch(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def get(self, name: str) -> Json:
        pod = self.find(name)
        assert pod is not None, f"there is no pod {name}"
        return pod

    def main(self, name: str) -> Json:
        """Status of the pod's only container; empty before there is one."""
        statuses = self.get(name)["status"].get("containerStatuses") or [{}]
        return dict(statuses[0])

    def wait(self, name: str, holds: Callable[[Json], Any], seconds: float = 60) -> Json:
        """The pod, once its object fulfils the condition."""

        def fetch() -> Json | None:
            pod = self.get(name)
            return pod if holds(pod) else None

        return dict(within(seconds, fetch, f"pod {name}; it is {self.get(name)['status']}"))

    def wait_ready(self, name: str) -> Json:
        return self.wait(name, is_ready)

    def wait_phase(self, name: str, phase: str) -> Json:
        return self.wait(name, lambda pod: pod["status"]["phase"] == phase)

    def wait_waiting(self, name: str, reason: str) -> str:
        """The message of the container's waiting state, once it has this reason."""

        def message() -> str | None:
            waiting = self.main(name).get("state", {}).get("waiting", {})
            return str(waiting.get("message", "")) if waiting.get("reason") == reason else None

        return str(within(60, message, f"{reason} of {name}; it is {self.get(name)['status']}"))

    def wait_event(self, name: str, reason: str, text: str = "") -> str:
        def find() -> str | None:
            found = json.loads(
                self.kubectl("get", "events", "-o", "json", f"--field-selector=involvedObject.name={name}")
            )
            messages = [e["message"] for e in found["items"] if e["reason"] == reason and text in e["message"]]
            return messages[0] if messages else None

        return str(within(60, find, f"event {reason} {text!r} of {name}"))

    def wait_gone(self, name: str, seconds: float = 60) -> None:
        within(seconds, lambda: self.find(name) is None, f"pod {name} is gone")


def is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def node_is_ready(cluster: Cluster, name: str, status: str = "True") -> bool:
    answer = cluster.kubectl("get", "nodes", "-o", "json")
    return any(
        c["type"] == "Ready" and c["status"] == status
        for node in json.loads(answer)["items"]
        if node["metadata"]["name"] == name
        for c in node["status"].get("conditions", [])
    )


@pytest.fixture(scope="module")
def own_node(process_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnNode]:
    folder = tmp_path_factory.mktemp("own").resolve()
    (cidr,) = claim_subnets(process_cluster.run, 1, find_claims_folder())
    node = OwnNode(f"own-{uuid.uuid4().hex[:8]}", process_cluster, folder / "node", cidr, folder / "log")
    node.image_table.write_text(json.dumps({IMAGE: {"venv": sys.prefix}}))
    node.start()
    try:
        within(15, lambda: node_is_ready(process_cluster, node.name), f"node is Ready; log: {node.log.read_text()}")
        yield node
    finally:
        if node.process is not None and node.process.poll() is None:
            node.end(signal.SIGTERM, patience_s=30)
        remove_all_traces(node.root)
        process_cluster.kubectl("delete", "node", node.name, "--ignore-not-found")


@pytest.fixture(scope="module")
def pods(own_node: OwnNode, process_namespace: str) -> Iterator[Pods]:
    pods = Pods(own_node.cluster, process_namespace, own_node)
    yield pods
    pods.kubectl("delete", "pods", "--all", "--timeout=30s")  # while there is a node to end them

"""A real operator process on a real API server, with exactly the rights that the chart gives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.api import Cluster
from cluster.namespaces import temporary_namespace
from tandem_operator.rbac import Scope, build_rules

ROOT = Path(__file__).resolve().parents[3]
ACCOUNT = "tandem-operator"


@dataclass
class Kube:
    """kubectl, with objects as dictionaries."""

    cluster: Cluster
    namespace: str

    def apply(self, *objects: dict[str, Any]) -> None:
        text = yaml.safe_dump_all(objects)
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-n", self.namespace, "-f", "-", stdin=text)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return dict(json.loads(self.cluster.kubectl("get", kind, name, "-n", self.namespace, "-o", "json")))

    def list(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        chosen = ("-l", selector) if selector else ()
        text = self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "json", *chosen)
        return list(json.loads(text)["items"])

    def run(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "-n", self.namespace)

    def condition(self, fleet: str, kind: str) -> dict[str, Any]:
        """A condition that is of the present generation; empty when there is none."""
        obj = self.get("infd", fleet)
        found = [c for c in obj.get("status", {}).get("conditions", ()) if c["type"] == kind]
        current = [c for c in found if c["observedGeneration"] == obj["metadata"]["generation"]]
        return current[0] if current else {}

    def wait_condition(self, fleet: str, kind: str, status: str, reason: str, timeout_s: float = 20) -> dict[str, Any]:
        """Waits until a condition has status and reason."""

        def reached() -> bool:
            condition = self.condition(fleet, kind)
            return (condition.get("status"), condition.get("reason")) == (status, reason)

        wait_until(reached, timeout_s, lambda: f"{kind} is {self.condition(fleet, kind)}")
        return self.condition(fleet, kind)


def wait_until(reached: Callable[[], object], timeout_s: float = 20, say: Callable[[], str] = lambda: "") -> None:
    """Polls until something holds; fails with what `say` tells."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(f"not reached within {timeout_s} s: {say()}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class OperatorProcess:
    """One replica."""

    command: list[str]
    log: Path
    health_port: int = 0
    metrics_port: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Starts the process, also again after `stop`: on other ports, for others take what was given back."""
        self.health_port, self.metrics_port = free_port(), free_port()
        ports = ["--health-port", str(self.health_port), "--metrics-port", str(self.metrics_port)]
        environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"} | {"POD_NAME": self.log.stem}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.command, *ports], stdout=out, stderr=out, env=environment, start_new_session=True
            )

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Ends the process; returns the seconds that took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(20)
        return time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        """Samples by `name{labels}`."""
        text = self._read(self.metrics_port, "/metrics")
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def healthz(self) -> str:
        return self._read(self.health_port, "/healthz")

    def writes(self) -> float:
        """API calls that change something, the lease apart."""
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("tandem_operator_api_calls_total")
            and 'kind="Lease"' not in name
            and any(f'verb="{verb}"' in name for verb in ("create", "patch", "delete", "update"))
        )

    def is_leading(self) -> bool:
        try:
            return self.metrics().get("tandem_operator_leader") == 1.0
        except OSError:
            return False

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024

    @staticmethod
    def _read(port: int, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())


@dataclass
class Installation:
    """Where an operator lives, what it serves, and how replicas are started."""

    cluster: Cluster
    home: str
    namespace: str
    kubeconfig: Path
    folder: Path
    count: int = 0

    @contextmanager
    def replica(self, *flags: str, wait: bool = True) -> Iterator[OperatorProcess]:
        """A running replica; by default one that leads."""
        self.count += 1
        command = [sys.executable, "-m", "tandem_operator", "--kubeconfig", str(self.kubeconfig)]
        command += ["--namespaces", self.namespace, "--namespace", self.home, "--health-host", "127.0.0.1"]
        operator = OperatorProcess([*command, *flags], self.folder / f"operator-{self.count}.log")
        try:
            if wait:
                wait_until(operator.is_leading, 60, lambda: operator.log.read_text()[-2000:])
            yield operator
        finally:
            operator.stop()
            text = operator.log.read_text()
            assert "Traceback" not in text, text[-4000:]


def build_role(namespace: str, scope: Scope) -> list[dict[str, Any]]:
    """Role and binding as the chart makes them, from the same rules."""
    name = f"{ACCOUNT}-{scope.value}"
    group = "rbac.authorization.k8s.io"
    metadata = {"name": name, "namespace": namespace}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": build_rules(scope)},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [],
        },
    ]


@pytest.fixture(scope="session")
def tandem_cluster(light_cluster: Cluster) -> Cluster:
    """The light cluster with our definitions."""
    light_cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    wait_until(lambda: are_established(light_cluster), 60)
    return light_cluster


def are_established(cluster: Cluster) -> bool:
    """Whether the API server serves all definitions; `kubectl wait` fails on one that has no status yet."""
    definitions = json.loads(cluster.kubectl("get", "crd", "-o", "json"))["items"]
    conditions = [d.get("status", {}).get("conditions") or () for d in definitions]
    return all(any(c["type"] == "Established" and c["status"] == "True" for c in found) for found in conditions)


@pytest.fixture(scope="module")
def tandem_kube(tandem_cluster: Cluster) -> Iterator[Kube]:
    """kubectl in a namespace without an operator."""
    with temporary_namespace(tandem_cluster) as namespace:
        yield Kube(tandem_cluster, namespace)


@pytest.fixture(scope="module")
def installation(tandem_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation for the whole module."""
    with make_installation(tandem_cluster, tmp_path_factory.mktemp("operator")) as made:
        yield made


@contextmanager
def make_installation(cluster: Cluster, folder: Path) -> Iterator[Installation]:
    """Namespaces, service account and Roles; the fleets' namespace admits restricted pods only."""
    with temporary_namespace(cluster) as home, temporary_namespace(cluster) as namespace:
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": home}}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}
        objects = [account, *build_role(home, Scope.HOME), *build_role(namespace, Scope.FLEET)]
        for binding in objects:
            if binding["kind"] == "RoleBinding":
                binding["subjects"] = [subject]
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        kubeconfig = write_kubeconfig(cluster, home, folder / "kubeconfig")
        yield Installation(cluster, home, namespace, kubeconfig, folder)


def write_kubeconfig(cluster: Cluster, home: str, path: Path) -> Path:
    """A kubeconfig of the operator's service account."""
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", ACCOUNT, "-n", home).strip()
    document["users"] = [{"name": user["name"], "user": {"token": token}} for user in document["users"]]
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def kube(installation: Installation) -> Kube:
    """kubectl in the fleets' namespace."""
    return Kube(installation.cluster, installation.namespace)


def make_manifest(name: str, **spec: Any) -> dict[str, Any]:
    """An InferenceDeployment of simulated engines; top-level parts may be replaced, None removes one."""
    whole = {
        "model": {"name": "tiny", "source": "synthetic://tiny-llama"},
        "engine": {"type": "sim"},
        "prefill": {"replicas": 1},
        "decode": {"replicas": 2},
        "drain": {"timeoutSeconds": 1},
    }
    merged = {key: value for key, value in {**whole, **spec}.items() if value is not None}
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": merged,
    }

"""Put Tandem into a cluster with Helm, and which image is which environment on a process node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.api import Cluster
from demo.access import Access
from demo.errors import DemoError
from demo.objects import Objects, ensure_namespace
from tandem_api import labels

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ROOT / "charts"
EXAMPLES = ROOT / "examples"
VERSION = "0.1.0"
ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"
RELEASE = "tandem"
CRDS_RELEASE = "tandem-crds"


@dataclass(frozen=True)
class Installation:
    """Tandem in one namespace of one cluster."""

    cluster: Cluster
    objects: Objects
    access: Access

    @contextmanager
    def open_router(self) -> Iterator[str]:
        """Base URL of a router while the block runs."""
        routers = self.objects.fetch_pods(f"{labels.COMPONENT}={labels.ROUTER_COMPONENT}")
        if not routers:
            raise DemoError("no router pod is left", "look with kubectl get pods")
        with self.access.open_port(routers[0], labels.ROUTER_HTTP_PORT) as url:
            yield url


def install(cluster: Cluster, namespace: str, values: Path, *more: str) -> Installation:
    """Install both charts into a namespace that is held to Pod Security `restricted`, and wait until they are ready.

    `more` are further Helm flags for the chart `tandem`.

    Raises:
        ClusterError: with Helm's own words.
    """
    ensure_namespace(cluster.kubeconfig, namespace)
    for release, flags in ((CRDS_RELEASE, ()), (RELEASE, ("--values", str(values), *more))):
        chart = str(CHARTS / release)
        wait = ("--wait", "--timeout", "5m")
        cluster.helm("upgrade", "--install", release, chart, "--namespace", namespace, *wait, *flags)
    kubectl = cluster.bin_dir / "kubectl"
    return Installation(cluster, Objects(cluster.kubeconfig, namespace), Access(kubectl, cluster.kubeconfig, namespace))


def uninstall(cluster: Cluster, namespace: str) -> None:
    """Remove the fleets, then both releases; what is not there is fine."""
    Objects(cluster.kubeconfig, namespace).delete_fleets()
    for release in (RELEASE, CRDS_RELEASE):
        cluster.helm("uninstall", release, "--namespace", namespace, "--ignore-not-found", "--wait", "--timeout", "2m")


def build_image_table(worker_python: Path | None) -> Mapping[str, Path]:
    """Image name → virtual environment, for the process node; without vLLM when there is no python of it."""
    ours = Path(sys.prefix)
    table = {f"tandem.dev/{plane}:{VERSION}": ours for plane in ("operator", "router", "worker")}
    return table | ({ENGINE_IMAGE: worker_python.parent.parent} if worker_python else {})


def make_worker_environment() -> Path:
    """The python of vLLM for CPU, installed if it is not there yet.

    Raises:
        DemoError: the bootstrap failed; it has printed why.
    """
    command = [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "worker-cpu"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DemoError("vLLM for CPU could not be installed", "see the line above, then run make demo again")
    return Path(done.stdout.strip())

"""Spec change → children applied, on the source-built control plane.

    python bench/operator/spec_change.py [--fleets 50] [--changes 200] [--pause-s 0.4]

Starts a control plane and the operator, makes fleets, then changes one number in one fleet after the other, and
measures from the moment the API server has accepted the change until a watch of our own sees the Deployment that
follows from it. The floor beside it is a bare server-side apply of the same Deployment seen by the same watch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from cluster.api import Cluster, ephemeral_cluster
from cluster.spec import ClusterSpec
from tandem_operator.credentials import Credentials, read_kubeconfig

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "default"
FLEETS = f"/apis/tandem.dev/v1alpha1/namespaces/{NAMESPACE}/inferencedeployments"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


class Api:
    """Raw calls, and one watch of Deployments."""

    def __init__(self, session: aiohttp.ClientSession, credentials: Credentials) -> None:
        self._session, self._server = session, credentials.server
        self._waiting: dict[tuple[str, int], asyncio.Future[float]] = {}

    async def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        async with self._session.request(
            method, self._server + path, data=json.dumps(body) if body else None, headers={"Content-Type": kind}
        ) as answer:
            answer.raise_for_status()
            return dict(await answer.json())

    async def watch(self) -> None:
        """Tells whoever waits for a Deployment's replicas when they were seen."""
        timeout = aiohttp.ClientTimeout(total=None)
        url = f"{self._server}{DEPLOYMENTS}?watch=true"
        async with self._session.get(url, timeout=timeout) as stream:
            while line := await stream.content.readline():
                obj = json.loads(line)["object"]
                key = (obj["metadata"]["labels"].get("tandem.dev/fleet", "floor"), obj["spec"]["replicas"])
                waiting = self._waiting.pop(key, None)
                if waiting and not waiting.done():
                    waiting.set_result(time.perf_counter())

    def expect(self, fleet: str, replicas: int) -> asyncio.Future[float]:
        future = asyncio.get_running_loop().create_future()
        self._waiting[fleet, replicas] = future
        return future


def build_fleet(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": name, "source": "synthetic://tiny-llama"},
            "engine": {"type": "sim"},
            "rollout": {"progressDeadlineSeconds": 600},
            "decode": {"replicas": 0},
        },
    }


async def measure_births(api: Api, count: int) -> list[float]:
    """Create → the last child (a Deployment) seen, ms, one fleet at a time."""
    took = []
    for index in range(count):
        seen = api.expect(f"f{index}", 0)
        await api.send("POST", FLEETS, build_fleet(f"f{index}"))
        began = time.perf_counter()
        took.append(1000 * (await asyncio.wait_for(seen, 30) - began))
    return took


async def measure_changes(api: Api, fleets: int, count: int, pause_s: float) -> list[float]:
    """spec.decode.replicas changed → Deployment changed, ms."""
    took = []
    for index in range(count):
        name, replicas = f"f{index % fleets}", 1 + (index // fleets) % 3
        seen = api.expect(name, replicas)
        patch = {"spec": {"decode": {"replicas": replicas}}}
        await api.send("PATCH", f"{FLEETS}/{name}", patch, "application/merge-patch+json")
        began = time.perf_counter()
        took.append(1000 * (await asyncio.wait_for(seen, 30) - began))
        await asyncio.sleep(pause_s)  # pods come and go after each change, on the same cores
    return took


async def measure_floor(api: Api, count: int) -> list[float]:
    """A bare server-side apply of a Deployment, from before the call until seen, ms."""
    labels = {"app": "floor"}
    manifest: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "floor", "labels": labels},
    }
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    took = []
    for index in range(count):
        replicas = index % 2
        manifest["spec"] = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}
        seen = api.expect("floor", replicas)
        began = time.perf_counter()
        path = f"{DEPLOYMENTS}/floor?fieldManager=floor&force=true"
        await api.send("PATCH", path, manifest, "application/apply-patch+yaml")
        took.append(1000 * (await asyncio.wait_for(seen, 30) - began))
    return took


@contextmanager
def run_operator(cluster: Cluster, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The operator as a process of its own, leading."""
    flags = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE, "--health-host", "127.0.0.1"]
    command = [sys.executable, "-m", "tandem_operator", *flags, "--health-port", "0", "--metrics-port", "0"]
    environment = {**os.environ, "POD_NAME": "bench"}
    log = folder / "operator.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, env=environment)
    try:
        while "leading" not in log.read_text():
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def report(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{name:<42} n={len(took):<5} p50 {statistics.median(took):7.1f} ms   p99 {p99:7.1f} ms", flush=True)


async def measure(credentials: Credentials, fleets: int, changes: int, pause_s: float) -> None:
    headers = {"Authorization": f"Bearer {credentials.bearer()}"}
    connector = aiohttp.TCPConnector(ssl=credentials.tls())
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        api = Api(session, credentials)
        watching = asyncio.create_task(api.watch())
        report("floor: one bare server-side apply", await measure_floor(api, changes))
        report("create → all children (8 writes)", await measure_births(api, fleets))
        report("spec change → children applied", await measure_changes(api, fleets, changes, pause_s))
        watching.cancel()


def read_rss_mib(pid: int) -> float:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(row.split()[1] for row in rows if row.startswith("VmRSS"))) / 1024


def read_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fleets", type=int, default=50)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--pause-s", type=float, default=0.4, help="between two changes")
    options = parser.parse_args()
    with ephemeral_cluster(ClusterSpec(name=f"bench-operator-{os.getpid()}", kwok_nodes=3)) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        with tempfile.TemporaryDirectory() as folder, run_operator(cluster, Path(folder)) as operator:
            before_s = read_cpu_s(operator.pid)
            credentials = read_kubeconfig(cluster.kubeconfig)
            asyncio.run(measure(credentials, options.fleets, options.changes, options.pause_s))
            cpu_ms = 1000 * (read_cpu_s(operator.pid) - before_s) / (options.fleets + options.changes)
            rss_mib, load = read_rss_mib(operator.pid), os.getloadavg()[0]
            print(f"operator: {cpu_ms:.0f} ms CPU a change, {rss_mib:.0f} MiB RSS; load of the machine {load:.1f}")


if __name__ == "__main__":
    main()

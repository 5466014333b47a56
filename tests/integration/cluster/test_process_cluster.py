"""Pods on process nodes belong to their cluster: they run, their logs come through, and none survives it."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.api import Cluster, down, up
from cluster.places import Places
from cluster.process_node.folders import NodeFolders
from cluster.processes import fetch_marked, fetch_recorded, is_alive, send_signal, stop
from cluster.spec import ClusterSpec
from cluster.subnets import find_claims_folder, read_holder

pytestmark = pytest.mark.integration

IMAGE = "tandem.test/python"
SPEC = ClusterSpec(name="pods", process_nodes=1, images={IMAGE: Path(sys.prefix)})
# A grandchild in a session of its own is what an engine's helper process may be.
FAMILY = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('grandchild', os.getpid(), flush=True)
time.sleep(600)
"""


def run_family(cluster: Cluster) -> int:
    """Start a pod whose processes spread; returns the pid of the grandchild."""
    cluster.kubectl("run", "family", f"--image={IMAGE}", "--command", "--", "python", "-c", FAMILY)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/family", "--timeout=30s")
    deadline = time.monotonic() + 10
    while not (printed := cluster.kubectl("logs", "family")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(printed.split()[1])


def count_claims(cluster: Cluster) -> int:
    return sum(read_holder(file) == cluster.run.path for file in find_claims_folder().glob("127.*"))


def test_a_pod_runs_logs_and_ends_with_its_cluster(places: Places) -> None:
    """The plain way: up, a pod, down."""
    cluster = up(SPEC, places=places)
    grandchild = run_family(cluster)
    assert cluster.kubectl("get", "pod", "family", "-o", "jsonpath={.status.podIP}").startswith("127.")
    assert count_claims(cluster) == 1
    assert grandchild in [process.pid for process in fetch_marked(cluster.run)]
    assert down("pods", places=places)
    assert_nothing_left(cluster)


def test_pods_of_a_crashed_cluster_are_found_and_ended(places: Places) -> None:
    """SIGKILL of every component at once leaves pods that nobody watches; down ends them."""
    cluster = up(SPEC, places=places)
    grandchild = run_family(cluster)
    for process in fetch_recorded(cluster.run).values():
        send_signal(process, signal.SIGKILL)
    assert grandchild in [process.pid for process in fetch_marked(cluster.run)]
    assert down("pods", places=places)
    assert_nothing_left(cluster)


def assert_nothing_left(cluster: Cluster) -> None:
    folders = NodeFolders(cluster.run.node("process-0"))
    assert fetch_marked(cluster.run) == []
    assert count_claims(cluster) == 0
    assert [
        path for path in (cluster.run.path, cluster.run.memory, folders.memory, folders.short) if path.exists()
    ] == []


def test_process_nodes_of_two_clusters_share_no_subnet(places: Places) -> None:
    """Pods of regions side by side have addresses of their own."""
    clusters = [up(replace(SPEC, name=name), places=places) for name in ("east", "west")]
    lines = [Path(f"/proc/{fetch_recorded(cluster.run)['process-0'].pid}/cmdline").read_text() for cluster in clusters]
    subnets = [line.partition("--pod-cidr=")[2].partition("\0")[0] for line in lines]
    assert len(set(subnets)) == 2
    assert all(subnet.endswith(".0/24") for subnet in subnets)


def test_a_dead_process_node_makes_the_cluster_broken(places: Places) -> None:
    """Status does not call a cluster ready whose node is gone; the next up replaces it."""
    first = fetch_recorded(up(SPEC, places=places).run)
    stop([first["process-0"]], grace_s=0)
    second = fetch_recorded(up(SPEC, places=places).run)
    assert is_alive(second["process-0"])
    assert not is_alive(first["etcd"])

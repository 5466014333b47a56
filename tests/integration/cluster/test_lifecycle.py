"""Clusters come up, go down, and leave nothing, whatever happens in between."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster import control_plane
from cluster.api import down, down_abandoned, fetch_cluster, list_clusters, up
from cluster.errors import ClusterError
from cluster.places import Places, RunFolder
from cluster.processes import fetch_marked, fetch_recorded, is_alive, send_signal
from cluster.progress import Progress
from cluster.spec import ClusterSpec

pytestmark = pytest.mark.integration

SPEC = ClusterSpec(name="one")


def wait_for(condition: Callable[[], object], patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.01)


def leftovers(places: Places, name: str) -> list[str]:
    run = places.run(name)
    processes = [f"process {process.pid}" for process in fetch_marked(run)]
    return processes + [str(path) for path in (run.path, run.memory) if os.path.lexists(path)]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fetch_ports(run: RunFolder) -> list[int]:
    """Every port that the command lines of a cluster's processes name."""
    lines = [Path(f"/proc/{process.pid}/cmdline").read_text() for process in fetch_recorded(run).values()]
    return sorted({int(port) for port in re.findall(r"(?:127\.0\.0\.1:|secure-port=)(\d{2,})", " ".join(lines))})


def test_down_leaves_no_process_socket_or_file(places: Places) -> None:
    """Teardown is complete."""
    run = up(SPEC, places=places).run
    ports = fetch_ports(run)
    assert len(ports) == 3
    assert all(map(is_listening, ports))
    assert down("one", places=places)
    assert leftovers(places, "one") == []
    assert not any(map(is_listening, ports))
    assert not down("one", places=places)


def test_up_of_a_live_cluster_changes_nothing_and_says_so(places: Places) -> None:
    """The same command twice is safe."""
    output = StringIO()
    before = fetch_recorded(up(SPEC, places=places).run)
    again = up(SPEC, Progress(Console(file=output)), places)
    assert fetch_recorded(again.run) == before
    assert output.getvalue() == "cluster one is already up\n"


def test_up_with_other_settings_names_the_difference(places: Places) -> None:
    """A live cluster is never silently taken for one that it is not."""
    up(SPEC, places=places)
    with pytest.raises(ClusterError, match="up with another kwok_nodes; run 'python -m cluster down --name one'"):
        up(replace(SPEC, kwok_nodes=2), places=places)


def test_a_half_dead_cluster_is_replaced(places: Places) -> None:
    """A component that died makes the cluster broken; the next up starts afresh."""
    run = up(SPEC, places=places).run
    first = fetch_recorded(run)
    send_signal(first["etcd"], signal.SIGKILL)
    wait_for(lambda: not is_alive(first["etcd"]))
    assert [listing.is_live for listing in list_clusters(places)] == [False]
    with pytest.raises(ClusterError, match="cluster one is not up"):
        fetch_cluster("one", places)
    second = fetch_recorded(up(SPEC, places=places).run)
    assert all(map(is_alive, second.values()))
    assert not any(map(is_alive, first.values()))


def test_clusters_run_side_by_side(places: Places) -> None:
    """Two clusters started at once neither disturb nor know one another."""
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda name: up(ClusterSpec(name=name), places=places), ["one", "two"])
    one.kubectl("create", "namespace", "only-here")
    assert "only-here" not in two.kubectl("get", "namespaces", "-o", "name")
    down("one", places=places)
    assert "default" in two.kubectl("get", "namespaces", "-o", "name")


@pytest.mark.parametrize("started", ["etcd", "kube-apiserver", "kube-scheduler"])
def test_down_cleans_up_after_a_killed_up(places: Places, started: str) -> None:
    """SIGKILL of the tool in the middle of a start leaves processes; down finds and ends every one."""
    tool = subprocess.Popen([sys.executable, "-m", "cluster", "up", "--name=one", "--kwok-nodes=1"])
    wait_for((places.run("one").pids / started).exists)
    tool.kill()
    tool.wait()
    assert leftovers(places, "one") != []
    assert down("one", places=places)
    assert leftovers(places, "one") == []


def test_processes_without_a_record_are_found_by_their_mark(places: Places) -> None:
    """A crash between starting a process and writing it down loses nothing."""
    run = up(SPEC, places=places).run
    recorded = fetch_recorded(run)
    for record in run.pids.iterdir():
        record.unlink()
    down("one", places=places)
    assert not any(map(is_alive, recorded.values()))


def test_a_terminated_up_takes_its_own_processes_down(places: Places) -> None:
    """TERM and Ctrl-C during a start need no down for the processes."""
    tool = subprocess.Popen([sys.executable, "-m", "cluster", "up", "--name=one"])
    wait_for((places.run("one").pids / "kube-apiserver").exists)
    recorded = fetch_recorded(places.run("one"))
    tool.terminate()
    assert tool.wait() == 128 + signal.SIGTERM
    assert not any(map(is_alive, recorded.values()))


def test_a_taken_port_makes_the_start_begin_again(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losing the race for a port costs a second try, not the start."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        choose, taken = control_plane.find_free_ports, squatter.getsockname()[1]
        tries: list[list[int]] = []

        def choose_badly_once(count: int) -> list[int]:
            ports = choose(count)
            tries.append(ports if tries else [taken, *ports[1:]])
            return tries[-1]

        monkeypatch.setattr(control_plane, "find_free_ports", choose_badly_once)
        cluster = up(SPEC, places=places)
    assert len(tries) == 2
    assert "default" in cluster.kubectl("get", "namespaces", "-o", "name")


def test_a_component_that_ends_is_named_with_its_log(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed start is one sentence, leaves no process, and keeps the log that it names."""
    monkeypatch.setattr(
        control_plane.commands, "build_etcd_command", lambda run, *_: [str(run.programs / "etcd"), "--no-such-flag"]
    )
    with pytest.raises(ClusterError, match=r"etcd ended while the cluster was starting: .*read its log") as raised:
        up(SPEC, places=places)
    assert raised.value.log
    assert "no-such-flag" in raised.value.log.read_text()
    assert [left for left in leftovers(places, "one") if left.startswith("process")] == []


def test_clusters_of_a_dead_owner_are_taken_down(places: Places) -> None:
    """What a killed test run left, the next one removes; clusters without an owner stay."""
    with subprocess.Popen(["sleep", "60"]) as owner:
        up(replace(SPEC, owner=owner.pid), places=places)
        assert down_abandoned(places) == []
        owner.kill()
    assert down_abandoned(places) == ["one"]
    assert leftovers(places, "one") == []

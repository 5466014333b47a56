"""The node itself is killed, stopped, or loses its Node object; pods are neither lost nor left behind."""

from __future__ import annotations

import signal

import pytest
from integration.process_node.conftest import Json, OwnNode, Pods, count_restarts, node_is_ready, within

from cluster.process_node.processes import start_ticks
from cluster.subnets import claim_subnets, find_claims_folder

pytestmark = pytest.mark.integration


def shell(script: str) -> Json:
    return {"command": ["sh", "-c", script]}


def test_a_killed_node_takes_its_containers_along_and_starts_them_again(own_node: OwnNode, pods: Pods) -> None:
    """Descendants in sessions of their own survive the kill, and are ended at the next start."""
    pods.create("lasting", shell("setsid sleep 300 & sleep 300"))
    pods.create("once", shell("sleep 300"), restartPolicy="Never")
    before = pods.wait_ready("lasting")
    pods.wait_ready("once")
    (pid_file,) = own_node.folders.pod(before["metadata"]["uid"]).base.glob("pids/main")
    pid = int(pid_file.read_text().split()[0])
    own_node.end(signal.SIGKILL)
    within(5, lambda: start_ticks(pid) is None, "the container is dead")
    orphans = own_node.processes()
    assert orphans
    own_node.start()
    after = pods.wait("lasting", lambda pod: count_restarts(pod) == 1)
    assert all(start_ticks(orphan) is None for orphan in orphans)
    assert after["status"]["podIP"] == before["status"]["podIP"]
    last = after["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
    assert pods.wait_phase("once", "Failed")
    pods.wait_ready("lasting")


def test_pods_that_were_deleted_while_no_node_ran_are_cleaned_up_at_its_return(own_node: OwnNode, pods: Pods) -> None:
    pods.create("vanishing", shell("sleep 300"))
    pods.create("leaving", shell("sleep 300"))
    vanishing, leaving = (pods.wait_ready(name)["metadata"]["uid"] for name in ("vanishing", "leaving"))
    own_node.end(signal.SIGKILL)
    pods.kubectl("delete", "pod", "vanishing", "--grace-period=0", "--force")
    pods.kubectl("delete", "pod", "leaving", "--wait=false")
    own_node.start()
    pods.wait_gone("leaving")
    for uid in (vanishing, leaving):
        within(5, lambda uid=uid: not own_node.folders.pod(uid).base.exists(), "its folder is gone")


def test_a_deleted_node_object_comes_back_with_the_process(own_node: OwnNode, pods: Pods) -> None:
    pods.cluster.kubectl("delete", "node", own_node.name)
    own_node.end(signal.SIGKILL)
    own_node.start()
    within(15, lambda: node_is_ready(pods.cluster, own_node.name), "the node is back")


def test_a_stopped_node_leaves_no_process_and_says_so(own_node: OwnNode, pods: Pods) -> None:
    pods.create("stopped", shell("trap 'exit 0' TERM; setsid sleep 300 & while :; do sleep 0.05; done"))
    pods.create("deaf", shell("trap '' TERM; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=1)
    pods.wait_ready("stopped")
    pods.wait_ready("deaf")
    assert own_node.end(signal.SIGTERM) == 0
    assert own_node.processes() == []
    assert not own_node.folders.short.exists()
    assert not own_node.folders.memory.exists()
    assert node_is_ready(pods.cluster, own_node.name, status="False")
    assert "ERROR" not in own_node.log.read_text()
    own_node.start()
    pods.wait("stopped", lambda pod: count_restarts(pod) == 1)


def test_a_node_that_returns_with_other_addresses_gives_its_pods_new_ones(own_node: OwnNode, pods: Pods) -> None:
    pods.create("moved", shell("sleep 300"))
    old = pods.wait_ready("moved")["status"]["podIP"]
    own_node.end(signal.SIGKILL)
    (own_node.cidr,) = claim_subnets(own_node.cluster.run, 1, find_claims_folder())
    own_node.start()
    pod = pods.wait("moved", lambda pod: pod["status"]["podIP"] != old)
    assert pod["status"]["podIPs"] == [{"ip": pod["status"]["podIP"]}]
    pods.kubectl("delete", "pod", "moved", "--timeout=10s")

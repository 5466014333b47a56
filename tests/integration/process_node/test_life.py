"""Pods live as Kubernetes promises: start, readiness, restarts, ends."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from integration.process_node.conftest import IMAGE, Json, Pods, count_restarts, is_ready, within

from cluster.api import Cluster
from cluster.process_node.orphans import marked_processes

pytestmark = pytest.mark.integration

SERVER = """
import http.server, os, signal, sys
def stop(*_):
    print("got SIGTERM", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
os.chdir("/data")
print("serving", flush=True)
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
POD_IP: Json = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def server(**more: object) -> Json:
    return {
        "command": ["python", "-c", SERVER],
        "env": [POD_IP],
        "ports": [{"name": "http", "containerPort": 8000}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        **more,
    }


def shell(script: str, **more: object) -> Json:
    return {"command": ["sh", "-c", script], **more}


DATA: Json = {"name": "data", "emptyDir": {"medium": "Memory"}}


def test_a_deployment_of_servers_rolls_out_and_each_pod_answers_on_its_own_address(
    process_cluster: Cluster, process_namespace: str
) -> None:
    """On the cluster's own node, whose identity is bound by the Node authorizer."""
    container = {**server(), "name": "main", "image": "tandem.test/python"}
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "process-0"},
            "containers": [container],
            "volumes": [DATA],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    in_namespace = f"--namespace={process_namespace}"
    process_cluster.kubectl(in_namespace, "create", "-f", "-", stdin=json.dumps(deployment))
    process_cluster.kubectl(in_namespace, "rollout", "status", "deployment/web", "--timeout=30s")
    listed = json.loads(process_cluster.kubectl(in_namespace, "get", "pods", "-l", "app=web", "-o", "json"))
    addresses = {pod["status"]["podIP"] for pod in listed["items"]}
    assert len(addresses) == 3
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}:8000/", timeout=5) as answer:
            assert answer.status == 200
    process_cluster.kubectl(in_namespace, "delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")


def test_deletion_runs_the_hook_then_sends_sigterm_and_leaves_nothing(pods: Pods, tmp_path: Path) -> None:
    order = tmp_path / "order"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"sleep 0.3; echo hook >> {order}"]}}}
    script = f"trap 'echo term >> {order}; exit 0' TERM; while :; do sleep 0.05; done"
    mounts = [{"name": "data", "mountPath": "/data"}]
    pods.create("hooked", shell(script, lifecycle=hook, volumeMounts=mounts), volumes=[DATA])
    uid = pods.wait_ready("hooked")["metadata"]["uid"]
    pods.kubectl("delete", "pod", "hooked", "--timeout=10s")
    assert order.read_text().split() == ["hook", "term"]
    folders = pods.node.folders.pod(uid)
    assert not any(folder.exists() for folder in (folders.base, folders.memory, folders.short))


def test_what_ignores_sigterm_is_killed_with_all_its_descendants_when_its_grace_ends(pods: Pods) -> None:
    script = "trap '' TERM; setsid sleep 300 & sleep 300 & while :; do sleep 0.05; done"
    pods.create("stubborn", shell(script, env=[{"name": "TEST_STUBBORN", "value": pods.namespace}]))
    pods.wait_ready("stubborn")
    assert len(marked_processes("TEST_STUBBORN", pods.namespace)) >= 3
    began = time.monotonic()
    pods.kubectl("delete", "pod", "stubborn", "--timeout=20s")
    assert 2 <= time.monotonic() - began < 6
    assert marked_processes("TEST_STUBBORN", pods.namespace) == []


def test_a_second_deletion_with_a_shorter_grace_period_hastens_the_end(pods: Pods) -> None:
    pods.create("slow", shell("trap '' TERM; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=300)
    pods.wait_ready("slow")
    pods.kubectl("delete", "pod", "slow", "--wait=false")
    pods.wait("slow", lambda pod: "deletionTimestamp" in pod["metadata"])
    pods.kubectl("delete", "pod", "slow", "--grace-period=1", "--wait=false")
    pods.wait_gone("slow", seconds=6)


def test_a_forced_deletion_ends_the_processes_too(pods: Pods) -> None:
    mark = [{"name": "TEST_FORCED", "value": pods.namespace}]
    pods.create("forced", shell("trap '' TERM; while :; do sleep 0.05; done", env=mark))
    pods.wait_ready("forced")
    pods.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
    within(5, lambda: not marked_processes("TEST_FORCED", pods.namespace), "processes ended")


def test_init_containers_run_in_order_before_the_main_ones(pods: Pods) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    init = [
        {"name": name, "image": IMAGE, "volumeMounts": mounts, **shell(f"echo {name} >> /data/order")}
        for name in ("first", "second")
    ]
    main = shell("cat /data/order", volumeMounts=mounts)
    pods.create("ordered", main, initContainers=init, volumes=[DATA], restartPolicy="Never")
    pod = pods.wait_phase("ordered", "Succeeded")
    assert pods.kubectl("logs", "ordered") == "first\nsecond\n"
    assert all(status["ready"] for status in pod["status"]["initContainerStatuses"])


def test_a_sidecar_is_up_before_the_main_container_and_ends_after_it(pods: Pods) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    script = "trap 'echo sidecar ends; exit 0' TERM; echo up > /data/up; while :; do sleep 0.05; done"
    probe = {"exec": {"command": ["test", "-f", "/data/up"]}, "periodSeconds": 1}
    sidecar = {"name": "side", "image": IMAGE, "restartPolicy": "Always", "volumeMounts": mounts, **shell(script)}
    main = shell("cat /data/up", volumeMounts=mounts)
    init = [{**sidecar, "startupProbe": probe}]
    pods.create("assisted", main, initContainers=init, volumes=[DATA], restartPolicy="Never")
    pods.wait_phase("assisted", "Succeeded")
    assert pods.kubectl("logs", "assisted", "-c", "main") == "up\n"
    assert pods.kubectl("logs", "assisted", "-c", "side") == "sidecar ends\n"


def test_a_failed_init_container_fails_a_pod_that_never_restarts(pods: Pods) -> None:
    init = [{"name": "broken", "image": IMAGE, **shell("exit 4")}]
    pods.create("unprepared", shell("echo never"), initContainers=init, restartPolicy="Never")
    pod = pods.wait_phase("unprepared", "Failed")
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    assert "waiting" in pod["status"]["containerStatuses"][0]["state"]


def test_a_crashing_container_restarts_with_back_off_and_keeps_its_last_words(pods: Pods) -> None:
    pods.create("crashing", shell("echo boom; exit 3", terminationMessagePolicy="FallbackToLogsOnError"))
    assert "restarting failed container=main" in pods.wait_waiting("crashing", "CrashLoopBackOff")
    pod = pods.wait("crashing", lambda pod: count_restarts(pod) >= 2)
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (3, "Error", "boom\n")
    assert pod["status"]["phase"] == "Running"
    assert pods.kubectl("logs", "crashing", "--previous") == "boom\n"


@pytest.mark.parametrize(
    ("name", "script", "policy", "phase", "terminated"),
    [
        ("done", "exit 0", "OnFailure", "Succeeded", {"exitCode": 0, "reason": "Completed"}),
        ("signalled", "kill -KILL $$$$", "Never", "Failed", {"exitCode": 137, "signal": 9, "reason": "Error"}),
        ("message", "echo bye > /dev/termination-log; exit 1", "Never", "Failed", {"message": "bye\n"}),
    ],
)
def test_how_a_process_ended_is_reported(
    pods: Pods, name: str, script: str, policy: str, phase: str, terminated: Json
) -> None:
    pods.create(name, shell(script), restartPolicy=policy)
    pod = pods.wait_phase(name, phase)
    assert terminated.items() <= pod["status"]["containerStatuses"][0]["state"]["terminated"].items()


def test_a_failed_liveness_probe_restarts_the_container(pods: Pods) -> None:
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 2}
    pods.create("dying", shell("sleep 300 & wait", livenessProbe=probe), terminationGracePeriodSeconds=0)
    pods.wait("dying", lambda pod: count_restarts(pod) >= 1)
    pods.wait_event("dying", "Killing", "failed liveness probe")


def test_readiness_follows_its_probe_both_ways(pods: Pods) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    probe = {"exec": {"command": ["test", "-f", "/data/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    script = "sleep 1; touch /data/ready; sleep 2; rm /data/ready; sleep 300"
    pods.create("wavering", shell(script, readinessProbe=probe, volumeMounts=mounts), volumes=[DATA])
    pods.wait_phase("wavering", "Running")
    assert not is_ready(pods.get("wavering"))
    pods.wait_ready("wavering")
    pods.wait("wavering", lambda pod: not is_ready(pod))


def test_a_startup_probe_holds_the_others_back(pods: Pods) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    startup = {"exec": {"command": ["test", "-f", "/data/up"]}, "periodSeconds": 1, "failureThreshold": 30}
    liveness = {"exec": {"command": ["test", "-f", "/data/up"]}, "periodSeconds": 1, "failureThreshold": 1}
    script = "sleep 2.5; touch /data/up; sleep 300"
    container = shell(script, startupProbe=startup, livenessProbe=liveness, volumeMounts=mounts)
    pods.create("slow-start", container, volumes=[DATA])
    assert pods.wait_ready("slow-start")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_failed_post_start_hook_kills_the_container(pods: Pods) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 1"]}}}
    pods.create("unhooked", shell("sleep 300", lifecycle=hook), restartPolicy="Never")
    pods.wait_phase("unhooked", "Failed")
    pods.wait_event("unhooked", "FailedPostStartHook", "command exited with 1: no")


def test_a_pod_is_failed_at_its_active_deadline(pods: Pods) -> None:
    pods.create("late", shell("sleep 300"), activeDeadlineSeconds=1, terminationGracePeriodSeconds=0)
    assert pods.wait_phase("late", "Failed")["status"]["reason"] == "DeadlineExceeded"


def test_restricted_pods_run(pods: Pods) -> None:
    pods.kubectl("label", "namespace", pods.namespace, "pod-security.kubernetes.io/enforce=restricted")
    try:
        allowed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        container = shell("true", securityContext=allowed)
        pods.create("restricted", container, securityContext=security, restartPolicy="Never")
        pods.wait_phase("restricted", "Succeeded")
    finally:
        pods.kubectl("label", "namespace", pods.namespace, "pod-security.kubernetes.io/enforce-")

"""Pod statuses become one typed cause with the fix."""

from __future__ import annotations

from typing import Any

import pytest

from tandem_api.conditions import Reason
from tandem_operator.status.causes import find_cause

BORN = "2026-01-01T00:00:00Z"


def make_pod(container: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"conditions": [], **parts}
    if container:
        status["containerStatuses"] = [{"name": "worker", "image": "vllm:x", "restartCount": 2, **container}]
    return {"metadata": {"name": "p", "creationTimestamp": BORN}, "status": status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def crashed(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    return waiting("CrashLoopBackOff") | {"lastState": ended}


def fetching(message: str) -> dict[str, Any]:
    """A pod whose init container cannot bring the weights."""
    status = {"name": "fetch-0", "image": "aws", "restartCount": 3, **crashed(message, 254)}
    return make_pod(waiting("PodInitializing")) | {"status": {"initContainerStatuses": [status]}}


LOG_ENDING = """2026-11-21 22:00:24,101 tandem-worker INFO starting the engine
2026-11-21 22:00:25,760 tandem-worker ERROR ModelUnavailable: OSError: no such repository"""


def unscheduled(message: str) -> dict[str, Any]:
    return make_pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


def unmounted() -> dict[str, Any]:
    """A pod on a node that cannot start its containers yet."""
    condition = {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": BORN}
    claim = {"name": "w", "persistentVolumeClaim": {"claimName": "weights"}}
    volumes = [{"name": "run", "emptyDir": {}}, {"name": "kv-tls", "secret": {"secretName": "kv-tls"}}, claim]
    return make_pod(waiting("ContainerCreating"), conditions=[condition]) | {"spec": {"volumes": volumes}}


@pytest.mark.parametrize(
    ("pod", "reason", "text"),
    [
        (make_pod(waiting("ErrImagePull", "no such host")), Reason.IMAGE_UNAVAILABLE, "vllm:x cannot be pulled"),
        (
            make_pod(waiting("CreateContainerConfigError", 'secret "x"')),
            Reason.SECRET_MISSING,
            "create it in",
        ),
        (unscheduled("0/3 nodes: 3 Insufficient nvidia.com/gpu."), Reason.INSUFFICIENT_GPU, "free nvidia.com/gpu;"),
        (unscheduled("0/3 nodes: 3 Insufficient amd.com/gpu, 1 x."), Reason.INSUFFICIENT_GPU, "free amd.com/gpu;"),
        (unscheduled("0/3 nodes: 3 Insufficient memory."), Reason.UNSCHEDULABLE, "Insufficient memory"),
        (make_pod(crashed("ModelUnavailable: org/x is gated")), Reason.MODEL_UNAVAILABLE, "org/x is gated"),
        (fetching("fatal error: NoSuchBucket"), Reason.MODEL_UNAVAILABLE, "(fatal error: NoSuchBucket); check model."),
        (make_pod(crashed(LOG_ENDING)), Reason.MODEL_UNAVAILABLE, "1 pod: OSError: no such repository"),
        (make_pod(crashed("ConfigInvalid: no key")), Reason.CONFIG_INVALID, "no key"),
        (make_pod(crashed("ValueError: bad shape")), Reason.WORKER_CRASHING, "ValueError: bad shape"),
        (make_pod(crashed("Traceback\nlast words")), Reason.WORKER_CRASHING, "after 2 restarts: last words"),
        (unmounted(), Reason.VOLUME_UNAVAILABLE, "Secret kv-tls, PersistentVolumeClaim weights"),
        (make_pod(crashed("", 137, "OOMKilled")), Reason.WORKER_CRASHING, "raise resources.memory"),
    ],
)
def test_each_fault_has_its_reason_and_its_fix(pod: dict[str, Any], reason: Reason, text: str) -> None:
    cause = find_cause(None, [pod])
    assert cause is not None
    assert cause.reason == reason
    assert text in cause.message


def test_what_the_worker_says_of_its_orders_needs_no_patience() -> None:
    final = find_cause(None, [make_pod(crashed("ModelUnavailable: gone"))])
    passing = find_cause(None, [make_pod(waiting("ImagePullBackOff"))])
    assert final is not None
    assert final.since is None
    assert passing is not None
    assert passing.since is not None


def test_the_cause_that_most_pods_share_is_told_with_their_number() -> None:
    pods = [make_pod(waiting("ImagePullBackOff")), *(unscheduled("1 Insufficient nvidia.com/gpu") for _ in range(3))]
    cause = find_cause(None, pods)
    assert cause is not None
    assert (cause.reason, cause.pods) == (Reason.INSUFFICIENT_GPU, 3)
    assert cause.message.startswith("3 pods: ")


@pytest.mark.parametrize(
    "pod",
    [
        make_pod({"ready": True, "state": {"running": {}}} | {"lastState": {"terminated": {"exitCode": 1}}}),
        make_pod({"ready": False, "state": {"running": {}}}),
        make_pod(waiting("PodInitializing")),
        make_pod({"state": {"terminated": {"exitCode": 0}}}),
        {**make_pod(waiting("ErrImagePull")), "metadata": {"deletionTimestamp": BORN}},
    ],
)
def test_a_pod_that_starts_recovered_or_leaves_is_no_fault(pod: dict[str, Any]) -> None:
    assert find_cause(None, [pod]) is None


def test_a_long_message_is_cut() -> None:
    cause = find_cause(None, [make_pod(crashed("x" * 5000))])
    assert cause is not None
    assert len(cause.message) <= 600

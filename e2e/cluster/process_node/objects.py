"""What the process node reads from Kubernetes objects, which stay plain JSON dictionaries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

JsonObject = dict[str, Any]
DEFAULT_GRACE_S = 30.0


def pod_uid(pod: JsonObject) -> str:
    return str(pod["metadata"]["uid"])


def pod_name(pod: JsonObject) -> str:
    return str(pod["metadata"]["name"])


def pod_namespace(pod: JsonObject) -> str:
    return str(pod["metadata"]["namespace"])


def init_containers(pod: JsonObject) -> list[JsonObject]:
    return list(pod["spec"].get("initContainers") or [])


def main_containers(pod: JsonObject) -> list[JsonObject]:
    return list(pod["spec"]["containers"])


def is_sidecar(container: JsonObject, *, init: bool) -> bool:
    """A restartable init container: it starts in order and then runs beside the main containers."""
    return init and container.get("restartPolicy") == "Always"


def restart_policy(pod: JsonObject, container: JsonObject, *, init: bool) -> str:
    """Always, OnFailure or Never for this container; a plain init container never restarts after success."""
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy", "Always")
    if init and not is_sidecar(container, init=True) and policy == "Always":
        return "OnFailure"
    return str(policy)


def is_terminal(pod: JsonObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_deleting(pod: JsonObject) -> bool:
    return pod["metadata"].get("deletionTimestamp") is not None


def grace_s(pod: JsonObject) -> float:
    """The grace period of a pod's end: that of its deletion if one was asked for, else its spec's."""
    asked = pod["metadata"].get("deletionGracePeriodSeconds")
    if asked is None:
        asked = pod["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_S if asked is None else float(asked)


def to_rfc3339(moment: datetime) -> str:
    """Kubernetes' Time: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: str) -> datetime:
    """Raises ValueError for anything that is not an RFC 3339 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it as 2026-01-31T12:00:00Z")
    return moment

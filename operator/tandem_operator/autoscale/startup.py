"""How long a worker takes from a node to readiness, by the pods that are there. It is the horizon of every decision."""

from collections.abc import Sequence
from datetime import datetime
from statistics import median
from typing import Any

NEWEST = 5  # pods that count


def measure_startup_s(pods: Sequence[dict[str, Any]]) -> float | None:
    """Median of the newest pods that became ready without a restart, seconds; None when there is none.

    From scheduled to ready: waiting for a GPU is no part of a start, and is told apart.
    """
    times = sorted(filter(None, (_ready_at(pod) for pod in pods)), reverse=True)
    return median(took_s for _, took_s in times[:NEWEST]) if times else None


def _ready_at(pod: dict[str, Any]) -> tuple[datetime, float] | None:
    status = pod.get("status") or {}
    if any(container.get("restartCount") for container in status.get("containerStatuses") or ()):
        return None  # ready since the restart, not since the start
    ready, scheduled = _true_since(status, "Ready"), _true_since(status, "PodScheduled")
    if ready is None or scheduled is None or ready < scheduled:
        return None
    return ready, (ready - scheduled).total_seconds()


def _true_since(status: dict[str, Any], kind: str) -> datetime | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True" and condition.get("lastTransitionTime"):
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None

"""A pool as the autoscaler sees it, from live objects."""

from collections.abc import Sequence
from datetime import datetime

from tandem_api import labels
from tandem_api.conditions import Reason
from tandem_operator.autoscale.scaler import PoolSeen
from tandem_operator.kinds import Manifest
from tandem_operator.status.causes import find_cause
from tandem_operator.views import read_workers


def see_pool(
    pool: Manifest, deployments: Sequence[Manifest], pods: Sequence[Manifest], status: Manifest, now: datetime
) -> PoolSeen:
    """One WorkerPool with the Deployments, pods and status of its fleet; what is of other pools is passed over."""
    role = pool["spec"]["role"]
    workers = [one for one in map(read_workers, deployments) if one.pool == role]
    mine = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(labels.POOL) == role]
    waiting = _waiting_for_gpus(mine)
    return PoolSeen(
        desired=pool["spec"].get("replicas") or 0,
        ready=sum(one.ready for one in workers),
        pending_gpu_s=max(0.0, (now - min(waiting)).total_seconds()) if waiting else 0.0,
        startup_s=_startup_s(role, status),
        pending_gpu=len(waiting),
    )


def _waiting_for_gpus(pods: Sequence[Manifest]) -> list[datetime]:
    """Since when each pod waits that finds no GPU. Of a worker over several nodes every pod counts."""
    causes = (find_cause(None, [pod]) for pod in pods)
    return [cause.since for cause in causes if cause and cause.reason == Reason.INSUFFICIENT_GPU and cause.since]


def _startup_s(role: str, status: Manifest) -> float | None:
    """As it stands in status, of the newest template that was measured."""
    return next((float(entry["seconds"]) for entry in status.get("startup") or () if entry["role"] == role), None)

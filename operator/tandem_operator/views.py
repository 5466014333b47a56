"""Readings of live objects: the few facts of a Deployment that decisions are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tandem_api import labels
from tandem_operator.kinds import LEADER_WORKER_SET, Manifest


@dataclass(frozen=True)
class Workers:
    """One Deployment: workers of one pool, kv-revision and template."""

    name: str
    uid: str
    pool: str
    role: str  # what its workers do: prefill, decode or mixed
    kv_revision: str
    template_revision: str
    desired: int
    ready: int
    available: int
    total: int
    created: str
    has_served: bool  # was wholly available at least once
    is_overdue: bool  # Kubernetes saw no progress within the deadline
    is_settled: bool  # Kubernetes has seen the size, and has neither workers to make nor to take away
    failure: str | None  # why Kubernetes cannot even create the pods
    manifest: Manifest

    def is_available(self, size: int) -> bool:
        """Whether `size` workers of this template have been ready."""
        return self.desired >= size and self.available >= size


def read_workers(deployment: Manifest) -> Workers:
    """Facts of a Deployment, or of a LeaderWorkerSet, whose groups are its workers, that the operator made."""
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    progressing, failure = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    marks = metadata["labels"]
    all_ready = deployment.get("kind") == LEADER_WORKER_SET.name and is_condition_true(deployment, "Available")
    desired = deployment["spec"].get("replicas", 1)
    return Workers(
        name=metadata["name"],
        uid=metadata["uid"],
        pool=marks.get(labels.POOL, ""),
        role=marks.get(labels.ROLE, ""),
        kv_revision=marks.get(labels.KV_REVISION, ""),
        template_revision=marks.get(labels.TEMPLATE_REVISION, ""),
        desired=desired,
        ready=status.get("readyReplicas", 0),
        # A template never changes, so that a status of an older generation is wrong about workers that go, at most.
        available=min(status.get("availableReplicas", status.get("readyReplicas", 0)), desired),
        total=status.get("replicas", 0),
        created=metadata.get("creationTimestamp", ""),
        has_served=all_ready or progressing.get("reason") == "NewReplicaSetAvailable",
        is_overdue=progressing.get("reason") == "ProgressDeadlineExceeded",
        is_settled=(
            status.get("observedGeneration", 0) >= metadata.get("generation", 0)
            and status.get("replicas", 0) == desired
        ),
        failure=failure.get("message") if failure.get("status") == "True" else None,
        manifest=deployment,
    )


def read_all(deployments: Sequence[Manifest]) -> tuple[Workers, ...]:
    """Facts of all Deployments of a fleet, newest first."""
    return tuple(sorted(map(read_workers, deployments), key=lambda w: (w.created, w.name), reverse=True))


def of_pool(workers: Sequence[Workers], role: str) -> tuple[Workers, ...]:
    """Those of one pool."""
    return tuple(w for w in workers if w.pool == role)


def pod_of(manifest: Manifest) -> Manifest:
    """The pod template of a Deployment; of a LeaderWorkerSet, that of the leaders."""
    spec: Manifest = manifest["spec"]
    pod: Manifest = spec["template"] if "template" in spec else spec["leaderWorkerTemplate"]["leaderTemplate"]
    return pod


def template_of(pod: Manifest) -> str | None:
    """The template revision of a worker's pod."""
    found: str | None = (pod["metadata"].get("labels") or {}).get(labels.TEMPLATE_REVISION)
    return found


def is_ended(pod: Manifest) -> bool:
    """Whether the pod's containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp."""
    return datetime.fromisoformat(text) if text else None


def is_condition_true(obj: Manifest, kind: str) -> bool:
    """Whether the live object has the condition with status True."""
    found: list[Any] = (obj.get("status") or {}).get("conditions") or []
    return any(c["type"] == kind and c["status"] == "True" for c in found)

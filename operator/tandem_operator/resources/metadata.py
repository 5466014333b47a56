"""`metadata` of every child: labels by which it is found, and the owner with which it goes."""

from collections.abc import Mapping
from typing import Any

from tandem_api import labels
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, WORKER_POOL, Manifest
from tandem_operator.model import Fleet, PoolRole


def build_metadata(fleet: Fleet, name: str, owner: Manifest, role: PoolRole | None = None) -> dict[str, Any]:
    """Metadata of a child named `name`; `owner` is an entry of ownerReferences."""
    return {
        "name": name,
        "namespace": fleet.key.namespace,
        "labels": build_labels(fleet, role),
        "ownerReferences": [owner],
    }


def build_labels(fleet: Fleet, role: PoolRole | None = None) -> dict[str, str]:
    """Labels of a child; those of a pool's children name the pool."""
    common = {labels.MANAGED_BY: labels.MANAGED_BY_VALUE, labels.FLEET: fleet.key.name}
    return common | ({labels.POOL: role} if role else {})


def build_selector(fleet: Fleet, role: PoolRole | None = None) -> dict[str, str]:
    """Labels that match the fleet's worker pods, all of them or those of one pool."""
    common = {labels.COMPONENT: labels.WORKER_COMPONENT, labels.FLEET: fleet.key.name}
    return common | ({labels.POOL: role} if role else {})


def owned_by_fleet(fleet: Fleet) -> Manifest:
    """Owner reference to the InferenceDeployment."""
    return _controller(INFERENCE_DEPLOYMENT.api_version, INFERENCE_DEPLOYMENT.name, fleet.key.name, fleet.uid)


def owned_by_pool(pool: Manifest) -> Manifest:
    """Owner reference to a live WorkerPool."""
    metadata: Mapping[str, str] = pool["metadata"]
    return _controller(WORKER_POOL.api_version, WORKER_POOL.name, metadata["name"], metadata["uid"])


def _controller(api_version: str, kind: str, name: str, uid: str) -> Manifest:
    # No blockOwnerDeletion: it would need the right to write finalizers of the owner.
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}

"""Writes statuses: last, once, and only what changed; Events follow a status that was written."""

import logging
from datetime import datetime
from typing import Any

from tandem_api.v1alpha1 import InferenceDeploymentStatus
from tandem_operator.cluster import Cluster
from tandem_operator.errors import ApiError, NotFound
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, WORKER_POOL, Kind, Manifest
from tandem_operator.model import Key, Snapshot
from tandem_operator.observe import read_status
from tandem_operator.resources.names import OPERATOR_MANAGER
from tandem_operator.status.fleet import Report
from tandem_operator.store import Store
from tandem_operator.transitions import build_event, changed_conditions

_log = logging.getLogger(__name__)


async def write_report(cluster: Cluster, store: Store, snapshot: Snapshot, report: Report, now: datetime) -> None:
    """Statuses of the pools, then of the fleet."""
    for role, status in report.pools.items():
        await _apply_if_changed(cluster, store, WORKER_POOL, snapshot.pools[role], status.to_wire())
    key = snapshot.fleet.key
    obj = store.get(INFERENCE_DEPLOYMENT, key.namespace, key.name)
    if obj is not None and obj["metadata"]["uid"] == snapshot.fleet.uid:
        await write_status(cluster, store, obj, report.status, now)


async def write_status(
    cluster: Cluster, store: Store, obj: Manifest, status: InferenceDeploymentStatus, now: datetime
) -> None:
    """Status of one InferenceDeployment, and an Event for each transition."""
    before = read_status(obj)
    if not await _apply_if_changed(cluster, store, INFERENCE_DEPLOYMENT, obj, status.to_wire()):
        return
    metadata = obj["metadata"]
    for condition in changed_conditions(before, status):
        event = build_event(Key(metadata["namespace"], metadata["name"]), metadata["uid"], condition, now)
        try:
            await cluster.create(event, OPERATOR_MANAGER)
        except ApiError as error:  # an Event is a courtesy: nothing waits for it
            _log.info("event not written: %s", error)


async def _apply_if_changed(cluster: Cluster, store: Store, kind: Kind, obj: Manifest, status: dict[str, Any]) -> bool:
    if _without_empty(status) == _without_empty(obj.get("status") or {}):
        return False
    metadata = obj["metadata"]
    identity = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
    manifest = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": identity, "status": status}
    try:
        store.upsert(kind, await cluster.apply_status(manifest, OPERATOR_MANAGER))
    except NotFound:  # deleted meanwhile
        return False
    return True


def _without_empty(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if value not in (None, [], {})}

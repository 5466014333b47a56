"""InferenceDeployments and Pods as fleets and workers. No I/O."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import ValidationError

from tandem_api import labels
from tandem_api.v1alpha1 import InferenceDeployment, InferenceRegion
from tandem_api.v1alpha1.scaling_status import RegionLoad
from tandem_router.snapshot import FleetSpec, RegionSpec, RoleName, Snapshot, WorkerSpec

LOG = logging.getLogger(__name__)
ROLES = frozenset(get_args(RoleName))
ZONE = "topology.kubernetes.io/zone"  # the API server copies it from the node to its pods


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A fleet's pod."""

    namespace: str
    fleet: str
    worker: WorkerSpec


def parse_fleet(item: dict[str, Any], region: str = "") -> FleetSpec | None:
    """A fleet, still without workers; None when the object is of a schema that this router does not know.

    Args:
        region: name of this region; empty where regions are off.
    """
    metadata = item["metadata"]
    try:
        resource = InferenceDeployment.model_validate(item)
    except ValidationError as error:
        LOG.error("InferenceDeployment %s/%s not understood: %s", metadata["namespace"], metadata["name"], error)
        return None
    spec, status = resource.spec, resource.status
    ttft, tpot = (spec.objectives.ttft, spec.objectives.tpot) if spec.objectives is not None else (None, None)
    word = status.region_demand if status is not None else None
    return FleetSpec(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        served_name=spec.served_name,
        has_prefill=spec.prefill is not None,
        on_prefill_failure=spec.kv_transfer.on_prefill_failure,
        queue_timeout_s=spec.routing.queue_timeout_seconds,
        request_timeout_s=spec.routing.request_timeout_seconds,
        continuation=spec.routing.continuation,
        adapters=tuple(adapter.name for adapter in spec.model.adapters),
        ttft_target_s=ttft.seconds if ttft is not None else None,
        tpot_target_s=tpot.seconds if tpot is not None else None,
        isolated_factor=ttft.isolated_factor if ttft is not None else 1.0,
        startup_s=max((one.seconds for one in status.startup), default=None) if status else None,
        is_dormant=spec.autoscaling.mode == "Fixed" and spec.decode.replicas == 0,
        weights=tuple((one.kv_revision, one.traffic_percent) for one in status.revisions) if status else (),
        is_elsewhere=bool(region and spec.regions) and region not in {one.name for one in spec.regions},
        uncoverable=_load_fields(word.uncoverable) if word is not None else None,
        room=_load_fields(word.room) if word is not None else None,
    )


def _load_fields(load: RegionLoad | None) -> dict[str, float] | None:
    """As peers' operators read it."""
    return None if load is None else load.model_dump(by_alias=True, exclude_defaults=True)


def parse_region(item: dict[str, Any]) -> RegionSpec | None:
    """A region; None when the object is of a schema that this router does not know."""
    metadata = item["metadata"]
    try:
        spec = InferenceRegion.model_validate(item).spec
    except ValidationError as error:
        LOG.error("InferenceRegion %s/%s not understood: %s", metadata["namespace"], metadata["name"], error)
        return None
    labels_of = tuple(sorted(spec.labels.items()))
    return RegionSpec(metadata["name"], spec.url, labels_of, spec.price_weight, spec.drain)


def parse_pod(item: dict[str, Any]) -> PodRecord | None:
    """A worker; None when the pod is none, or has no address yet."""
    metadata, status = item["metadata"], item.get("status", {})
    tags, notes = metadata.get("labels", {}), metadata.get("annotations", {})
    role, address = tags.get(labels.ROLE), status.get("podIP")
    if role not in ROLES or not address or not tags.get(labels.FLEET):
        return None
    return PodRecord(
        metadata["namespace"],
        tags[labels.FLEET],
        WorkerSpec(
            name=metadata["name"],
            uid=metadata["uid"],
            role=role,
            address=address,
            http_port=parse_port(notes.get(labels.HTTP_PORT_ANNOTATION), labels.HTTP_PORT),
            admin_port=parse_port(notes.get(labels.ADMIN_PORT_ANNOTATION), labels.ADMIN_PORT),
            kv_revision=tags.get(labels.KV_REVISION, ""),
            template_revision=tags.get(labels.TEMPLATE_REVISION, ""),
            ready=is_ready(status),
            terminating="deletionTimestamp" in metadata,
            created=metadata.get("creationTimestamp", ""),
            topology=tags.get(ZONE, ""),
        ),
    )


def parse_port(text: str | None, default: int) -> int:
    """A port from an annotation; the default when there is none or it is no port."""
    return int(text) if text is not None and text.isdigit() and 0 < int(text) < 65_536 else default


def is_ready(status: dict[str, Any]) -> bool:
    """The pod's Ready condition is True."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


def build_snapshot(
    fleets: Iterable[FleetSpec], pods: Iterable[PodRecord], regions: Iterable[RegionSpec] = ()
) -> Snapshot:
    """Fleets with their workers, and regions, in a stable order."""
    workers: dict[tuple[str, str], list[WorkerSpec]] = {}
    for pod in pods:
        workers.setdefault((pod.namespace, pod.fleet), []).append(pod.worker)
    filled = [
        replace(fleet, workers=tuple(sorted(workers.get((fleet.namespace, fleet.name), ()), key=lambda one: one.uid)))
        for fleet in fleets
    ]
    by_name = sorted(regions, key=lambda region: region.name)
    return Snapshot(tuple(sorted(filled, key=lambda fleet: fleet.uid)), tuple(by_name))

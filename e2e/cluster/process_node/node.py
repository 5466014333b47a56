"""The Node object: registration, and the heartbeat that keeps it Ready."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.process_node.api import STRATEGIC_PATCH, ApiClient, ApiError, ApiUnreachableError
from cluster.process_node.objects import JsonObject, to_rfc3339
from cluster.process_node.services import HOST_IP

LEASE_S = 40
HEARTBEAT_S = 10.0
STATUS_EVERY_BEATS = 30
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeIdentity:
    name: str
    capacity: Mapping[str, str]
    port: int

    @property
    def path(self) -> str:
        return f"/api/v1/nodes/{self.name}"


def build_node(identity: NodeIdentity, now: datetime) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": identity.name, "labels": build_labels(identity.name)},
        "spec": {},
        "status": build_node_status(identity, now, is_ready=True),
    }


def build_labels(name: str) -> dict[str, str]:
    machine = platform.machine()
    architecture = _ARCHITECTURES.get(machine, machine)
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "tandem.dev/node": "process",
    }


def build_node_status(identity: NodeIdentity, now: datetime, *, is_ready: bool) -> JsonObject:
    return {
        "capacity": dict(identity.capacity),
        "allocatable": dict(identity.capacity),
        "addresses": [
            {"type": "InternalIP", "address": HOST_IP},
            {"type": "Hostname", "address": identity.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
        "nodeInfo": _node_info(),
        "conditions": [
            _condition("MemoryPressure", now, False, "ProcessNodeDoesNotMeasure"),
            _condition("DiskPressure", now, False, "ProcessNodeDoesNotMeasure"),
            _condition("PIDPressure", now, False, "ProcessNodeDoesNotMeasure"),
            _condition("Ready", now, is_ready, "ProcessNodeReady" if is_ready else "ProcessNodeShutdown"),
        ],
    }


def build_lease(name: str, node_uid: str, now: datetime) -> JsonObject:
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [owner]},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


class NodeRegistration:
    """Keeps the Node object as it should be; a Node that somebody deleted comes back."""

    def __init__(self, api: ApiClient, identity: NodeIdentity) -> None:
        self._api = api
        self._identity = identity
        self._uid = ""

    async def register(self) -> None:
        """Creates or updates the Node and its Lease. Raises ApiError, ApiUnreachableError."""
        node = build_node(self._identity, datetime.now(UTC))
        try:
            made = await self._api.create("/api/v1/nodes", node)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            made = await self._api.patch(self._identity.path, {"metadata": {"labels": node["metadata"]["labels"]}})
            await self.write_status(is_ready=True)
        self._uid = made["metadata"]["uid"]
        await self._renew_lease()

    async def beat(self) -> None:
        """Renews until cancelled; a fault is tried again at the next beat."""
        beats = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            beats += 1
            try:
                await self._renew_lease()
                if beats % STATUS_EVERY_BEATS == 0:
                    await self.register()
            except (ApiError, ApiUnreachableError) as error:
                log.warning("heartbeat of %s: %s", self._identity.name, error)

    async def write_status(self, *, is_ready: bool) -> None:
        """Raises ApiError, ApiUnreachableError."""
        status = build_node_status(self._identity, datetime.now(UTC), is_ready=is_ready)
        await self._api.patch(f"{self._identity.path}/status", {"status": status}, STRATEGIC_PATCH)

    async def _renew_lease(self) -> None:
        lease = build_lease(self._identity.name, self._uid, datetime.now(UTC))
        try:
            await self._api.patch(f"{_LEASES}/{self._identity.name}", {"spec": lease["spec"]})
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(_LEASES, lease)


def _condition(kind: str, now: datetime, holds: bool, reason: str) -> JsonObject:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": "",
        "lastHeartbeatTime": to_rfc3339(now),
        "lastTransitionTime": to_rfc3339(now),
    }


def _node_info() -> JsonObject:
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": platform.release(),
        "osImage": "processes of this machine",
        "containerRuntimeVersion": "process://0.1.0",
        "kubeletVersion": "v0.1.0-process-node",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }

"""The kinds of objects that the operator reads or writes."""

from dataclasses import dataclass
from typing import Any

from tandem_api import labels

Manifest = dict[str, Any]
"""A Kubernetes object in JSON form. Whoever gets one from the store reads it and never changes it."""


@dataclass(frozen=True)
class Kind:
    """One namespaced resource of the API server."""

    group: str
    version: str
    name: str
    plural: str

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None) -> str:
        """URL path of the collection; across all namespaces when `namespace` is None."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"


INFERENCE_DEPLOYMENT = Kind(labels.GROUP, labels.VERSION, "InferenceDeployment", "inferencedeployments")
WORKER_POOL = Kind(labels.GROUP, labels.VERSION, "WorkerPool", "workerpools")
INFERENCE_REGION = Kind(labels.GROUP, labels.VERSION, "InferenceRegion", "inferenceregions")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
LEADER_WORKER_SET = Kind("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets")
CONTROLLER_REVISION = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
SERVICE = Kind("", "v1", "Service", "services")
POD = Kind("", "v1", "Pod", "pods")
SECRET = Kind("", "v1", "Secret", "secrets")
EVENT = Kind("", "v1", "Event", "events")
POD_DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")

WATCHED = (
    INFERENCE_DEPLOYMENT,
    WORKER_POOL,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    POD,
    SERVICE,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
)
"""Kinds held in the store, owners before what they own."""

SELECTORS = {
    WORKER_POOL: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    CONTROLLER_REVISION: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    DEPLOYMENT: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    LEADER_WORKER_SET: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    SERVICE: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    POD_DISRUPTION_BUDGET: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    NETWORK_POLICY: f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}",
    POD: f"{labels.COMPONENT} in ({labels.WORKER_COMPONENT},{labels.ROUTER_COMPONENT})",
}
"""What the server is asked to send of each kind; the others come whole."""


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest that the operator rendered.

    Raises:
        KeyError: not a kind of ours.
    """
    return _BY_NAME[manifest["kind"]]


_BY_NAME = {kind.name: kind for kind in (*WATCHED, INFERENCE_REGION, LEADER_WORKER_SET, SECRET, EVENT, LEASE)}

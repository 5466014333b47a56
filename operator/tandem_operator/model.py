"""Values that pass between observing, planning and acting. Frozen: a plan can be kept, printed and replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tandem_api.router import FleetReport
from tandem_api.v1alpha1 import InferenceDeploymentSpec, InferenceDeploymentStatus
from tandem_operator.autoscale.scaler import Said
from tandem_operator.kinds import WORKER_POOL, Kind, Manifest

PoolRole = Literal["prefill", "decode"]
POOL_ROLES: tuple[PoolRole, ...] = ("prefill", "decode")


@dataclass(frozen=True, order=True)
class Key:
    """Identity of a fleet; what the queue holds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Fleet:
    """One InferenceDeployment as it is now, its spec parsed.

    Attributes:
        spec: as this region runs it.
        is_here: whether this region runs workers of it; otherwise only routers know it, and send requests away.
    """

    key: Key
    uid: str
    generation: int
    spec: InferenceDeploymentSpec
    status: InferenceDeploymentStatus = field(default_factory=InferenceDeploymentStatus)
    is_here: bool = True

    def pool_roles(self) -> tuple[PoolRole, ...]:
        """The pools that the spec asks for."""
        return POOL_ROLES if self.spec.prefill is not None else ("decode",)


@dataclass(frozen=True)
class Home:
    """Where this installation is: the namespace of its routers, and its region's name, empty where regions are off."""

    namespace: str
    region: str = ""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a spec that admission let through, and how to mend it."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


@dataclass(frozen=True)
class FleetKeys:
    """Content of the fleet's Secret, by file name. Kept out of repr, so that no log can show it."""

    files: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Defaults:
    """What the installation decides for fleets that do not say."""

    engine_image: str
    worker_image: str
    router_namespace: str
    endpoint: str | None = None
    monitoring_namespace: str | None = None  # whose pods may scrape the workers
    region: str = ""  # of this installation; empty: regions are off


@dataclass(frozen=True)
class RouterView:
    """What the routers say of one fleet. `pods` counts replicas that should answer, `answering` those that did."""

    pods: int = 0
    answering: int = 0
    reports: tuple[FleetReport, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """All that one reconciliation knows. Children are those whose controller is this fleet."""

    fleet: Fleet
    defaults: Defaults
    keys: FleetKeys
    pools: Mapping[str, Manifest] = field(default_factory=dict)  # role → WorkerPool
    revisions: tuple[Manifest, ...] = ()  # ControllerRevisions
    deployments: tuple[Manifest, ...] = ()  # and LeaderWorkerSets
    services: Mapping[str, Manifest] = field(default_factory=dict)  # name → object
    budgets: Mapping[str, Manifest] = field(default_factory=dict)
    policies: Mapping[str, Manifest] = field(default_factory=dict)
    secret: Manifest | None = None
    pods: tuple[Manifest, ...] = ()
    routers: RouterView = RouterView()
    scaling: Said | None = None  # what the autoscaler says; None when it does not look after this fleet


@dataclass(frozen=True)
class Apply:
    """Server-side apply of one rendered object. `uid` is that of the live object, None when it is to be born."""

    manifest: Manifest
    reason: str
    uid: str | None = None


@dataclass(frozen=True)
class CreatePool:
    """Birth of a WorkerPool, with its size, under the field manager of the scale."""

    manifest: Manifest
    reason: str


@dataclass(frozen=True)
class Scale:
    """Write of the scale subresource of a WorkerPool, or of a Deployment that is on its way out."""

    namespace: str
    name: str
    replicas: int
    reason: str
    kind: Kind = WORKER_POOL


@dataclass(frozen=True)
class Mark:
    """Cost at which Kubernetes deletes a pod when its Deployment shrinks, the lowest first; None removes it."""

    namespace: str
    name: str
    uid: str
    cost: str | None
    reason: str


@dataclass(frozen=True)
class Delete:
    """Deletion of exactly the object that was seen."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    reason: str


Action = Apply | CreatePool | Mark | Scale | Delete

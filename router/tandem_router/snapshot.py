"""Which fleets and workers there are: the value that every kind of discovery brings, and its form on disk. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tandem_router import jsontext

OnPrefillFailure = Literal["Retry", "Local", "Fail"]
Continuation = Literal["Off", "Tokens"]
RoleName = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker as discovery sees it.

    Attributes:
        uid: identity; a pod that comes back under its old name is another worker.
        admin_port: where its state is asked; None for an engine without Tandem's worker, taken for alive.
        ready: Kubernetes calls it ready.
        created: RFC 3339 time, comparable as text.
        topology: domain within which KV moves fast (a zone, a rack); empty: unknown.
        tls: its engine speaks HTTPS.
    """

    name: str
    uid: str
    role: RoleName
    address: str
    http_port: int
    admin_port: int | None
    kv_revision: str
    ready: bool = True
    terminating: bool = False
    created: str = ""
    template_revision: str = ""
    topology: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """One InferenceDeployment, as far as requests need it.

    Attributes:
        has_prefill: requests are meant to be split into prefill and decode.
        weights: (kv-revision, percent) from status; empty: the newest that is ready.
        ttft_target_s, tpot_target_s: objectives; None: there is none.
        isolated_factor: a prompt may take so many times its prefill alone, if that is more than the target.
        is_dormant: it has no workers and by its spec will get none: nobody is to wait for them.
        startup_s: measured time until a new worker of the slower role serves; None: unknown.
        adapters: LoRA adapters, each served as a model of its own name.
        token_file: bearer of the engines, for static fleets; None: derived from the router key.
        is_elsewhere: its spec names the regions that serve it, and this one is not among them.
        uncoverable, room: the operator's word about this fleet for other regions (`status.regionDemand`), as it stands.
    """

    namespace: str
    name: str
    uid: str
    served_name: str
    generation: int = 0
    created: str = ""
    has_prefill: bool = True
    on_prefill_failure: OnPrefillFailure = "Retry"
    queue_timeout_s: float | None = None
    request_timeout_s: float = 1800.0
    continuation: Continuation = "Off"
    adapters: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    isolated_factor: float = 1.0
    is_dormant: bool = False
    startup_s: float | None = None
    token_file: str | None = None
    is_elsewhere: bool = False
    uncoverable: Mapping[str, float] | None = None
    room: Mapping[str, float] | None = None
    workers: tuple[WorkerSpec, ...] = ()

    def adapter_of(self, model: str) -> str:
        """The adapter that clients mean by `model`; empty when they mean the model itself."""
        name = model.removeprefix(f"{self.namespace}/")
        return next((adapter for adapter in self.adapters if adapter in (model, name)), "")


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """One region as its InferenceRegion describes it; the own one among them, if there is an object for it.

    Attributes:
        url: of the internal listener of its routers; None: it cannot be reached from here.
        labels: what residency rules look at.
        price_weight: relative price of its capacity.
        drain: it is to be given nothing new; the own one is to send away what another may serve.
    """

    name: str
    url: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    price_weight: float = 1.0
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All fleets that a router may serve, and the regions that it may serve them with."""

    fleets: tuple[FleetSpec, ...] = ()
    regions: tuple[RegionSpec, ...] = ()

    def to_json(self) -> bytes:
        """Form on disk."""
        return jsontext.dumps(self)


def parse_snapshot(text: bytes) -> Snapshot:
    """Inverse of `Snapshot.to_json`.

    Raises:
        ValueError: not a snapshot of this version of the router.
    """
    try:
        fields = jsontext.loads(text)
        regions = tuple(_parse_region(region) for region in fields.get("regions", ()))
        return Snapshot(tuple(_parse_fleet(fleet) for fleet in fields["fleets"]), regions)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a snapshot: {error}") from error


def _parse_region(fields: dict[str, Any]) -> RegionSpec:
    labels = tuple((key, value) for key, value in fields.pop("labels", ()))
    return RegionSpec(**fields, labels=labels)


def _parse_fleet(fields: dict[str, Any]) -> FleetSpec:
    workers = tuple(WorkerSpec(**worker) for worker in fields.pop("workers"))
    weights = tuple((revision, percent) for revision, percent in fields.pop("weights"))
    adapters = tuple(fields.pop("adapters", ()))
    return FleetSpec(**fields, workers=workers, weights=weights, adapters=adapters)

"""Where the pods of a pool may run: what the user's template says, and the locality of the fleet."""

from typing import Any

from tandem_api.v1alpha1 import Locality, PodTemplate
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_selector

_PLAIN = (
    *("nodeSelector", "tolerations", "schedulerName", "priorityClassName", "runtimeClassName", "imagePullSecrets"),
    "resourceClaims",
)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_LOCALITY_WEIGHT = 100


def build_placement(fleet: Fleet, role: PoolRole, shaped: PodTemplate) -> dict[str, Any]:
    """Fields of a pod's spec that a user may shape."""
    wire = shaped.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    affinity = _with_locality(wire.get("affinity", {}), fleet)
    spread = [_spread(constraint, fleet, role) for constraint in wire.get("topologySpreadConstraints", ())]
    return {
        **{name: wire[name] for name in _PLAIN if wire.get(name)},
        **({"affinity": affinity} if affinity else {}),
        **({"topologySpreadConstraints": spread} if spread else {}),
    }


def _spread(constraint: dict[str, Any], fleet: Fleet, role: PoolRole) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": build_selector(fleet, role)}, **constraint}


def _with_locality(affinity: dict[str, Any], fleet: Fleet) -> dict[str, Any]:
    """The user's affinity, and beside it the wish to be where the fleet's other workers are.

    The selector matches both roles, and so each pod itself: the first of a fleet may go anywhere, as Kubernetes lets a
    pod whose own labels fit its affinity.
    """
    locality = fleet.spec.kv_transfer.locality if fleet.spec.prefill else None
    if locality is None:
        return affinity
    pods = affinity.get("podAffinity", {})
    place, term = _term(fleet, locality)
    return {**affinity, "podAffinity": {**pods, place: [*pods.get(place, ()), term]}}


def _term(fleet: Fleet, locality: Locality) -> tuple[str, dict[str, Any]]:
    near = {"labelSelector": {"matchLabels": build_selector(fleet)}, "topologyKey": locality.topology_key}
    if locality.required:
        return _REQUIRED, near
    return _PREFERRED, {"weight": _LOCALITY_WEIGHT, "podAffinityTerm": near}

"""What an operator left behind: comparable between fleets, whatever their names and histories."""

from __future__ import annotations

import copy
from typing import Any

from integration.operator.conftest import Kube

KINDS = "wpool,deploy,svc,pdb,netpol,secret"
_OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


def collect_end_state(kube: Kube, fleet: str) -> dict[str, Any]:
    """All children and the status, without what is the server's own, or the fleet's name."""
    objects = kube.list(KINDS, f"tandem.dev/fleet={fleet}")
    children = {f"{o['kind']}/{o['metadata']['name'].removeprefix(fleet)}": normalize(o, fleet) for o in objects}
    status = kube.get("infd", fleet)["status"]
    return {**children, "status": {"ready": status["readyText"], "revisions": status["revisions"]}}


def is_settled(fleet: dict[str, Any]) -> bool:
    status = fleet.get("status") or {}
    if status.get("observedGeneration") != fleet["metadata"]["generation"]:
        return False
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    has_one_revision = [r["phase"] for r in status.get("revisions", ())] == ["Serving"]
    return has_one_revision and conditions["DecodeReady"] == conditions["PrefillReady"] == "True"


def normalize(obj: dict[str, Any], fleet: str) -> Any:
    """What the operator decided of an object."""
    kept = copy.deepcopy({name: value for name, value in obj.items() if name not in ("status", "data")})
    for name in _OF_THE_SERVER:
        kept["metadata"].pop(name, None)
    for owner in kept["metadata"].get("ownerReferences", ()):
        owner.pop("uid")
    kept["metadata"].get("annotations", {}).pop("deployment.kubernetes.io/revision", None)  # a count
    kept.get("spec", {}).pop("clusterIP", None)
    return rename(kept, fleet)


def rename(value: Any, fleet: str) -> Any:
    if isinstance(value, dict):
        return {rename(key, fleet): rename(entry, fleet) for key, entry in value.items()}
    if isinstance(value, list):
        return [rename(entry, fleet) for entry in value]
    return value.replace(fleet, "FLEET") if isinstance(value, str) else value

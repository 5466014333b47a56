"""Which revision should run: what the spec asks for, what it pins, or the one before a revision that was taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from tandem_api.v1alpha1 import InferenceDeploymentSpec, Rejection
from tandem_operator.model import Fleet, Problem
from tandem_operator.resources.kept_revision import TEMPLATE_FIELDS, Kept
from tandem_operator.resources.revisions import fleet_revision

_SIZE_FIELDS = ("replicas", "min", "max")


@dataclass(frozen=True)
class Wanted:
    """The revision that should run, as a fleet whose spec asks for just that.

    Attributes:
        kept: its ControllerRevision, where there is one.
        rejected: the rejection that still holds.
        problem: why the spec's wish cannot be granted; then nothing is changed.
    """

    fleet: Fleet
    revision: str
    source: Literal["spec", "pin", "rejection"]
    kept: Kept | None
    rejected: Rejection | None = None
    problem: Problem | None = None


def decide_wanted(fleet: Fleet, kept: Sequence[Kept]) -> Wanted:
    """What should run now."""
    own = fleet_revision(fleet.spec)
    rejected = _standing_rejection(fleet, own)
    asked = Wanted(fleet, own, "spec", find_kept(kept, own), rejected)
    pin = fleet.spec.rollout.pin
    if pin is not None:
        return (
            replace(asked, problem=_unknown_pin(pin, kept))
            if find_kept(kept, pin) is None
            else _go_to(asked, kept, pin)
        )
    stable = fleet.status.rollout.stable if fleet.status.rollout else None
    if rejected is not None and stable is not None and find_kept(kept, stable) is not None:
        return replace(_go_to(asked, kept, stable), source="rejection")
    return asked


def find_kept(kept: Sequence[Kept], revision: str | None) -> Kept | None:
    """The kept revision of that hash."""
    return next((one for one in kept if one.revision == revision), None)


def merge_spec(spec: InferenceDeploymentSpec, kept: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` in wire form, with the pods of a kept revision; sizes stay those of `spec` where it has the pool."""
    wire = spec.to_wire()
    merged = {name: value for name, value in wire.items() if name not in TEMPLATE_FIELDS} | dict(kept)
    for pool in ("prefill", "decode"):
        if pool in merged and pool in wire:
            sizes = {name: wire[pool][name] for name in _SIZE_FIELDS if name in wire[pool]}
            others = {name: value for name, value in merged[pool].items() if name not in _SIZE_FIELDS}
            merged[pool] = others | sizes
    return merged


def _standing_rejection(fleet: Fleet, own: str) -> Rejection | None:
    rejected = fleet.status.rollout.rejected if fleet.status.rollout else None
    if rejected is None or rejected.revision != own or rejected.retry != fleet.spec.rollout.retry:
        return None
    return rejected


def _go_to(asked: Wanted, kept: Sequence[Kept], revision: str) -> Wanted:
    found = find_kept(kept, revision)
    assert found is not None
    try:
        spec = InferenceDeploymentSpec.model_validate(merge_spec(asked.fleet.spec, found.spec))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        text = f"revision {revision} does not fit this release's schema ({field}): apply the spec you want instead"
        return replace(asked, problem=Problem("spec.rollout.pin", text))
    return replace(asked, fleet=replace(asked.fleet, spec=spec), revision=revision, source="pin", kept=found)


def _unknown_pin(pin: str, kept: Sequence[Kept]) -> Problem:
    known = ", ".join(one.revision for one in sorted(kept, key=lambda one: -one.number)) or "none"
    return Problem("spec.rollout.pin", f"no revision {pin} is kept; kept are: {known}. Set one of them, or remove it")

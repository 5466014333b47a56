"""The way back to a kept revision, as a patch of the manifest (pure)."""

from collections.abc import Mapping, Sequence
from typing import Any

from tandem_api.v1alpha1 import InferenceDeploymentSpec, RolloutStatus
from tandem_cli.errors import CommandError
from tandem_operator.plan.wanted import find_kept, merge_spec
from tandem_operator.resources.kept_revision import Kept


def choose_revision(history: Sequence[Kept], status: RolloutStatus | None, asked: str | None) -> Kept:
    """The revision to go back to: the one asked for, else the newest that neither runs nor was taken back.

    Raises:
        CommandError: there is none.
    """
    known = ", ".join(kept.revision for kept in history) or "none"
    if asked is not None:
        found = find_kept(history, asked)
        if found is None:
            raise CommandError(f"no revision {asked} is kept; kept are: {known}")
        return found
    barred = {status.revision, status.rejected.revision if status.rejected else None} if status else set()
    for kept in sorted(history, key=lambda kept: -kept.number):
        if kept.revision not in barred:
            return kept
    raise CommandError(f"there is no revision to go back to; kept are: {known}")


def build_patch(spec: InferenceDeploymentSpec, kept: Kept) -> dict[str, Any]:
    """JSON merge patch (RFC 7386) of `spec` that asks for the pods of a kept revision; sizes stay. Empty: no change."""
    wanted = InferenceDeploymentSpec.model_validate(merge_spec(spec, kept.spec)).to_wire()
    return _difference(spec.to_wire(), wanted)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = _difference(before, value)
            patch |= {name: inner} if inner else {}
        elif before != value or name not in old:
            patch[name] = value
    return patch

"""ControllerRevision of a fleet: the templates of one revision as they were born, and the part of the spec they are of.

A template is rendered once. Afterwards it comes from here, so that neither an upgraded operator nor the way back to an
older revision renders anything else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tandem_api import labels
from tandem_operator.kinds import CONTROLLER_REVISION, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_metadata, owned_by_fleet
from tandem_operator.resources.names import revision_name
from tandem_operator.resources.revisions import kv_revision

TEMPLATE_FIELDS = ("model", "engine", "prefill", "decode", "kvTransfer", "drain")
"""Top-level fields of the spec (wire names) that shape pods."""


@dataclass(frozen=True)
class RoleTemplate:
    """The pods of one role, as they were born."""

    template_revision: str
    worker_role: str
    engine_image: str
    worker_image: str
    pod: Manifest


@dataclass(frozen=True)
class Kept:
    """One kept revision of a fleet.

    Attributes:
        number: grows with each revision that is rolled out; the one that was wanted last has the highest.
        spec: `TEMPLATE_FIELDS` of the spec in wire form.
    """

    name: str
    uid: str
    number: int
    revision: str
    kv_revision: str
    created: str
    spec: Mapping[str, Any]
    templates: Mapping[str, RoleTemplate]
    manifest: Manifest


def build_kept_revision(
    fleet: Fleet, revision: str, number: int, templates: Mapping[PoolRole, RoleTemplate]
) -> Manifest:
    """The ControllerRevision of what the spec of `fleet` asks for."""
    wire = fleet.spec.to_wire()
    metadata = build_metadata(fleet, revision_name(fleet.key.name, revision), owned_by_fleet(fleet))
    metadata["labels"] |= {labels.REVISION: revision}
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.name,
        "metadata": metadata,
        "revision": number,
        "data": {
            "kvRevision": kv_revision(fleet.spec),
            "spec": {name: wire[name] for name in TEMPLATE_FIELDS if name in wire},
            "templates": {role: asdict(template) for role, template in templates.items()},
        },
    }


def renumber(fleet: Fleet, kept: Kept, number: int) -> Manifest:
    """The same revision, now the newest. Its content cannot change."""
    metadata = build_metadata(fleet, kept.name, owned_by_fleet(fleet))
    metadata["labels"] |= {labels.REVISION: kept.revision}
    head = {"apiVersion": CONTROLLER_REVISION.api_version, "kind": CONTROLLER_REVISION.name, "metadata": metadata}
    return {**head, "revision": number, "data": kept.manifest["data"]}


def read_kept_revision(manifest: Manifest) -> Kept:
    """A ControllerRevision that the operator made."""
    metadata, data = manifest["metadata"], manifest["data"]
    return Kept(
        name=metadata["name"],
        uid=metadata["uid"],
        number=manifest["revision"],
        revision=metadata["labels"][labels.REVISION],
        kv_revision=data["kvRevision"],
        created=metadata.get("creationTimestamp", ""),
        spec=data["spec"],
        templates={role: RoleTemplate(**template) for role, template in data["templates"].items()},
        manifest=manifest,
    )

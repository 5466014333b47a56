"""The children of one fleet as a template: what another operator, or none, would have to apply for any other fleet."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from scale.api import NAMESPACE, Api

_COLLECTIONS = {
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "workerpools": "/apis/tandem.dev/v1alpha1",
    "services": "/api/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "deployments": "/apis/apps/v1",
    "controllerrevisions": "/apis/apps/v1",
}
_KEPT = ("name", "namespace", "labels", "annotations")


@dataclass(frozen=True)
class Template:
    """Manifests in which the fleet's name can be replaced."""

    fleet: str
    manifests: tuple[tuple[str, str], ...]  # path of the collection, JSON

    def render(self, fleet: str, decode: int) -> list[tuple[str, dict[str, Any]]]:
        """(path, manifest) of every child of another fleet."""
        rendered = []
        for path, text in self.manifests:
            manifest = json.loads(text.replace(self.fleet, fleet))
            if is_decode(manifest):
                manifest["spec"]["replicas"] = decode
            rendered.append((f"{path}/{manifest['metadata']['name']}", manifest))
        return rendered

    def render_decode(self, fleet: str, size: int) -> tuple[str, dict[str, Any]]:
        """The decode Deployment at a size."""
        return next(child for child in self.render(fleet, size) if is_decode(child[1]))

    def to_json(self) -> str:
        """For another process."""
        return json.dumps({"fleet": self.fleet, "manifests": self.manifests})


def parse_template(text: str) -> Template:
    """What `to_json` gave."""
    found = json.loads(text)
    return Template(found["fleet"], tuple((path, manifest) for path, manifest in found["manifests"]))


def is_decode(manifest: dict[str, Any]) -> bool:
    return manifest["kind"] == "Deployment" and manifest["metadata"]["labels"].get("tandem.dev/pool") == "decode"


async def read_template(api: Api, fleet: str) -> Template:
    """The children that `fleet` has now, less what is the server's or an owner's. Secrets stay out of benchmarks."""
    manifests: list[tuple[str, str]] = []
    for plural, root in _COLLECTIONS.items():
        path = f"{root}/namespaces/{NAMESPACE}/{plural}"
        answer = await api.send("GET", f"{path}?labelSelector=tandem.dev/fleet%3D{fleet}")
        kind, version = answer["kind"].removesuffix("List"), answer["apiVersion"]
        stripped = (strip({**obj, "kind": kind, "apiVersion": version}) for obj in answer["items"])
        manifests += [(path, json.dumps(manifest)) for manifest in stripped]
    return Template(fleet, tuple(manifests))


def strip(obj: dict[str, Any]) -> dict[str, Any]:
    """What whoever applies it would send."""
    kept = copy.deepcopy({name: value for name, value in obj.items() if name != "status"})
    kept["metadata"] = {name: kept["metadata"][name] for name in _KEPT if name in kept["metadata"]}
    for name in ("clusterIP", "clusterIPs"):
        if kept["kind"] == "Service" and kept["spec"].get(name) not in ("None", ["None"]):
            kept["spec"].pop(name, None)
    return kept

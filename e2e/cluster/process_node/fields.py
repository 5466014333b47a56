"""The downward API: values of a pod's own fields and resources. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.process_node.objects import JsonObject, init_containers, main_containers
from cluster.process_node.quantities import divide_rounding_up

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class FieldError(ValueError):
    """A fieldRef or resourceFieldRef that names nothing this node knows."""


@dataclass(frozen=True)
class PodFields:
    """A pod and the facts that only its node knows."""

    pod: JsonObject
    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str]

    def field(self, path: str) -> str:
        """The text of a fieldRef's fieldPath. Raises FieldError."""
        subscript = _SUBSCRIPT.fullmatch(path)
        if subscript:
            return str(self._entries(subscript.group(1)).get(subscript.group(2), ""))
        if path in ("metadata.labels", "metadata.annotations"):
            return format_entries(self._entries(path.removeprefix("metadata.")))
        values = self._scalars()
        if path not in values:
            raise FieldError(f"fieldPath {path!r} is not one of {', '.join(sorted(values))}")
        return values[path]

    def resource(self, reference: JsonObject, default_container: str) -> str:
        """The text of a resourceFieldRef: rounded up to its divisor. Raises FieldError, QuantityError."""
        container = self._container(reference.get("containerName") or default_container)
        kind, _, name = reference["resource"].partition(".")
        resources = container.get("resources") or {}
        # Without a limit a container may use the node; without a request it asked for nothing.
        fallback = self.allocatable.get(name, "0") if kind == "limits" else "0"
        quantity = (resources.get(kind) or {}).get(name, fallback)
        return str(divide_rounding_up(str(quantity), str(reference.get("divisor") or "1")))

    def _entries(self, kind: str) -> JsonObject:
        return dict(self.pod["metadata"].get(kind) or {})

    def _scalars(self) -> dict[str, str]:
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        return {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.podIP": self.pod_ip,
            "status.podIPs": self.pod_ip,
            "status.hostIP": self.host_ip,
            "status.hostIPs": self.host_ip,
        }

    def _container(self, name: str) -> JsonObject:
        for container in [*init_containers(self.pod), *main_containers(self.pod)]:
            if container["name"] == name:
                return container
        raise FieldError(f"resourceFieldRef names container {name!r}, which the pod does not have")


def format_entries(entries: Mapping[str, str]) -> str:
    """Labels or annotations as the downward API writes them into a file: key="escaped value" lines."""
    return "\n".join(f"{key}={quote(value)}" for key, value in sorted(entries.items()))


def quote(value: str) -> str:
    """A double-quoted text with the escapes that a reader of one line needs."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'

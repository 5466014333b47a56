"""What a user asks for (:class:`ClusterSpec`) and what they get (:class:`Cluster`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

PROVIDERS = ("source", "kind", "existing")
MOST_NODES = {"process_nodes": 16, "kwok_nodes": 5000}
MOST_PER_NODE = {"gpus": 1024, "pods": 10_000}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGTPE]i?|k)?")


@dataclass(frozen=True)
class NodeCapacity:
    """What each node claims to have. Nothing enforces it: it only steers the scheduler."""

    gpus: int = 8
    cpu: str = "64"
    memory: str = "512Gi"
    pods: int = 110

    def resources(self) -> dict[str, str]:
        """As a Node's ``status.capacity``; GPUs are left out when there are none."""
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods), **gpus}

    def validate(self) -> None:
        """Raise ClusterError naming the first amount that is none."""
        for field_name, most in MOST_PER_NODE.items():
            validate_count(field_name, getattr(self, field_name), most)
        for field_name in ("cpu", "memory"):
            amount = getattr(self, field_name)
            if not QUANTITY.fullmatch(amount):
                raise ClusterError(f"{field_name}: {amount!r} is no quantity", "write it as 16, 500m or 64Gi")


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster to bring up.

    ``images`` maps an image name to the virtual environment that a process node runs for it.
    ``kubeconfig`` is for the provider ``existing`` only.
    ``owner`` is the pid that the cluster must not outlive: see :func:`cluster.api.down_abandoned`.
    """

    name: str = "tandem"
    provider: str = "source"
    process_nodes: int = 0
    kwok_nodes: int = 0
    capacity: NodeCapacity = field(default_factory=NodeCapacity)
    images: Mapping[str, Path] = field(default_factory=dict)
    audit_log: bool = False
    kubeconfig: Path | None = None
    owner: int | None = None

    def validate(self) -> None:
        """Raise ClusterError naming the first field that cannot be used."""
        if self.provider not in PROVIDERS:
            raise ClusterError(f"provider: there is no {self.provider!r}", f"choose one of {', '.join(PROVIDERS)}")
        self._validate_nodes()
        for image, folder in self.images.items():
            validate_image(image, folder)

    def _validate_nodes(self) -> None:
        for field_name, most in MOST_NODES.items():
            validate_count(field_name, getattr(self, field_name), most)
        self.capacity.validate()
        if self.provider != "source" and (self.process_nodes or self.kwok_nodes):
            raise ClusterError(
                f"provider {self.provider} brings its own nodes",
                "leave out process and KWOK nodes, or choose the provider 'source'",
            )

    def to_json(self) -> dict[str, Any]:
        """For the state file; equal values mean that the same cluster was asked for."""
        return {
            **asdict(self),
            "images": {name: str(folder) for name, folder in sorted(self.images.items())},
            "kubeconfig": str(self.kubeconfig) if self.kubeconfig else None,
        }


def validate_count(field_name: str, count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise ClusterError(f"{field_name}: {count} is out of range", f"take 0 to {most}")


def validate_image(image: str, folder: Path) -> None:
    if not (folder / "bin" / "python").exists():
        raise ClusterError(
            f"image {image}: {folder} is no virtual environment (bin/python is missing)",
            "name an existing one: --image NAME=FOLDER",
        )


def process_node_name(index: int) -> str:
    return f"process-{index}"


def kwok_node_name(index: int) -> str:
    return f"kwok-{index}"

"""Ways to come by a cluster. All give the same thing, so that a scenario runs on any of them."""

from __future__ import annotations

from typing import Protocol

from cluster.build import Builder
from cluster.places import RunFolder
from cluster.progress import Progress
from cluster.spec import ClusterSpec


class Provider(Protocol):
    """Brings clusters up and takes them down; keeps everything it must remember in the run folder."""

    def up(self, spec: ClusterSpec, run: RunFolder, builder: Builder, progress: Progress) -> None:
        """Fill ``run``: an admin kubeconfig, and kubectl and helm in its bin folder. Raises ClusterError."""

    def is_live(self, run: RunFolder) -> bool:
        """True when all of the cluster runs and answers."""

    def release(self, run: RunFolder) -> None:
        """End the cluster, whatever state it is in; what remains is files in ``run``."""

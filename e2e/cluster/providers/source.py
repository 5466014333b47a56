"""Provider ``source``: Kubernetes built from Go modules, as ordinary processes on loopback. Linux only."""

from __future__ import annotations

import platform
import shutil

from cluster import teardown
from cluster.build import Builder, build_families
from cluster.control_plane import start_control_plane
from cluster.errors import AddressInUseError, ClusterError
from cluster.families import list_needed
from cluster.nodes import start_nodes
from cluster.places import RunFolder
from cluster.processes import fetch_recorded, is_alive
from cluster.progress import Progress, Step
from cluster.spec import ClusterSpec
from cluster.tools import is_answering, link_programs

ATTEMPTS = 5


class SourceProvider:
    """See :class:`cluster.providers.Provider`."""

    def up(self, spec: ClusterSpec, run: RunFolder, builder: Builder, progress: Progress) -> None:
        if platform.system() != "Linux":
            raise ClusterError("provider source needs Linux", "choose --provider kind")
        link_programs(run, build_families(builder, list_needed(spec.kwok_nodes), progress).values())
        with progress.step(f"Starting cluster {spec.name}") as step:
            start_with_retries(run, spec, step)
            step.result = describe(spec)

    def is_live(self, run: RunFolder) -> bool:
        recorded = fetch_recorded(run).values()
        return bool(recorded) and all(is_alive(process) for process in recorded) and is_answering(run)

    def release(self, run: RunFolder) -> None:
        teardown.release(run)


def start_with_retries(run: RunFolder, spec: ClusterSpec, step: Step) -> None:
    """Start everything; when another process takes a port in between, start afresh on other ports."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with start_control_plane(run, spec, step) as client:
                start_nodes(run, spec, client, step)
            return
        except AddressInUseError:
            if attempt == ATTEMPTS:
                raise
            step.update("a port was taken meanwhile, starting again")
            forget_attempt(run)


def forget_attempt(run: RunFolder) -> None:
    """Remove all of a failed attempt but the programs and the record of the cluster."""
    teardown.release(run)
    for leftover in run.path.iterdir():
        if leftover.is_dir() and leftover != run.programs:
            shutil.rmtree(leftover)


def describe(spec: ClusterSpec) -> str:
    counts = {"process": spec.process_nodes, "KWOK": spec.kwok_nodes}
    nodes = [f"{count} {kind} node{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return f"ready with {' and '.join(nodes) or 'no nodes'}"

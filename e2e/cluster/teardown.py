"""End everything that belongs to a run folder, whatever state a crash left it in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.errors import ClusterError
from cluster.places import RunFolder
from cluster.process_node.folders import NodeFolders
from cluster.processes import fetch_marked, fetch_recorded, stop
from cluster.spec import process_node_name
from cluster.subnets import find_claims_folder, release_subnets

# A process node gives its pods up to ten seconds; nothing else here has anything worth saving.
NODE_GRACE_S = 15.0
# Something may be forking while we look; each round finds what the one before missed.
ROUNDS = 20


def end_processes(run: RunFolder) -> None:
    """End nodes first, so that pods end properly, then all the rest at once.

    Raises ClusterError if something survives SIGKILL.
    """
    recorded = fetch_recorded(run)
    node_prefix = process_node_name(0).rstrip("0")
    stop([process for name, process in recorded.items() if name.startswith(node_prefix)], NODE_GRACE_S)
    stop(recorded.values(), grace_s=0)
    for _ in range(ROUNDS):
        marked = fetch_marked(run)
        if not marked:
            return
        stop(marked, grace_s=0)
    pids = ", ".join(str(process.pid) for process in marked)
    raise ClusterError(f"processes {pids} of cluster {run.name} do not end", "look at them with ps")


def release(run: RunFolder) -> None:
    """End all processes and give back memory and subnets; logs and records stay."""
    end_processes(run)
    release_subnets(run, find_claims_folder())
    for root in run.nodes.glob("*"):
        NodeFolders(root).remove()
    remove_tree(run.memory)


def remove(run: RunFolder) -> None:
    """Leave nothing of this run."""
    release(run)
    remove_tree(run.path)


def remove_tree(folder: Path) -> None:
    """Remove a folder even where a pod took write permission away from folders inside."""

    def allow_and_retry(function: Callable[[str], object], path: str, _: object) -> None:
        if not os.path.lexists(path):
            return
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path)
        else:
            function(path)

    if os.path.lexists(folder):
        shutil.rmtree(folder, onerror=allow_and_retry)

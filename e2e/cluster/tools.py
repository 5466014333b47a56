"""kubectl and helm for a cluster's users: our own builds, else those on the PATH."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cluster.build import Builder
from cluster.errors import ClusterError
from cluster.families import FAMILIES
from cluster.places import RunFolder

TOOLS = {"kubectl": "kube", "helm": "helm"}


def link_programs(run: RunFolder, folders: Iterable[Path]) -> None:
    """Collect the programs of several builds in the run's own bin folder."""
    run.programs.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for program in folder.iterdir():
            (run.programs / program.name).symlink_to(program)


def link_tools(run: RunFolder, builder: Builder) -> None:
    """For clusters that are not built from source. Raises ClusterError naming the tool that is missing."""
    run.programs.mkdir(parents=True, exist_ok=True)
    for tool, family in TOOLS.items():
        (run.programs / tool).symlink_to(find_tool(tool, family, builder))


def find_tool(tool: str, family: str, builder: Builder) -> Path:
    built = builder.folder(FAMILIES[family]) / tool
    if built.exists():
        return built
    if on_path := shutil.which(tool):
        return Path(on_path)
    raise ClusterError(f"{tool} is missing", f"put it on the PATH, or run 'python -m cluster build --only {family}'")


def is_answering(run: RunFolder) -> bool:
    """True when the cluster's API server says that it is ready."""
    command = [str(run.programs / "kubectl"), "get", "--raw=/readyz", "--request-timeout=5s"]
    try:
        done = subprocess.run(
            [*command, f"--kubeconfig={run.kubeconfig('admin')}"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0

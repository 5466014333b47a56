"""Clusters from Python, for the demo, tests and benchmarks::

    with ephemeral_cluster(ClusterSpec(name="mine", process_nodes=1)) as cluster:
        cluster.kubectl("get", "nodes")

Every function takes ``places`` (default: from the environment) and is safe to call from several processes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import teardown
from cluster.build import build_families, find_builder
from cluster.errors import ClusterError
from cluster.families import list_needed
from cluster.locks import exclusive_lock
from cluster.places import Places, RunFolder, places_from_environment
from cluster.processes import fetch_process_id
from cluster.progress import Progress, build_silent_progress
from cluster.providers import Provider
from cluster.providers.existing import ExistingProvider
from cluster.providers.kind import KindProvider
from cluster.providers.source import SourceProvider
from cluster.spec import ClusterSpec
from cluster.state import State, read_state, write_state


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up: everything is found from its run folder."""

    run: RunFolder
    provider: str

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a user with all rights."""
        return self.run.kubeconfig("admin")

    @property
    def bin_dir(self) -> Path:
        """Folder with kubectl and helm that fit this cluster."""
        return self.run.programs

    @property
    def audit_log(self) -> Path:
        """One JSON event a line; exists when the spec asked for it."""
        return self.run.audit_log

    def environment(self) -> dict[str, str]:
        """The caller's environment with this cluster's KUBECONFIG, and its tools first on the PATH."""
        path = f"{self.bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl and return what it printed. Raises ClusterError with its last words."""
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it printed. Raises ClusterError with its last words."""
        return self._run("helm", arguments, "")

    def _run(self, tool: str, arguments: tuple[str, ...], stdin: str) -> str:
        command = [str(self.bin_dir / tool), *arguments]
        done = subprocess.run(command, env=self.environment(), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{tool} {' '.join(arguments)} failed: {done.stderr.strip()}", "mend what it names")
        return done.stdout


@dataclass(frozen=True)
class Listing:
    """One line of ``status``."""

    cluster: Cluster
    state: State
    is_live: bool


def build(progress: Progress, kwok_nodes: int = 0) -> None:
    """Build what such a cluster of provider `source` is made of, unless it is there. Raises ClusterError."""
    build_families(find_builder(default_places()), list_needed(kwok_nodes), progress)


def default_places() -> Places:
    return places_from_environment(os.environ)


def up(spec: ClusterSpec, progress: Progress | None = None, places: Places | None = None) -> Cluster:
    """Bring a cluster up, building what is missing first; one that is up already is returned as it is.

    Raises ClusterError. After a failure no process is left; the logs are, until ``down`` or the next ``up``.
    """
    spec.validate()
    progress = progress or build_silent_progress()
    places = places or default_places()
    run = places.run(spec.name)
    with exclusive_lock(places.lock(spec.name), lambda: progress.note("another process is at this cluster")):
        if is_up_as_asked(spec, run):
            progress.note(f"cluster {spec.name} is already up")
        else:
            remove_remains(run, progress)
            create(spec, run, places, progress)
    return Cluster(run, spec.provider)


def down(name: str, progress: Progress | None = None, places: Places | None = None) -> bool:
    """Take a cluster down, whatever state it is in, and leave nothing; False when there was none."""
    progress = progress or build_silent_progress()
    places = places or default_places()
    run = places.run(name)
    with exclusive_lock(places.lock(name), lambda: progress.note("another process is at this cluster")):
        if not run.path.exists():
            places.lock(name).unlink()
            return False
        with progress.step(f"Removing cluster {name}"):
            remove(run)
        places.lock(name).unlink()
    return True


def list_clusters(places: Places | None = None) -> list[Listing]:
    """All clusters of this cache, by name."""
    runs = (places or default_places()).runs
    folders = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    return [describe(RunFolder(folder)) for folder in folders]


def fetch_cluster(name: str, places: Places | None = None) -> Cluster:
    """A cluster that is up, by name. Raises ClusterError when it is not."""
    run = (places or default_places()).run(name)
    listing = describe(run)
    if not listing.is_live:
        raise ClusterError(f"cluster {name} is not up", f"run 'python -m cluster up --name {name}'")
    return listing.cluster


def down_abandoned(places: Places | None = None) -> list[str]:
    """Take down clusters whose owner is gone, such as those of a killed test run; returns their names."""
    abandoned = [one.cluster.name for one in list_clusters(places) if one.state.is_abandoned()]
    return [name for name in abandoned if down(name, places=places)]


@contextmanager
def ephemeral_cluster(
    spec: ClusterSpec, progress: Progress | None = None, places: Places | None = None
) -> Iterator[Cluster]:
    """A cluster for the block only; should this process be killed, the next test run removes it."""
    try:
        yield up(replace(spec, owner=os.getpid()), progress, places)
    finally:
        down(spec.name, places=places)


def is_up_as_asked(spec: ClusterSpec, run: RunFolder) -> bool:
    """True for a live cluster of this spec, False for none. Raises ClusterError for a live one of another."""
    listing = describe(run)
    if not listing.is_live:
        return False
    if differing := find_differences(listing.state.spec, spec.to_json()):
        raise ClusterError(
            f"cluster {spec.name} is up with another {', '.join(differing)}",
            f"run 'python -m cluster down --name {spec.name}' first, or choose another --name",
        )
    return True


def find_differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Fields in which two specs describe different clusters."""
    return [field for field in right if field != "owner" and left.get(field) != right[field]]


def create(spec: ClusterSpec, run: RunFolder, places: Places, progress: Progress) -> None:
    run.path.mkdir(parents=True, mode=0o700)
    owner = str(fetch_process_id(spec.owner)) if spec.owner else ""
    state = State(spec.provider, "starting", spec.to_json(), owner)
    write_state(run, state)
    try:
        choose_provider(spec.provider).up(spec, run, find_builder(places), progress)
    except BaseException:
        choose_provider(spec.provider).release(run)
        write_state(run, replace(state, phase="failed"))
        raise
    write_state(run, replace(state, phase="ready"))


def remove_remains(run: RunFolder, progress: Progress) -> None:
    if run.path.exists():
        with progress.step(f"Removing what is left of an earlier cluster {run.name}"):
            remove(run)


def remove(run: RunFolder) -> None:
    state = read_state(run)
    if state:
        choose_provider(state.provider).release(run)
    teardown.remove(run)


def describe(run: RunFolder) -> Listing:
    state = read_state(run) or State("source", "failed", {})
    is_live = state.phase == "ready" and choose_provider(state.provider).is_live(run)
    return Listing(Cluster(run, state.provider), state, is_live)


def choose_provider(name: str) -> Provider:
    providers: dict[str, Provider] = {
        "source": SourceProvider(),
        "kind": KindProvider(),
        "existing": ExistingProvider(),
    }
    return providers[name]

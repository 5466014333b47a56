"""Provider ``kind``: nodes as containers, where a Docker engine answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

from cluster.build import Builder, build_family
from cluster.errors import ClusterError
from cluster.families import FAMILIES
from cluster.places import RunFolder
from cluster.progress import Progress
from cluster.spec import ClusterSpec
from cluster.tools import is_answering, link_tools

CREATE_PATIENCE = "180s"


class KindProvider:
    """See :class:`cluster.providers.Provider`."""

    def up(self, spec: ClusterSpec, run: RunFolder, builder: Builder, progress: Progress) -> None:
        check_docker()
        kind = find_kind(builder, progress)
        link_tools(run, builder)
        (run.programs / "kind").symlink_to(kind)
        config = run.path / "kind.yaml"
        config.write_text(yaml.safe_dump(build_kind_config(run.name)))
        with progress.step(f"Creating kind cluster {kind_name(run)}"):
            create = ["create", "cluster", f"--config={config}", f"--wait={CREATE_PATIENCE}"]
            run_kind(run, create, "kind could not create the cluster")

    def is_live(self, run: RunFolder) -> bool:
        return is_answering(run)

    def release(self, run: RunFolder) -> None:
        if (run.programs / "kind").exists():
            delete = ["delete", "cluster", f"--name={kind_name(run)}"]
            run_kind(run, delete, "kind could not delete the cluster")


def kind_name(run: RunFolder) -> str:
    return f"tandem-{run.name}"


def build_kind_config(name: str) -> dict[str, object]:
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": f"tandem-{name}",
        "nodes": [{"role": "control-plane"}],
    }


def check_docker() -> None:
    """Raise ClusterError unless a Docker engine answers."""
    if not shutil.which("docker"):
        raise ClusterError("provider kind needs Docker, and there is no docker command", instead_of_kind())
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError("the Docker engine does not answer", instead_of_kind()) from None
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise ClusterError(f"the Docker engine does not answer: {reason}", instead_of_kind())


def instead_of_kind() -> str:
    return "start Docker, or choose --provider source, which needs none"


def find_kind(builder: Builder, progress: Progress) -> Path:
    """kind on the PATH, else our own build."""
    if on_path := shutil.which("kind"):
        return Path(on_path)
    return build_family(builder, FAMILIES["kind"], progress) / "kind"


def run_kind(run: RunFolder, arguments: list[str], problem: str) -> None:
    """Run kind on this run's kubeconfig, output to its log. Raises ClusterError with ``problem``."""
    run.logs.mkdir(parents=True, exist_ok=True)
    command = [str(run.programs / "kind"), *arguments, f"--kubeconfig={run.kubeconfig('admin')}"]
    with run.log("kind").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ClusterError(problem, "read kind's log", run.log("kind"))

"""For kind, which pulls nothing that no registry has: build our images with Docker and load them into the cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.api import Cluster
from cluster.progress import Progress
from demo.errors import DemoError
from demo.installation import ROOT, VERSION

PLANES = ("operator", "router", "worker")
ENGINE = f"tandem.dev/engine-cpu:{VERSION}"
HELM_FLAGS = ("--set", f"images.engine.repository={ENGINE.split(':')[0]}", "--set", f"images.engine.tag={VERSION}")


def list_builds() -> Iterator[tuple[str, list[str]]]:
    """(image, arguments of `docker build`) of each image that the demo needs."""
    for plane in PLANES:
        yield f"tandem.dev/{plane}:{VERSION}", ["-f", "images/Dockerfile", "--build-arg", f"PLANE={plane}"]
    yield ENGINE, ["-f", "images/engine-cpu.Dockerfile"]


def load_images(cluster: Cluster, progress: Progress) -> None:
    """Build each image and copy it onto kind's node.

    Raises:
        DemoError: Docker or kind failed; with its last line.
    """
    kind = str(cluster.bin_dir / "kind")
    for image, arguments in list_builds():
        with progress.step(f"Building {image} and loading it into kind"):
            _run("docker", "build", "-q", "-t", image, *arguments, ".")
            _run(kind, "load", "docker-image", image, "--name", f"tandem-{cluster.name}")


def _run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DemoError(f"{Path(command[0]).name} {command[1]} failed: {last}", "mend what it names, then try again")

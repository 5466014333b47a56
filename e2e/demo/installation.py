"""Put Tandem into a cluster with Helm, and which image is which environment on a process node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.errors import DemoError

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.1.0"
ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"
RELEASE = "tandem"
CRDS_RELEASE = "tandem-crds"


@dataclass(frozen=True)
class Helm:
    """The helm binary, pointed at one cluster."""

    binary: Path
    kubeconfig: Path
    namespace: str

    def install(self, release: str, chart: Path, values: Path | None = None) -> None:
        """Install or upgrade a release and wait until it is ready.

        Raises:
            DemoError: with Helm's own last line.
        """
        extra = ["--values", str(values)] if values else []
        self._run("upgrade", "--install", release, str(chart), *extra, "--wait", "--timeout", "5m")

    def uninstall(self, release: str) -> None:
        """Remove a release; one that is not there is fine."""
        self._run("uninstall", release, "--ignore-not-found", "--wait", "--timeout", "2m")

    def _run(self, *words: str) -> None:
        command = [str(self.binary), *words, "--namespace", self.namespace, "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise DemoError(
                f"helm {words[0]} {words[-3] if words[0] != 'upgrade' else words[2]} failed: {last}",
                "read the pods' events with kubectl describe",
            )


def build_image_table(worker_python: Path) -> Mapping[str, Path]:
    """Image name → virtual environment, for the process node."""
    ours = Path(sys.prefix)
    table = {f"tandem.dev/{plane}:{VERSION}": ours for plane in ("operator", "router", "worker")}
    return {**table, ENGINE_IMAGE: worker_python.parent.parent}


def make_worker_environment() -> Path:
    """The python of vLLM for CPU, installed if it is not there yet.

    Raises:
        DemoError: the bootstrap failed; it has printed why.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "worker-cpu"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError("vLLM for CPU could not be installed", "see the line above, then run make demo again")
    return Path(done.stdout.strip())

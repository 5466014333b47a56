"""Provider ``existing``: somebody else's cluster, through the user's own KUBECONFIG. Never created or deleted."""

from __future__ import annotations

import json
import os
import subprocess

from cluster.build import Builder
from cluster.errors import ClusterError
from cluster.pki import write_secret
from cluster.places import RunFolder
from cluster.progress import Progress
from cluster.spec import ClusterSpec
from cluster.tools import is_answering, link_tools

FIX = "set KUBECONFIG (or --kubeconfig) to a file whose current context reaches a running cluster"


class ExistingProvider:
    """See :class:`cluster.providers.Provider`."""

    def up(self, spec: ClusterSpec, run: RunFolder, builder: Builder, progress: Progress) -> None:
        link_tools(run, builder)
        with progress.step("Checking the existing cluster") as step:
            write_secret(run.kubeconfig("admin"), fetch_current_context(spec, run))
            step.result = f"Kubernetes {fetch_version(run)}"

    def is_live(self, run: RunFolder) -> bool:
        return is_answering(run)

    def release(self, run: RunFolder) -> None:
        """Nothing to end: the cluster is not ours."""


def fetch_current_context(spec: ClusterSpec, run: RunFolder) -> bytes:
    """The chosen context alone, with file references resolved, so that a later change of context moves nothing."""
    environment = {**os.environ, **({"KUBECONFIG": str(spec.kubeconfig)} if spec.kubeconfig else {})}
    command = [str(run.programs / "kubectl"), "config", "view", "--minify", "--flatten", "--raw"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=20, check=False)
    if done.returncode:
        raise ClusterError(f"there is no usable kubeconfig: {last_line(done.stderr)}", FIX)
    return done.stdout


def fetch_version(run: RunFolder) -> str:
    """Ask the API server itself."""
    command = [str(run.programs / "kubectl"), f"--kubeconfig={run.kubeconfig('admin')}"]
    question = ["get", "--raw=/version", "--request-timeout=10s"]
    done = subprocess.run([*command, *question], capture_output=True, timeout=30, check=False)
    if done.returncode:
        raise ClusterError(f"the cluster does not answer: {last_line(done.stderr)}", FIX)
    return str(json.loads(done.stdout)["gitVersion"])


def last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]

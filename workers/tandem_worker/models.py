"""Where a model's files are: `hf://ORG/NAME`, `pvc://CLAIM/PATH` or `synthetic://tiny-llama`."""

from dataclasses import dataclass
from pathlib import Path

from tandem_api.conditions import Reason
from tandem_api.worker import ModelConfig
from tandem_worker.errors import WorkerError
from tandem_worker.tiny_model import SOURCE as TINY_SOURCE

HUB_SCHEME, VOLUME_SCHEME = "hf://", "pvc://"
TINY_MODEL_DIR_ENV = "TANDEM_TINY_MODEL_DIR"  # tells the engine's launcher to make the tiny model there first


@dataclass(frozen=True)
class ModelFiles:
    """What the engine is given as its model: a directory, or a repository that it fetches itself."""

    name_or_path: str
    revision: str | None = None
    is_local: bool = True
    is_tiny: bool = False


def locate_model(model: ModelConfig, data_dir: Path) -> ModelFiles:
    """Turn a source into files.

    Raises:
        WorkerError: ModelUnavailable, when a volume does not hold a model; InvalidSpec, for an unknown scheme.
    """
    if model.source == TINY_SOURCE:
        return ModelFiles(str(data_dir / "models" / "tiny-llama"), is_tiny=True)
    if model.source.startswith(HUB_SCHEME):
        return ModelFiles(model.source.removeprefix(HUB_SCHEME), model.revision, is_local=False)
    if model.source.startswith(VOLUME_SCHEME):
        return ModelFiles(str(_find_on_volume(model)))
    raise WorkerError(
        Reason.INVALID_SPEC,
        f"spec.model.source {model.source!r} is unknown: use hf://ORG/NAME, pvc://CLAIM/PATH or {TINY_SOURCE}",
    )


def _find_on_volume(model: ModelConfig) -> Path:
    if model.path is None:
        raise WorkerError(Reason.INVALID_SPEC, f"model.path is missing: {model.source} must be mounted somewhere")
    if not (Path(model.path) / "config.json").is_file():
        raise WorkerError(
            Reason.MODEL_UNAVAILABLE,
            f"{model.source} holds no config.json (looked in {model.path}): check spec.model.source and the volume",
        )
    return Path(model.path)

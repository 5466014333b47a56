"""Where weights are: those of the model, of a draft, of adapters.

`hf://ORG/NAME` is the engine's to fetch, `synthetic://tiny-llama` is made on the spot; whatever else (`pvc://`, `oci://`,
`s3://`) the pod has mounted or fetched before we start, at `path`.

Whatever is local is given to the engine as a path relative to the data directory, in which the engine runs: the path
is the model's identity in the KV handshake, and must be the same on every worker, however its volumes are mounted.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tandem_api.conditions import Reason
from tandem_api.worker import AdapterConfig, WeightsConfig, WorkerConfig
from tandem_worker.errors import WorkerError
from tandem_worker.tiny_model import SOURCE as TINY_SOURCE

HUB_SCHEME, MOUNTED_SCHEMES = "hf://", ("pvc://", "oci://", "s3://")
MODEL_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
TINY_MODEL_DIR_ENV = "TANDEM_TINY_MODEL_DIR"  # tells the engine's launcher to make the tiny model there first
MODELS = "models"


@dataclass(frozen=True)
class ModelFiles:
    """What the engine is given as weights: a repository that it fetches itself, or a path below the data directory.

    `mounted_at`: the directory to which that path must be linked first.
    """

    name_or_path: str
    revision: str | None = None
    is_local: bool = True
    is_tiny: bool = False
    mounted_at: Path | None = None


def locate_model(model: WeightsConfig, marker: str = MODEL_FILE) -> ModelFiles:
    """Turn a source into files.

    Args:
        model: the weights.
        marker: the file by which weights of this kind are known.

    Raises:
        WorkerError: ModelUnavailable, when a volume does not hold a model; InvalidSpec, for an unknown scheme.
    """
    if model.source == TINY_SOURCE:
        return ModelFiles(_local_path(model.source), is_tiny=True)
    if model.source.startswith(HUB_SCHEME):
        return ModelFiles(model.source.removeprefix(HUB_SCHEME), model.revision, is_local=False)
    if model.source.startswith(MOUNTED_SCHEMES):
        return ModelFiles(_local_path(model.source), mounted_at=_find_mounted(model, marker))
    raise WorkerError(
        Reason.INVALID_SPEC,
        f"the source {model.source!r} is unknown: use hf://ORG/NAME, pvc://CLAIM/PATH, oci://IMAGE#PATH, "
        f"s3://BUCKET/PREFIX or {TINY_SOURCE}",
    )


def name_weights(weights: WeightsConfig) -> str:
    """What the engine is told: a repository of the hub, or a path below the data directory."""
    return weights.source.removeprefix(HUB_SCHEME) if is_fetched(weights) else _local_path(weights.source)


def is_fetched(weights: WeightsConfig) -> bool:
    """Whether the engine fetches them itself."""
    return weights.source.startswith(HUB_SCHEME)


def list_companions(config: WorkerConfig) -> tuple[WeightsConfig, ...]:
    """Weights beside the model's own: those of a draft, and of adapters."""
    guess = config.engine.speculative
    return (*((guess.draft,) if guess and guess.draft else ()), *config.model.adapters)


def locate_all(config: WorkerConfig) -> tuple[ModelFiles, ...]:
    """Files of the model first, then of its companions.

    Raises:
        WorkerError: as `locate_model`.
    """
    return tuple(
        locate_model(weights, ADAPTER_FILE if isinstance(weights, AdapterConfig) else MODEL_FILE)
        for weights in (config.model, *list_companions(config))
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


def _find_mounted(model: WeightsConfig, marker: str) -> Path:
    if model.path is None:
        raise WorkerError(Reason.INVALID_SPEC, f"path is missing: {model.source} must be mounted somewhere")
    if not (Path(model.path) / marker).is_file():
        raise WorkerError(
            Reason.MODEL_UNAVAILABLE,
            f"{model.source} holds no {marker} (looked in {model.path}): check the source, and what it holds",
        )
    return Path(model.path)

"""The spec of a fleet → what one worker is told (`tandem_api.worker.WorkerConfig`)."""

import json
from typing import Any

from tandem_api.v1alpha1 import Engine, EngineSettings, InferenceDeploymentSpec, Parallelism
from tandem_api.worker import EngineConfig, KVTransferConfig, ModelConfig, WorkerConfig
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.quantities import parse_quantity
from tandem_operator.resources.names import fleet_id
from tandem_operator.resources.revisions import kv_revision, pool_of, worker_role

CLAIM_DIR = "/models"  # where a pvc:// source is mounted, read-only


def build_worker_config(fleet: Fleet, role: PoolRole) -> WorkerConfig:
    """Configuration of the workers of one pool."""
    spec = fleet.spec
    pool = pool_of(spec, role)
    handed_over = spec.prefill is not None
    return WorkerConfig(
        fleet=fleet_id(fleet.key),
        role=worker_role(spec, role),
        kv_revision=kv_revision(spec),
        model=_model(spec),
        engine=_engine(spec.engine, pool.engine_overrides, pool.parallelism),
        kv_transfer=KVTransferConfig(connector=spec.kv_transfer.connector) if handed_over else None,
        drain_timeout_s=float(spec.drain.timeout_seconds),
    )


def to_environment(config: WorkerConfig) -> str:
    """Canonical JSON: equal configurations give equal text, so that templates never differ by accident.

    A dollar sign is written as its escape: Kubernetes expands `$(NAME)` in the values of variables.
    """
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
    return text.replace("$", "\\u0024")


def model_source(spec: InferenceDeploymentSpec) -> str:
    """Source of the weights; without one, the model's name is a name on the hub."""
    return spec.model.source or f"hf://{spec.model.name}"


def claim_and_path(source: str) -> tuple[str, str] | None:
    """Claim name and directory inside the container of a `pvc://CLAIM/PATH` source; None for other sources."""
    if not source.startswith("pvc://"):
        return None
    claim, _, path = source.removeprefix("pvc://").partition("/")
    return claim, f"{CLAIM_DIR}/{path}".rstrip("/")


def _model(spec: InferenceDeploymentSpec) -> ModelConfig:
    source = model_source(spec)
    claim = claim_and_path(source)
    return ModelConfig(
        name=spec.model.name,
        served_name=spec.served_name,
        source=source,
        revision=spec.model.revision,
        path=claim[1] if claim else None,
    )


def _engine(engine: Engine, overrides: EngineSettings | None, parallelism: Parallelism) -> EngineConfig:
    cache = engine.kv_cache
    common: dict[str, Any] = {
        "type": engine.type,
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "kv_cache_dtype": cache.dtype if cache else None,
        "block_size": cache.block_size if cache else None,
        "gpu_memory_utilization": cache.gpu_memory_utilization if cache else None,
        "kv_cache_memory_bytes": int(parse_quantity(cache.memory)) if cache and cache.memory else None,
        "prefix_caching": engine.prefix_caching,
        "tensor_parallel": parallelism.tensor,
        "pipeline_parallel": parallelism.pipeline,
        "extra_args": (*engine.extra_args, *(overrides.extra_args if overrides else ())),
    }
    by_role = _settings(engine) | (_settings(overrides) if overrides else {})
    return EngineConfig(**common, **by_role)


def _settings(settings: EngineSettings) -> dict[str, Any]:
    """What a role may override, without what is not set."""
    batching = settings.batching
    values = {
        "max_num_seqs": batching.max_num_seqs if batching else None,
        "max_num_batched_tokens": batching.max_num_batched_tokens if batching else None,
        "chunked_prefill": batching.chunked_prefill if batching else None,
        "max_model_len": settings.max_model_len,
        "enforce_eager": settings.enforce_eager,
        "attention_backend": settings.attention_backend,
    }
    return {name: value for name, value in values.items() if value is not None}

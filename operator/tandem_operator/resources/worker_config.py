"""The spec of a fleet → what one worker is told (`tandem_api.worker.WorkerConfig`)."""

import json
from typing import Any

from tandem_api.v1alpha1 import Batching, EngineSettings, InferenceDeploymentSpec, KVMemory, Lora, Pool
from tandem_api.worker import (
    KV_TLS_DIR,
    AdapterConfig,
    EngineConfig,
    KVTransferConfig,
    ModelConfig,
    SpeculativeConfig,
    WeightsConfig,
    WorkerConfig,
)
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.quantities import parse_quantity
from tandem_operator.resources.names import fleet_id
from tandem_operator.resources.offload import build_offload_config, find_offload
from tandem_operator.resources.revisions import kv_revision, pool_of, worker_role
from tandem_operator.resources.weights import locate_weights, model_source


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
        engine=_engine(spec, pool),
        kv_transfer=_transfer(spec) if handed_over else None,
        drain_timeout_s=float(spec.drain.timeout_seconds),
    )


def to_environment(config: WorkerConfig) -> str:
    """Canonical JSON: equal configurations give equal text, so that templates never differ by accident.

    A dollar sign is written as its escape: Kubernetes expands `$(NAME)` in the values of variables.
    """
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
    return text.replace("$", "\\u0024")


def _transfer(spec: InferenceDeploymentSpec) -> KVTransferConfig:
    transfer = spec.kv_transfer
    return KVTransferConfig(connector=transfer.connector, tls_dir=KV_TLS_DIR if transfer.tls else None)


def _model(spec: InferenceDeploymentSpec) -> ModelConfig:
    return ModelConfig(
        name=spec.model.name,
        served_name=spec.served_name,
        adapters=tuple(
            AdapterConfig(name=adapter.name, source=adapter.source, path=locate_weights(spec, adapter.source))
            for adapter in spec.model.adapters
        ),
        **_weights(spec, model_source(spec), spec.model.revision).model_dump(),
    )


def _weights(spec: InferenceDeploymentSpec, source: str, revision: str | None) -> WeightsConfig:
    return WeightsConfig(source=source, revision=revision, path=locate_weights(spec, source))


def _speculative(spec: InferenceDeploymentSpec) -> SpeculativeConfig | None:
    guess = spec.engine.speculative
    if guess is None:
        return None
    return SpeculativeConfig(
        method=guess.method,
        tokens=guess.tokens,
        draft=_weights(spec, guess.source, guess.revision) if guess.source else None,
        prompt_lookup_min=guess.prompt_lookup_min,
        prompt_lookup_max=guess.prompt_lookup_max,
        draft_tensor_parallel=guess.draft_tensor,
    )


def _engine(spec: InferenceDeploymentSpec, pool: Pool) -> EngineConfig:
    engine, overrides, parallelism = spec.engine, pool.engine_overrides, pool.parallelism
    lora = engine.lora or Lora()
    common: dict[str, Any] = {
        "type": engine.type,
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "kv_cache_dtype": engine.kv_cache.dtype if engine.kv_cache else None,
        "block_size": engine.kv_cache.block_size if engine.kv_cache else None,
        "tensor_parallel": parallelism.tensor,
        "pipeline_parallel": parallelism.pipeline,
        "data_parallel": parallelism.data,
        "expert_parallel": parallelism.expert,
        "context_parallel": parallelism.context,
        "nodes": pool.nodes,
        "speculative": _speculative(spec),
        "lora_max_rank": lora.max_rank,
        "lora_max_in_batch": lora.max_in_batch,
        "lora_max_in_memory": lora.max_in_memory,
        "extra_args": (*engine.extra_args, *(overrides.extra_args if overrides else ())),
    }
    common["kv_offload"] = build_offload_config(find_offload(spec, pool))
    return EngineConfig(**common, **_settings(engine) | (_settings(overrides) if overrides else {}))


def _settings(settings: EngineSettings) -> dict[str, Any]:
    """What a role may override, without what is not set."""
    batching, memory = settings.batching or Batching(), settings.kv_cache or KVMemory()
    values = {
        "max_num_seqs": batching.max_num_seqs,
        "max_num_batched_tokens": batching.max_num_batched_tokens,
        "chunked_prefill": batching.chunked_prefill,
        "long_prefill_token_threshold": batching.long_prefill_token_threshold,
        "async_scheduling": batching.async_scheduling,
        "gpu_memory_utilization": memory.gpu_memory_utilization,
        "kv_cache_memory_bytes": int(parse_quantity(memory.memory)) if memory.memory else None,
        "prefix_caching": settings.prefix_caching,
        "max_model_len": settings.max_model_len,
        "enforce_eager": settings.enforce_eager,
        "attention_backend": settings.attention_backend,
    }
    return {name: value for name, value in values.items() if value is not None}

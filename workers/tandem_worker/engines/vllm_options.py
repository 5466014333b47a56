"""Typed engine settings become options of `vllm serve`. Pure.

Source: `vllm serve --help=all` of the pinned version; `tests/integration/worker/test_vllm_contract.py` gives every
option to that version's own parser.
"""

import json
from collections.abc import Sequence

from tandem_api.conditions import Reason
from tandem_api.engine_flags import find_flag_problem
from tandem_api.worker import EngineConfig, ModelConfig, Role, SpeculativeConfig
from tandem_worker.engines.engine import count_slots
from tandem_worker.errors import WorkerError
from tandem_worker.group import RENDEZVOUS_PORT, Place
from tandem_worker.models import name_weights

Arguments = list[str]

MODEL_FREE = "ngram"  # the speculation that keeps no KV: of use only where tokens are decoded


def engine_options(engine: EngineConfig) -> Arguments:
    """Options of dtypes, memory, batching and parallelism; what is not set is left to vLLM."""
    return [
        *option("--dtype", engine.dtype),
        *option("--quantization", engine.quantization),
        *option("--kv-cache-dtype", engine.kv_cache_dtype),
        *option("--block-size", engine.block_size),
        *option("--gpu-memory-utilization", engine.gpu_memory_utilization),
        *option("--kv-cache-memory-bytes", engine.kv_cache_memory_bytes),
        *switch("enable-prefix-caching", engine.prefix_caching),
        *("--max-num-seqs", str(count_slots(engine))),
        *option("--max-num-batched-tokens", engine.max_num_batched_tokens),
        *switch("enable-chunked-prefill", engine.chunked_prefill),
        *option("--long-prefill-token-threshold", engine.long_prefill_token_threshold),
        *switch("async-scheduling", engine.async_scheduling),
        *option("--max-model-len", engine.max_model_len),
        *switch("enforce-eager", engine.enforce_eager),
        *option("--attention-backend", engine.attention_backend),
        *_parallel_options(engine),
    ]


def _parallel_options(engine: EngineConfig) -> Arguments:
    return [
        *("--tensor-parallel-size", str(engine.tensor_parallel)),
        *("--pipeline-parallel-size", str(engine.pipeline_parallel)),
        *option("--data-parallel-size", _unless_one(engine.data_parallel)),
        *option("--decode-context-parallel-size", _unless_one(engine.context_parallel)),
        *switch("enable-expert-parallel", engine.expert_parallel or None),
    ]


def speculative_options(engine: EngineConfig, role: Role) -> Arguments:
    """`--speculative-config`. A prefill worker makes one token only: it guesses nothing, but fills a draft's KV."""
    guess = engine.speculative
    if guess is None or (role is Role.PREFILL and guess.method == MODEL_FREE):
        return []
    return ["--speculative-config", json.dumps(_speculative_config(guess))]


def _speculative_config(guess: SpeculativeConfig) -> dict[str, object]:
    fields = {
        "method": guess.method,
        "num_speculative_tokens": guess.tokens,
        "model": name_weights(guess.draft) if guess.draft else None,
        "revision": guess.draft.revision if guess.draft else None,
        "prompt_lookup_min": guess.prompt_lookup_min,
        "prompt_lookup_max": guess.prompt_lookup_max,
        "draft_tensor_parallel_size": guess.draft_tensor_parallel,
    }
    return {name: value for name, value in fields.items() if value is not None}


def adapter_options(engine: EngineConfig, model: ModelConfig) -> Arguments:
    """LoRA: room, and the adapters by name. The list of modules is open-ended: another option must follow it."""
    if not model.adapters:
        return []
    return [
        "--enable-lora",
        *option("--max-lora-rank", engine.lora_max_rank),
        *option("--max-loras", engine.lora_max_in_batch),
        *option("--max-cpu-loras", engine.lora_max_in_memory),
        *("--lora-modules", *(f"{adapter.name}={name_weights(adapter)}" for adapter in model.adapters)),
    ]


def group_options(place: Place | None) -> Arguments:
    """The place of this pod in a worker that spans nodes: only the first serves HTTP."""
    if place is None:
        return []
    return [
        *("--distributed-executor-backend", "mp"),
        *("--nnodes", str(place.nodes), "--node-rank", str(place.index)),
        *("--master-addr", place.leader, "--master-port", str(RENDEZVOUS_PORT)),
        *([] if place.leads else ["--headless"]),
    ]


def check_extra_arguments(arguments: Sequence[str]) -> Sequence[str]:
    """Returns `arguments` unless one of them is Tandem's to set.

    Raises:
        WorkerError: InvalidSpec, naming the argument and the field to use.
    """
    if problem := find_flag_problem(arguments):
        raise WorkerError(Reason.INVALID_SPEC, f"spec.engine.extraArgs: {problem}")
    return arguments


def count_ranks(engine: EngineConfig) -> int:
    """Processes that compute."""
    return engine.tensor_parallel * engine.pipeline_parallel * engine.data_parallel


def option(name: str, value: object | None) -> Arguments:
    """`name value`, or nothing where there is no value."""
    return [] if value is None else [name, str(value)]


def switch(name: str, value: bool | None) -> Arguments:
    """`--name` or `--no-name`, or nothing where the engine shall choose."""
    return [] if value is None else [f"--{name}" if value else f"--no-{name}"]


def _unless_one(size: int) -> int | None:
    return size if size != 1 else None

"""The inference engine: one typed field for each setting that matters."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.engine_flags import cel_pattern
from tandem_api.schema import ImageName, Quantity, Resource, cel
from tandem_api.v1alpha1.speculative import Lora, Speculative

Quantization = Literal[
    "awq",
    "auto_awq",
    "awq_marlin",
    "gptq",
    "auto_gptq",
    "gptq_marlin",
    "compressed-tensors",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "fp8",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "mxfp4",
    "gpt_oss_mxfp4",
    "mxfp8",
    "nvfp4_per_token",
    "deepseek_v4_fp8",
    "int8_per_channel_weight_only",
    "experts_int8",
    "moe_wna16",
    "quark",
    "torchao",
    "inc",
    "humming",
    "online",
]
KVDtype = Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4"]


class KVOffload(Resource):
    """A second place for KV: what leaves the GPU goes there, and comes back instead of being computed again.

    Prompts only. Beside a transfer, what a prefill worker holds is asked for first.
    """

    memory: Annotated[Quantity, Field(description="Host memory for it, per worker; part of resources.memory.")]
    disk: Annotated[
        Quantity | None,
        Field(description="Below it, room on the node's own disk, per worker. What was longest unused goes first."),
    ] = None


class KVMemory(Resource):
    """Room for KV cache. A role may have its own."""

    gpu_memory_utilization: Annotated[
        float | None, Field(gt=0, le=1, description="Share of GPU memory that the engine may use.")
    ] = None
    memory: Annotated[Quantity | None, Field(description="KV cache size per GPU; overrides gpuMemoryUtilization.")] = (
        None
    )
    offload: KVOffload | None = None


class KVCache(KVMemory):
    """KV cache of each worker. dtype and blockSize are part of the kv-revision."""

    dtype: Annotated[KVDtype | None, Field(description="Element type.")] = None
    block_size: Annotated[
        Literal[8, 16, 32, 64, 128] | None, Field(description="Tokens per block. Both roles share it.")
    ] = None


class Batching(Resource):
    """Continuous-batching limits."""

    max_num_seqs: Annotated[int | None, Field(ge=1, le=8192, description="Sequences in one batch.")] = None
    max_num_batched_tokens: Annotated[
        int | None, Field(ge=1, le=1_048_576, description="Tokens in one engine step.")
    ] = None
    chunked_prefill: Annotated[bool | None, Field(description="Cut long prompts, so that decoding goes on.")] = None
    long_prefill_token_threshold: Annotated[
        int | None, Field(ge=1, le=16_777_216, description="A prompt longer than this counts as long, tokens.")
    ] = None
    async_scheduling: Annotated[bool | None, Field(description="Plan the next step while this one runs.")] = None


class EngineSettings(Resource):
    """Settings that a role may override."""

    batching: Batching | None = None
    kv_cache: KVMemory | None = None
    prefix_caching: bool | None = None
    max_model_len: Annotated[int | None, Field(ge=1, le=16_777_216, description="Longest sequence, tokens.")] = None
    enforce_eager: Annotated[bool | None, Field(description="Run without graph capture.")] = None
    attention_backend: Annotated[
        str | None,
        Field(max_length=63, pattern=r"^[A-Z][A-Z0-9_]*$", description="vLLM's name, as FLASH_ATTN or FLASHINFER."),
    ] = None
    extra_args: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=512)]],
        Field(
            max_length=64,
            description="Engine arguments that have no field. Cannot override what Tandem owns.",
        ),
    ] = []

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.extraArgs) || self.extraArgs.all(a, !a.matches('{cel_pattern()}'))",
                    "extraArgs may not set what Tandem owns (ports, keys, model, parallelism, KV transfer, dtypes): "
                    "use the typed field instead",
                )
            ]
        }
    )


class EnginePerformance(Resource):
    """Speed of one worker, where no shipped profile fits (docs/autoscaling.md).

    Prefill of n new and h cached tokens takes p0 · steps + p1 · n + p2 · (n² + 2 n h) milliseconds; a decode step of b
    sequences with K tokens of KV takes d0 + d1 · b + d2 · K.
    """

    p0_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    p1_ms: Annotated[float, Field(gt=0, le=1000)]
    p2_ms: Annotated[float, Field(ge=0, le=1)] = 0.0
    d0_ms: Annotated[float, Field(gt=0, le=60_000)]
    d1_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    d2_ms: Annotated[float, Field(ge=0, le=1)] = 0.0
    kv_capacity_tokens: Annotated[
        int, Field(ge=16, le=2_000_000_000, description="Tokens of KV cache of one worker, over all its GPUs.")
    ]


class Engine(EngineSettings):
    """The inference engine, common to both roles."""

    type: Annotated[
        Literal["vllm", "sim"],
        Field(description="vllm, or sim: the same HTTP surface with modelled time and no GPU, for tests and planning."),
    ] = "vllm"
    image: Annotated[
        ImageName | None,
        Field(description="Engine image. Default: the vLLM image that this release is tested with."),
    ] = None
    worker_image: Annotated[
        ImageName | None, Field(description="Image that brings tandem-worker into the engine's pod.")
    ] = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    quantization: Annotated[
        Quantization | None, Field(description="Of the weights. Default: as the model's own configuration says.")
    ] = None
    kv_cache: KVCache | None = None
    speculative: Speculative | None = None
    lora: Lora | None = None
    performance_profile: Annotated[
        str | None,
        Field(
            max_length=63,
            pattern=r"^[a-z0-9.-]+$",
            description="Shipped speed of a worker, such as 70b-h100-tp4. For scaling and planning; changes no worker.",
        ),
    ] = None
    performance_model: EnginePerformance | None = None

"""The inference engine: one typed field for each setting that matters."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import ImageName, Quantity, Resource, cel


class KVCache(Resource):
    """KV cache of each worker. Part of the kv-revision."""

    dtype: Annotated[Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] | None, Field(description="Element type.")] = None
    block_size: Annotated[
        Literal[8, 16, 32, 64, 128] | None, Field(description="Tokens per block. Both roles share it.")
    ] = None
    gpu_memory_utilization: Annotated[
        float | None, Field(gt=0, le=1, description="Share of GPU memory that the engine may use.")
    ] = None
    memory: Annotated[Quantity | None, Field(description="KV cache size per GPU; overrides gpuMemoryUtilization.")] = (
        None
    )


class Batching(Resource):
    """Continuous-batching limits."""

    max_num_seqs: Annotated[int | None, Field(ge=1, le=8192, description="Sequences in one batch.")] = None
    max_num_batched_tokens: Annotated[
        int | None, Field(ge=1, le=1_048_576, description="Tokens in one engine step.")
    ] = None
    chunked_prefill: bool | None = None


class EngineSettings(Resource):
    """Settings that a role may override."""

    batching: Batching | None = None
    max_model_len: Annotated[int | None, Field(ge=1, le=16_777_216, description="Longest sequence, tokens.")] = None
    enforce_eager: Annotated[bool | None, Field(description="Run without graph capture.")] = None
    attention_backend: Annotated[str | None, Field(max_length=63, pattern=r"^[A-Z0-9_]+$")] = None
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
                    "!has(self.extraArgs) || self.extraArgs.all(a, !a.matches('^--?(kv[-_]transfer|host|port|uds"
                    "|api[-_]key|served[-_]model[-_]name|model|middleware|ssl|root[-_]path|data[-_]parallel|tensor[-_]parallel"
                    "|pipeline[-_]parallel|block[-_]size|kv[-_]cache|quantization|dtype|config|tp|pp|dp|q)([-_=].*)?$'))",
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
    quantization: Annotated[str | None, Field(max_length=63, pattern=r"^[a-z0-9_-]+$")] = None
    kv_cache: KVCache | None = None
    prefix_caching: bool | None = None
    performance_profile: Annotated[
        str | None,
        Field(
            max_length=63,
            pattern=r"^[a-z0-9.-]+$",
            description="Shipped speed of a worker, such as 70b-h100-tp4. For scaling and planning; changes no worker.",
        ),
    ] = None
    performance_model: EnginePerformance | None = None

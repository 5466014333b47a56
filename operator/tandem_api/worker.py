"""What the operator tells a worker, and what a worker says of itself.

The operator puts `WorkerConfig` as JSON into the environment variable `TANDEM_WORKER`; with `POD_IP` (downward
API) that is all a worker knows of its cluster.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem_api import labels

CONFIG_ENV = "TANDEM_WORKER"
KEYS_DIR = "/etc/tandem/keys"
CODE_DIR = "/opt/tandem"  # where the init container puts our code, and PYTHONPATH of the engine's container
MODEL_DIR = "/var/lib/tandem/model"  # caches and models made or fetched on the spot
LOADS_REMEMBERED = 256
OFFLOAD_DIR = "/var/lib/tandem/kv"  # where offloaded KV lies on disk
KV_TLS_DIR = "/etc/tandem/kv-tls"
RUN_DIR = "/run/tandem"  # unix sockets between the supervisor and the connector


class Role(StrEnum):
    """What the workers of a pool do; `mixed` serves both phases."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class WeightsConfig(_Message):
    """Weights: `source` as in the custom resource; `path`, where the pod finds what does not come from the hub."""

    source: str
    revision: str | None = None
    path: str | None = None


class AdapterConfig(WeightsConfig):
    """A LoRA adapter, and the name that clients ask for."""

    name: str


class ModelConfig(WeightsConfig):
    """Which model, from where, and the adapters served beside it."""

    name: str
    served_name: str
    adapters: tuple[AdapterConfig, ...] = ()


class SpeculativeConfig(_Message):
    """How tokens are guessed. `draft`: the weights of the guesser, where it has any."""

    method: str
    tokens: int
    draft: WeightsConfig | None = None
    prompt_lookup_min: int | None = None
    prompt_lookup_max: int | None = None
    draft_tensor_parallel: int | None = None


class KVOffloadConfig(_Message):
    """KV that the engine's cache has no room for: kept in host memory, and below it on disk when there is a directory.

    Sizes are of the whole worker.
    """

    memory_bytes: int
    disk_dir: str | None = None
    disk_bytes: int | None = None


class EngineConfig(_Message):
    """Typed engine settings common to both roles, merged with those of the role. None means the engine's default."""

    type: Literal["vllm", "sim"] = "vllm"
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    kv_offload: KVOffloadConfig | None = None
    prefix_caching: bool | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    chunked_prefill: bool | None = None
    long_prefill_token_threshold: int | None = None
    async_scheduling: bool | None = None
    max_model_len: int | None = None
    enforce_eager: bool | None = None
    attention_backend: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: bool = False
    context_parallel: int = 1
    nodes: int = 1  # pods of one worker; each holds an equal part of the ranks
    speculative: SpeculativeConfig | None = None
    lora_max_rank: int | None = None
    lora_max_in_batch: int | None = None
    lora_max_in_memory: int | None = None
    extra_args: tuple[str, ...] = ()


class KVTransferConfig(_Message):
    """How KV leaves and enters this worker. None of it is secret."""

    connector: Literal["tcp", "nccl", "nixl"] = "tcp"
    lease_s: float = 30.0
    tls_dir: str | None = None  # holds tls.crt, tls.key and ca.crt; None: KV moves in clear


class WorkerConfig(_Message):
    """All that a worker is told at start."""

    fleet: str = Field(description="namespace/name of the InferenceDeployment")
    role: Role
    kv_revision: str
    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    kv_transfer: KVTransferConfig | None = None  # None: a mixed pool, nothing to hand over
    drain_timeout_s: float = 600.0
    http_port: int = labels.HTTP_PORT
    admin_port: int = labels.ADMIN_PORT
    kv_port: int = labels.KV_BASE_PORT


class KVCounters(_Message):
    """Totals since the worker started, summed over its ranks."""

    transfers: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    transfer_seconds: float = 0.0
    failures: int = 0
    recomputed_tokens: int = 0
    remote_tokens: int = 0


class KVLoad(_Message):
    """What became of one request's KV on its way to this decode worker: the proof that an edge moves KV, or does not.

    Bytes are summed over the ranks; tokens that did not come were computed again.
    """

    prefill: str = Field(description="address of the prefill worker")
    bytes_received: int = 0
    remote_tokens: int = 0
    recomputed_tokens: int = 0


class WorkerState(_Message):
    """Answer of `GET /tandem/v1/state` on the admin port, at most 1 KB: what the control loops read.

    `?load=ID` asks for one load besides, by the `remote_request_id` of its kv_transfer_params. A worker remembers the
    last LOADS_REMEMBERED of them.
    """

    fleet: str
    role: Role
    kv_revision: str
    instance: str = Field(description="new at each start of the engine")
    ready: bool
    draining: bool
    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_usage: float = Field(default=0.0, description="share of KV blocks in use, 0 to 1")
    leases: int = 0
    kv: KVCounters = KVCounters()
    circuits_open: tuple[str, ...] = Field(
        default=(), description="addresses of prefill workers that this one tries no more for a while; the first few"
    )
    kv_fallback: str | None = Field(
        default=None, description="why KV does not move over the connector that was asked for, as a bounded name"
    )
    load: KVLoad | None = Field(default=None, description="the load that was asked for; None: not here, or forgotten")

"""Custom resources of `tandem.dev/v1alpha1`: the only source of `crds/`, of the chart's copy and of the reference.

What admission can know to be wrong is refused here by CEL, with a message that names the field and the fix.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import (
    Count,
    ImageName,
    LongText,
    Name,
    Quantity,
    Resource,
    ShortText,
    cel,
)

MAX_NAME_LENGTH = 40


class SecretKey(Resource):
    """One key of a Secret in the same namespace."""

    name: Annotated[Name, Field(description="Name of the Secret.")]
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "token"


class Model(Resource):
    """Which model the fleet serves, and where its weights come from."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="Model name as its publisher writes it.")]
    served_name: Annotated[
        str | None,
        Field(min_length=1, max_length=253, description="Name that clients ask for. Default: name."),
    ] = None
    source: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern=r"^(hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+|pvc://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._/-]*)?|synthetic://tiny-llama)$",
            description="hf://ORG/NAME (default: hf:// and name), pvc://CLAIM/PATH, or synthetic://tiny-llama, a "
            "small random model made on the spot for demos and tests.",
        ),
    ] = None
    revision: Annotated[ShortText | None, Field(description="Revision of the weights, hf:// only.")] = None
    token_secret: Annotated[
        SecretKey | None, Field(description="Secret with the access token of a gated hf:// model.")
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.source) || self.name.matches('^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$')",
                    "model.source is missing and model.name is not ORG/NAME: set model.source to hf://ORG/NAME or pvc://CLAIM/PATH",
                ),
                cel(
                    "!has(self.source) || !self.source.contains('..')",
                    "model.source may not contain '..': give the path from the root of the claim",
                ),
                cel(
                    "!has(self.revision) || !has(self.source) || self.source.startsWith('hf://')",
                    "model.revision goes with hf:// sources only: remove it",
                ),
            ]
        }
    )


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
                    "!has(self.extraArgs) || self.extraArgs.all(a, !a.matches('^--?(kv[-_]transfer|host|port|uds|api[-_]key"
                    "|served[-_]model[-_]name|model|middleware|ssl|root[-_]path|data[-_]parallel|tensor[-_]parallel"
                    "|pipeline[-_]parallel|block[-_]size|kv[-_]cache|quantization|dtype|config|tp|pp|dp|q)([-_=].*)?$'))",
                    "extraArgs may not set what Tandem owns (ports, keys, model, parallelism, KV transfer, dtypes): "
                    "use the typed field instead",
                )
            ]
        }
    )


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


class Parallelism(Resource):
    """How one worker spreads over GPUs."""

    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    pipeline: Annotated[int, Field(ge=1, le=64)] = 1


class Resources(Resource):
    """Compute of one worker."""

    gpu: Annotated[int | None, Field(ge=0, le=64, description="GPUs. Default: tensor × pipeline (0 for sim).")] = None
    gpu_resource: Annotated[
        str,
        Field(
            max_length=253,
            pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
            description="Extended resource of a GPU.",
        ),
    ] = "nvidia.com/gpu"
    cpu: Quantity | None = None
    memory: Quantity | None = None
    shared_memory: Annotated[Quantity, Field(description="Size limit of /dev/shm.")] = "2Gi"


class Toleration(Resource):
    """As in a Pod."""

    key: Annotated[str | None, Field(max_length=317)] = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str | None, Field(max_length=63)] = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int | None, Field(ge=0, le=2_147_483_647)] = None


class LocalObjectReference(Resource):
    """Name of an object in the same namespace."""

    name: Name


class PodTemplate(Resource):
    """The part of a worker's pod that a user may shape. Everything else is Tandem's."""

    labels: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    annotations: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    node_selector: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    priority_class_name: Name | None = None
    runtime_class_name: Name | None = None
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8)] = []

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.{field}) || self.{field}.all(k, !k.startsWith('tandem.dev/')"
                    " && !k.startsWith('app.kubernetes.io/'))",
                    f"podTemplate.{field} may not use the prefixes tandem.dev/ and app.kubernetes.io/: choose another key",
                )
                for field in ("labels", "annotations")
            ]
        }
    )


class Pool(Resource):
    """The workers of one role."""

    replicas: Annotated[
        int, Field(ge=0, le=10_000, description="Workers in mode Fixed; size at birth in mode External.")
    ] = 1
    resources: Resources = Resources()
    parallelism: Parallelism = Parallelism()
    engine_overrides: EngineSettings | None = None
    pod_template: PodTemplate | None = None


class KVTransfer(Resource):
    """How KV cache moves from prefill to decode workers."""

    connector: Literal["tcp", "nccl", "nixl"] = "tcp"
    on_prefill_failure: Annotated[
        Literal["Retry", "Local", "Fail"],
        Field(description="When a prefill worker fails: Retry elsewhere then Local; Local prefill; or Fail."),
    ] = "Retry"

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.connector) || self.connector == 'tcp'",
                    "kvTransfer.connector: only tcp is available in this release; set tcp",
                )
            ]
        }
    )


class Objective(Resource):
    """A latency objective as the client of the router sees it."""

    percentile: Literal["p50", "p90", "p95", "p99"] = "p95"
    seconds: Annotated[float, Field(gt=0, le=3600)]


class Objectives(Resource):
    """Latency objectives of the fleet."""

    ttft: Annotated[Objective | None, Field(description="Time to first token.")] = None
    tpot: Annotated[Objective | None, Field(description="Time per output token after the first.")] = None


class Autoscaling(Resource):
    """Who decides the size of the pools."""

    mode: Annotated[
        Literal["Fixed", "External", "Objectives"],
        Field(description="Fixed: spec.*.replicas. External: whoever writes WorkerPool/scale (HPA, kubectl scale)."),
    ] = "Fixed"

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.mode) || self.mode != 'Objectives'",
                    "autoscaling.mode Objectives is not available in this release; use Fixed, or External with an HPA on the WorkerPools",
                )
            ]
        }
    )


class Rollout(Resource):
    """How a change of the pod template reaches the workers."""

    strategy: Annotated[
        Literal["Surge", "Recreate"],
        Field(description="Surge: new workers serve before old ones go. Recreate: old ones go first (no spare GPUs)."),
    ] = "Surge"
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=86_400)] = 1800
    paused: bool = False


class Routing(Resource):
    """Limits that the router applies to each request."""

    queue_timeout_seconds: Annotated[float | None, Field(ge=0, le=3600)] = None
    request_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1800.0


class Drain(Resource):
    """How long a worker that is told to stop may finish its streams."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600


class InferenceDeploymentSpec(Resource):
    """One fleet: a decode pool, and a prefill pool that may be left out (then decode serves both phases)."""

    model: Model
    engine: Engine = Engine()
    prefill: Pool | None = None
    decode: Pool
    kv_transfer: KVTransfer = KVTransfer()
    objectives: Objectives | None = None
    autoscaling: Autoscaling = Autoscaling()
    rollout: Rollout = Rollout()
    routing: Routing = Routing()
    drain: Drain = Drain()

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.prefill) || self.prefill.parallelism.tensor == self.decode.parallelism.tensor",
                    "spec.prefill.parallelism.tensor and spec.decode.parallelism.tensor must be equal in this release: "
                    "set both to the same number",
                ),
                cel(
                    "!has(self.prefill) || self.prefill.parallelism.pipeline == 1",
                    "spec.prefill.parallelism.pipeline must be 1 when KV is handed over: use tensor parallelism",
                ),
                cel(
                    "!has(self.prefill) || self.decode.parallelism.pipeline == 1",
                    "spec.decode.parallelism.pipeline must be 1 when KV is handed over: use tensor parallelism",
                ),
            ]
        }
    )

    @property
    def served_name(self) -> str:
        """The name that clients ask for."""
        return self.model.served_name or self.model.name


class Condition(Resource):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: int | None = None
    last_transition_time: Annotated[str, Field(max_length=64)]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=4096)]


class PoolStatus(Resource):
    """Workers of one role, counted."""

    role: Annotated[str, Field(max_length=16)]
    desired: Count = 0
    ready: Count = 0
    updated: Annotated[int, Field(ge=0, description="Workers of the newest template.")] = 0
    template_revision: Annotated[str | None, Field(max_length=63)] = None


class RevisionStatus(Resource):
    """One kv-revision that has workers."""

    kv_revision: Annotated[str, Field(max_length=63)]
    traffic_percent: Annotated[int, Field(ge=0, le=100)]
    phase: Annotated[str, Field(max_length=32)]


class KVStatus(Resource):
    """KV moved by this fleet, as its routers saw it at the last change of state."""

    transferred: bool = False
    failures: int = 0


class InferenceDeploymentStatus(Resource):
    """What the operator reports."""

    observed_generation: int | None = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=32,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    endpoint: Annotated[str | None, Field(max_length=1024)] = None
    kv_revision: Annotated[str | None, Field(max_length=63)] = None
    pools: Annotated[
        list[PoolStatus],
        Field(
            max_length=4,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["role"]},
        ),
    ] = []
    revisions: Annotated[
        list[RevisionStatus],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["kvRevision"]},
        ),
    ] = []
    ready_text: Annotated[
        str | None,
        Field(max_length=64, description="Ready of desired workers, prefill/decode, for printing."),
    ] = None


class InferenceDeployment(Resource):
    """A disaggregated inference fleet: the user's object. The operator never writes its spec."""

    api_version: Literal["tandem.dev/v1alpha1"] = "tandem.dev/v1alpha1"
    kind: Literal["InferenceDeployment"] = "InferenceDeployment"
    metadata: dict[str, Any] = {}
    spec: InferenceDeploymentSpec
    status: InferenceDeploymentStatus | None = None


class WorkerPoolSpec(Resource):
    """Size of one pool. `replicas` has no default: it is set once at creation, then only through /scale."""

    replicas: Annotated[int | None, Field(ge=0, le=10_000)] = None
    fleet: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    role: Literal["prefill", "decode"]


class WorkerPoolStatus(Resource):
    """Observed size, and what the scale subresource needs."""

    observed_generation: int | None = None
    replicas: Count = 0
    ready_replicas: Count = 0
    selector: Annotated[str, Field(max_length=1024)] = ""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []


class WorkerPool(Resource):
    """The workers of one role of a fleet. Made by the operator; its size may be another's to decide."""

    api_version: Literal["tandem.dev/v1alpha1"] = "tandem.dev/v1alpha1"
    kind: Literal["WorkerPool"] = "WorkerPool"
    metadata: dict[str, Any] = {}
    spec: WorkerPoolSpec
    status: WorkerPoolStatus | None = None

"""Condition types and reasons, kstatus-compatible, so that `kubectl wait`, Helm, Flux and Argo CD understand them."""

from enum import StrEnum


class ConditionType(StrEnum):
    """Types in `status.conditions` of an InferenceDeployment."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    PREFILL_READY = "PrefillReady"
    DECODE_READY = "DecodeReady"
    ROUTER_READY = "RouterReady"
    KV_TRANSFER_READY = "KVTransferReady"
    DISAGGREGATION_EFFECTIVE = "DisaggregationEffective"
    OBJECTIVES_MET = "ObjectivesMet"
    AUTOSCALER_ACTIVE = "AutoscalerActive"


class RegionConditionType(StrEnum):
    """Types in `status.conditions` of an InferenceRegion."""

    REACHABLE = "Reachable"


class Reason(StrEnum):
    """Stable CamelCase reasons; people write alerts against them."""

    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    SETTLED = "Settled"
    SCALED_TO_ZERO = "ScaledToZero"
    NOT_IN_THIS_REGION = "NotInThisRegion"
    THIS_REGION = "ThisRegion"
    CONNECTED = "Connected"
    DRAINED = "Drained"
    NO_URL = "NoURL"
    SILENT = "Silent"
    NOT_CONFIGURED = "NotConfigured"
    POOL_STARTING = "PoolStarting"
    POOL_UNAVAILABLE = "PoolUnavailable"
    INVALID_SPEC = "InvalidSpec"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a secret
    VOLUME_UNAVAILABLE = "VolumeUnavailable"
    INSUFFICIENT_GPU = "InsufficientGPU"
    UNSCHEDULABLE = "Unschedulable"
    CONFIG_INVALID = "ConfigInvalid"
    WORKER_CRASHING = "WorkerCrashing"
    POD_REJECTED = "PodRejected"
    LEADER_WORKER_SET_MISSING = "LeaderWorkerSetMissing"
    NAME_TAKEN = "NameTaken"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PAUSED = "Paused"
    ROLLED_BACK = "RolledBack"
    ROLLOUT_BLOCKED = "RolloutBlocked"
    ROUTER_LISTS_GENERATION = "RouterListsGeneration"
    ROUTER_BEHIND = "RouterBehind"
    ROUTER_UNREACHABLE = "RouterUnreachable"
    MODEL_NAME_CONFLICT = "ModelNameConflict"
    KV_MOVED = "KVMoved"
    KV_FELL_BACK = "KVFellBack"
    KV_UNTESTED = "KVUntested"
    KV_FAILING = "KVFailing"
    KV_INCOMPATIBLE = "KVIncompatible"
    REMOTE_PREFILL_SEEN = "RemotePrefillSeen"
    LOCAL_PREFILL_ONLY = "LocalPrefillOnly"
    AGGREGATED = "Aggregated"
    NOT_MEASURED = "NotMeasured"
    OBJECTIVES_MET = "WithinObjectives"
    OBJECTIVES_MISSED = "ObjectivesMissed"
    DECIDING = "Deciding"
    ADVISORY = "Advisory"
    NO_DATA = "NoData"
    STALE_DATA = "StaleData"
    DATA_FROM_THE_FUTURE = "DataFromTheFuture"
    BAD_DATA = "BadData"
    BAD_CLOCK = "BadClock"
    CLOCK_WENT_BACK = "ClockWentBack"
    FIXED = "Fixed"
    EXTERNAL = "External"


class Status(StrEnum):
    """The three values that a condition may hold."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"

"""Custom resources of `tandem.dev/v1alpha1`: the only source of `crds/`, of the chart's copy and of the reference.

What admission can know to be wrong is refused here by CEL, with a message that names the field and the fix.
"""

from tandem_api.v1alpha1.autoscaling import (
    Autoscaling,
    Objective,
    Objectives,
    RatioBounds,
    Schedule,
    TtftObjective,
)
from tandem_api.v1alpha1.engine import (
    Batching,
    Engine,
    EnginePerformance,
    EngineSettings,
    KVCache,
    KVMemory,
    KVOffload,
)
from tandem_api.v1alpha1.inference_deployment import InferenceDeployment, InferenceDeploymentSpec
from tandem_api.v1alpha1.inference_region import InferenceRegion, InferenceRegionSpec, InferenceRegionStatus
from tandem_api.v1alpha1.model import Model
from tandem_api.v1alpha1.pod_template import LocalObjectReference, PodTemplate, ResourceClaim, Variable
from tandem_api.v1alpha1.policies import Drain, KVTransfer, KVTransferTLS, Routing
from tandem_api.v1alpha1.pool import Parallelism, Pool, Resources
from tandem_api.v1alpha1.region_slice import RegionPool, RegionSlice
from tandem_api.v1alpha1.rollout import Rollout, RolloutStep
from tandem_api.v1alpha1.rollout_status import Rejection, RolloutStatus, StartupStatus
from tandem_api.v1alpha1.scaling_status import (
    AutoscalerMemoryStatus,
    DecisionStatus,
    HoldStatus,
    LatencyStatus,
    ObjectivesStatus,
    PoolDecisionStatus,
    PoolMemoryStatus,
    RegionDemandStatus,
    RegionLoad,
)
from tandem_api.v1alpha1.scheduling import Affinity, LabelSelector, Locality, Toleration, TopologySpreadConstraint
from tandem_api.v1alpha1.sources import Adapter, ModelCache, ObjectStore, SecretKey
from tandem_api.v1alpha1.speculative import Lora, Speculative
from tandem_api.v1alpha1.status import Condition, InferenceDeploymentStatus, PoolStatus, RevisionStatus
from tandem_api.v1alpha1.worker_pool import MAX_NAME_LENGTH, WorkerPool, WorkerPoolSpec, WorkerPoolStatus

__all__ = [
    "MAX_NAME_LENGTH",
    "Adapter",
    "Affinity",
    "AutoscalerMemoryStatus",
    "Autoscaling",
    "Batching",
    "Condition",
    "DecisionStatus",
    "Drain",
    "Engine",
    "EnginePerformance",
    "EngineSettings",
    "HoldStatus",
    "InferenceDeployment",
    "InferenceDeploymentSpec",
    "InferenceDeploymentStatus",
    "InferenceRegion",
    "InferenceRegionSpec",
    "InferenceRegionStatus",
    "KVCache",
    "KVMemory",
    "KVOffload",
    "KVTransfer",
    "KVTransferTLS",
    "LabelSelector",
    "LatencyStatus",
    "LocalObjectReference",
    "Locality",
    "Lora",
    "Model",
    "ModelCache",
    "ObjectStore",
    "Objective",
    "Objectives",
    "ObjectivesStatus",
    "Parallelism",
    "PodTemplate",
    "Pool",
    "PoolDecisionStatus",
    "PoolMemoryStatus",
    "PoolStatus",
    "RatioBounds",
    "RegionDemandStatus",
    "RegionLoad",
    "RegionPool",
    "RegionSlice",
    "Rejection",
    "ResourceClaim",
    "Resources",
    "RevisionStatus",
    "Rollout",
    "RolloutStatus",
    "RolloutStep",
    "Routing",
    "Schedule",
    "SecretKey",
    "Speculative",
    "StartupStatus",
    "Toleration",
    "TopologySpreadConstraint",
    "TtftObjective",
    "Variable",
    "WorkerPool",
    "WorkerPoolSpec",
    "WorkerPoolStatus",
]

"""What the operator reports."""

from typing import Annotated, Literal

from pydantic import Field

from tandem_api.schema import Count, Resource
from tandem_api.v1alpha1.rollout_status import RolloutStatus, StartupStatus
from tandem_api.v1alpha1.scaling_status import (
    AutoscalerMemoryStatus,
    DecisionStatus,
    ObjectivesStatus,
    RegionDemandStatus,
)


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
    rollout: RolloutStatus | None = None
    startup: Annotated[
        list[StartupStatus], Field(max_length=8, description="Measured, per role and template that has workers.")
    ] = []
    objectives: ObjectivesStatus | None = None
    last_decision: DecisionStatus | None = None
    region_demand: RegionDemandStatus | None = None
    autoscaler_memory: Annotated[
        AutoscalerMemoryStatus | None, Field(description="For the next leader of the operator; nothing to act on.")
    ] = None
    ready_text: Annotated[
        str | None,
        Field(max_length=64, description="Ready of desired workers, prefill/decode, for printing."),
    ] = None

"""What one region runs of a fleet: the same manifest in every cluster, each operator takes its own slice."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, cel
from tandem_api.v1alpha1.engine import EnginePerformance
from tandem_api.v1alpha1.pool import Parallelism, Resources

REGION_NAME = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
RegionName = Annotated[str, Field(min_length=1, max_length=63, pattern=REGION_NAME)]


class RegionPool(Resource):
    """What is different about a pool in one region. What is left out is as spec.prefill or spec.decode says."""

    replicas: Annotated[int | None, Field(ge=0, le=10_000, description="Workers in mode Fixed; size at birth.")] = None
    min: Annotated[int | None, Field(ge=0, le=10_000, description="Fewest workers in mode Objectives.")] = None
    max: Annotated[int | None, Field(ge=1, le=10_000, description="Most workers in mode Objectives.")] = None
    resources: Annotated[Resources | None, Field(description="Of one worker, in place of the pool's as a whole.")] = (
        None
    )
    parallelism: Annotated[
        Parallelism | None, Field(description="Shape of one worker, in place of the pool's as a whole.")
    ] = None
    nodes: Annotated[int | None, Field(ge=1, le=64, description="Nodes that one worker spans.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.max) || !has(self.min) || self.min <= self.max",
                    "regions[]: min is above max: lower one or raise the other",
                )
            ]
        }
    )


class RegionSlice(Resource):
    """One region that serves the fleet, and what is different there."""

    name: Annotated[RegionName, Field(description="The chart's region.name of the installation there.")]
    prefill: RegionPool | None = None
    decode: RegionPool | None = None
    gpu_budget: Annotated[int | None, Field(ge=1, le=1_000_000, description="In place of autoscaling.gpuBudget.")] = (
        None
    )
    performance_profile: Annotated[
        str | None,
        Field(max_length=63, pattern=r"^[a-z0-9.-]+$", description="In place of the engine's, for other GPUs."),
    ] = None
    performance_model: Annotated[
        EnginePerformance | None, Field(description="In place of the engine's, for other GPUs.")
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.performanceProfile) || !has(self.performanceModel)",
                    "regions[]: performanceProfile and performanceModel say the same thing: keep one",
                )
            ]
        }
    )

"""The workers of one role: how many, of what shape, in what pods."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tandem_api.schema import Quantity, Resource, cel
from tandem_api.v1alpha1.engine import EngineSettings
from tandem_api.v1alpha1.pod_template import PodTemplate


class Parallelism(Resource):
    """How one worker spreads over GPUs. It has tensor × pipeline × data of them."""

    tensor: Annotated[int, Field(ge=1, le=64, description="GPUs that share each layer.")] = 1
    pipeline: Annotated[int, Field(ge=1, le=64, description="Stages of layers.")] = 1
    data: Annotated[int, Field(ge=1, le=64, description="Replicas of the attention inside one worker.")] = 1
    expert: Annotated[
        bool, Field(description="Spread the experts of a mixture over tensor × data GPUs, instead of slicing each.")
    ] = False
    context: Annotated[
        int, Field(ge=1, le=64, description="Shares of each sequence's KV while decoding; divides tensor.")
    ] = 1

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.context) || (has(self.tensor) ? self.tensor : 1) % self.context == 0",
                    "parallelism.context must divide parallelism.tensor: it shares KV among the tensor ranks",
                )
            ]
        }
    )

    @property
    def ranks(self) -> int:
        """GPUs of one worker."""
        return self.tensor * self.pipeline * self.data


class Resources(Resource):
    """Compute of one worker."""

    gpu: Annotated[
        int | None,
        Field(
            ge=0,
            le=4096,
            description="GPUs. Default: tensor × pipeline × data; none for sim, nor where resourceClaims bring them.",
        ),
    ] = None
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


class Pool(Resource):
    """The workers of one role."""

    replicas: Annotated[
        int | None,
        Field(
            ge=0,
            le=10_000,
            description="Workers in mode Fixed; size at birth in the other modes. Left out: the size stays as it is, "
            "and a new pool is born with min.",
        ),
    ] = None
    min: Annotated[
        int, Field(ge=0, le=10_000, description="Fewest workers in mode Objectives, unless scaled to zero.")
    ] = 1
    max: Annotated[int | None, Field(ge=1, le=10_000, description="Most workers in mode Objectives.")] = None
    resources: Resources = Resources()
    parallelism: Parallelism = Parallelism()
    nodes: Annotated[
        int, Field(ge=1, le=64, description="Nodes that one worker spans; above 1 it needs LeaderWorkerSet.")
    ] = 1
    engine_overrides: EngineSettings | None = None
    pod_template: PodTemplate | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.max) || !has(self.min) || self.min <= self.max",
                    "min is above max: lower one or raise the other",
                )
            ]
        }
    )

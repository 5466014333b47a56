"""The workers of one role: how many, of what shape, in what pods."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import LongText, Name, Quantity, Resource, cel
from tandem_api.v1alpha1.engine import EngineSettings


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
                    f"podTemplate.{field} may not use the prefixes tandem.dev/ and app.kubernetes.io/: "
                    "choose another key",
                )
                for field in ("labels", "annotations")
            ]
        }
    )


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

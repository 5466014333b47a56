"""WorkerPool: the one place where the size of a pool is decided."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Count, Resource, cel
from tandem_api.v1alpha1.status import Condition

MAX_NAME_LENGTH = 40  # of an InferenceDeployment: it travels into names and labels of at most 63 characters


class WorkerPoolSpec(Resource):
    """Size of one pool. `replicas` has no default: it is set once at creation, then only through /scale."""

    replicas: Annotated[int | None, Field(ge=0, le=10_000)] = None
    fleet: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    role: Literal["prefill", "decode"]

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "self.fleet == oldSelf.fleet && self.role == oldSelf.role",
                    "spec.fleet and spec.role never change: delete the WorkerPool, and the operator makes it anew",
                )
            ]
        }
    )


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

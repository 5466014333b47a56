"""InferenceDeployment: the object that users write."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, cel
from tandem_api.v1alpha1.autoscaling import Autoscaling, Objectives
from tandem_api.v1alpha1.engine import Engine
from tandem_api.v1alpha1.model import Model
from tandem_api.v1alpha1.policies import Drain, KVTransfer, Routing
from tandem_api.v1alpha1.pool import Pool
from tandem_api.v1alpha1.region_slice import RegionSlice
from tandem_api.v1alpha1.rollout import Rollout
from tandem_api.v1alpha1.status import InferenceDeploymentStatus

_DECIDES = (
    "has(self.autoscaling) && (has(self.autoscaling.mode) && self.autoscaling.mode == 'Objectives'"
    " || has(self.autoscaling.advisory) && self.autoscaling.advisory)"
)
_NEEDS_TO_DECIDE = (
    (
        "(has(self.objectives) && has(self.objectives.ttft) && has(self.objectives.tpot))",
        "autoscaling.mode Objectives (or advisory) needs objectives.ttft.seconds and objectives.tpot.seconds: set both",
    ),
    (
        "has(self.prefill)",
        "autoscaling.mode Objectives (or advisory) sizes a prefill and a decode pool in this release: add "
        "spec.prefill, or use Fixed or External",
    ),
    (
        "(has(self.prefill) && has(self.prefill.max) && has(self.decode.max))",
        "autoscaling.mode Objectives (or advisory) needs an upper bound: set spec.prefill.max and spec.decode.max",
    ),
    (
        "(has(self.engine) && (has(self.engine.performanceProfile) || has(self.engine.performanceModel)))",
        "autoscaling.mode Objectives (or advisory) must know the engine's speed: set engine.performanceProfile, or "
        "engine.performanceModel",
    ),
)


_ONE_WHERE_KV_MOVES = tuple(
    cel(
        f"!has(self.prefill) || !has(self.{role}.{field}) || self.{role}.{field} == 1",
        f"spec.{role}.{field} must be 1 when KV is handed over: use tensor parallelism",
    )
    for role in ("prefill", "decode")
    for field in ("parallelism.pipeline", "parallelism.data", "parallelism.context", "nodes")
)


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
    regions: Annotated[
        list[RegionSlice],
        Field(
            max_length=32,
            description="Regions that run workers for the fleet. Left out: every region that has the object does.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.prefill) || self.prefill.parallelism.tensor % self.decode.parallelism.tensor == 0"
                    " || self.decode.parallelism.tensor % self.prefill.parallelism.tensor == 0",
                    "spec.prefill.parallelism.tensor and spec.decode.parallelism.tensor do not divide one another; KV "
                    "moves in whole shares of heads: make one a multiple of the other",
                ),
                *_ONE_WHERE_KV_MOVES,
                cel(
                    "has(self.prefill) || !has(self.regions) || self.regions.all(region, !has(region.prefill))",
                    "spec.regions[].prefill changes a pool that the fleet does not have: add spec.prefill, or drop it",
                ),
                *(cel(f"!({_DECIDES}) || {rule}", message) for rule, message in _NEEDS_TO_DECIDE),
            ]
        }
    )

    @property
    def served_name(self) -> str:
        """The name that clients ask for."""
        return self.model.served_name or self.model.name


class InferenceDeployment(Resource):
    """A disaggregated inference fleet: the user's object. The operator never writes its spec."""

    api_version: Literal["tandem.dev/v1alpha1"] = "tandem.dev/v1alpha1"
    kind: Literal["InferenceDeployment"] = "InferenceDeployment"
    metadata: dict[str, Any] = {}
    spec: InferenceDeploymentSpec
    status: InferenceDeploymentStatus | None = None

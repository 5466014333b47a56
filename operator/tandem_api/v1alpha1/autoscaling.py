"""Latency objectives, and who decides the size of the pools."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, cel

Percentile = Literal["p50", "p75", "p90", "p95", "p99"]
DayName = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class Objective(Resource):
    """A latency objective as the client of the router sees it."""

    percentile: Annotated[
        Percentile, Field(description="Share of requests that must meet it: p95 allows 5 % to miss.")
    ] = "p95"
    seconds: Annotated[float, Field(gt=0, le=3600)]


class TtftObjective(Objective):
    """Time to first token. Long prompts may take longer."""

    isolated_factor: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            description="A request's target is at least this many times its own prefill time alone. 0: never longer.",
        ),
    ] = 3.0


class Objectives(Resource):
    """Latency objectives of the fleet."""

    ttft: Annotated[TtftObjective | None, Field(description="Time to first token.")] = None
    tpot: Annotated[Objective | None, Field(description="Time per output token after the first.")] = None


class RatioBounds(Resource):
    """Prefill workers per decode worker."""

    min: Annotated[float, Field(ge=0, le=1000)] = 0.0
    max: Annotated[float | None, Field(ge=0, le=1000, description="Left out: no bound.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.max) || !has(self.min) || self.min <= self.max",
                    "autoscaling.ratio.min is above ratio.max: lower one or raise the other",
                )
            ]
        }
    )


class Schedule(Resource):
    """Least sizes while a part of the week lasts. Where several hold, the largest counts."""

    days: Annotated[
        list[DayName], Field(max_length=7, description="Days on which it begins. Left out: every day.")
    ] = []
    start: Annotated[str, Field(max_length=5, pattern=_CLOCK, description="HH:MM.")]
    end: Annotated[str, Field(max_length=5, pattern=_CLOCK, description="HH:MM; not after start: on the next day.")]
    time_zone: Annotated[
        str, Field(max_length=63, pattern=r"^[A-Za-z0-9_+/-]+$", description="IANA name, such as Europe/Berlin.")
    ] = "UTC"
    prefill_min: Annotated[int, Field(ge=0, le=10_000)] = 0
    decode_min: Annotated[int, Field(ge=0, le=10_000)] = 0


class Autoscaling(Resource):
    """Who decides the size of the pools."""

    mode: Annotated[
        Literal["Fixed", "External", "Objectives"],
        Field(
            description="Fixed: spec.*.replicas. External: whoever writes WorkerPool/scale (HPA, kubectl scale). "
            "Objectives: Tandem, so that spec.objectives are met with the fewest GPUs.",
        ),
    ] = "Fixed"
    advisory: Annotated[
        bool, Field(description="Decide and report in status.lastDecision, and change nothing. In any mode.")
    ] = False
    paused: Annotated[bool, Field(description="Keep the sizes that are; go on measuring.")] = False
    gpu_budget: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="GPUs that both pools together may use.")
    ] = None
    ratio: RatioBounds | None = None
    scale_to_zero_after_seconds: Annotated[
        int | None,
        Field(ge=60, le=86_400, description="Both pools go to zero when no request came for so long. Default: never."),
    ] = None
    schedules: Annotated[list[Schedule], Field(max_length=16)] = []

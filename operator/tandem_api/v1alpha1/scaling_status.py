"""What the autoscaler reports: how latency stands against the objectives, the last decision, and what it remembers."""

from typing import Annotated

from pydantic import Field

from tandem_api.schema import Count, Resource

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Terms = Annotated[dict[Annotated[str, Field(max_length=63)], float], Field(max_length=16)]


class LatencyStatus(Resource):
    """One objective and what came true."""

    percentile: Annotated[str, Field(max_length=8)]
    target_seconds: Seconds
    seconds: Annotated[Seconds | None, Field(description="At that percentile, of the requests that were answered.")] = (
        None
    )
    attainment: Annotated[Share | None, Field(description="Share of the requests that met their target.")] = None


class ObjectivesStatus(Resource):
    """Latency of the last minutes, as the routers saw it."""

    window_seconds: Annotated[int, Field(ge=0, le=86_400)]
    requests: Annotated[int, Field(ge=0)]
    ttft: LatencyStatus | None = None
    tpot: LatencyStatus | None = None


class PoolDecisionStatus(Resource):
    """Size of one pool, and why."""

    workers: Annotated[Count, Field(description="Size to ask for.")]
    needed: Annotated[int, Field(ge=0, description="Size before hold and limits.")]
    bound: Annotated[str, Field(max_length=63, description="What set workers (docs/autoscaling.md).")]
    terms: Annotated[Terms, Field(description="The numbers that needed is made of.")] = {}


class HoldStatus(Resource):
    """Why nothing could be decided."""

    reason: Annotated[str, Field(max_length=63)]
    message: Annotated[str, Field(max_length=1024)]


class DecisionStatus(Resource):
    """The last decision that differed from the one before. Its numbers are those of its moment."""

    time: Annotated[str, Field(max_length=64)]
    acted: Annotated[bool, Field(description="False while advisory, or in a mode in which others decide.")]
    prefill: PoolDecisionStatus
    decode: PoolDecisionStatus
    inputs: Annotated[Terms, Field(description="What the routers reported, and how the pools stood.")] = {}
    hold: HoldStatus | None = None


class RegionLoad(Resource):
    """Demand that moves between regions, or room for it. In tokens and sequences, because GPUs differ by region.

    Room has no requests and no squares: those follow from who comes.
    """

    requests_per_second: Rate = 0.0
    prefill_tokens_per_second: Annotated[Rate, Field(description="New tokens, after prefix hits.")] = 0.0
    prefill_square_tokens_per_second: Annotated[Rate, Field(description="Σ (n² + 2nh), attention's work.")] = 0.0
    decode_sequences: Annotated[Rate, Field(description="Held at once.")] = 0.0
    decode_kv_tokens: Annotated[Rate, Field(description="KV tokens that these hold.")] = 0.0


class RegionDemandStatus(Resource):
    """What this region says to its peers about this fleet; the routers carry it."""

    uncoverable: Annotated[
        RegionLoad | None,
        Field(description="What comes here and cannot be served within bounds, budget and free GPUs. Absent: nothing."),
    ] = None
    room: Annotated[
        RegionLoad | None,
        Field(description="What could be served here beyond this region's own need. Absent: nothing."),
    ] = None


class PoolMemoryStatus(Resource):
    """What a new leader takes over for one pool."""

    level: Annotated[Share, Field(description="Of the outer loop on the error budget.")] = 0.0
    needed: Annotated[
        list[Count],
        Field(max_length=12, description="Largest need of each 5 minutes of the last hour, oldest first."),
    ] = []
    shortfall: Annotated[
        float | None,
        Field(description="Workers by which forecasts fell short, 99 % of the time. Absent: unknown."),
    ] = None


class AutoscalerMemoryStatus(Resource):
    """What a new leader takes over."""

    time: Annotated[str, Field(max_length=64)]
    prefill: PoolMemoryStatus = PoolMemoryStatus()
    decode: PoolMemoryStatus = PoolMemoryStatus()

"""Where a rollout stands, and what it must not forget."""

from typing import Annotated, Literal

from pydantic import Field

from tandem_api.schema import Count, Resource

Revision = Annotated[str, Field(max_length=16)]
Timestamp = Annotated[str, Field(max_length=64)]


class Rejection(Resource):
    """A revision that was taken back. It holds until the spec asks for another one, or rollout.retry changes."""

    revision: Revision
    retry: int = 0
    time: Timestamp
    message: Annotated[str, Field(max_length=1024)]


class RolloutStatus(Resource):
    """The rollout, as one reconciliation hands it to the next."""

    phase: Annotated[
        Literal["Progressing", "Holding", "Paused", "RollingBack", "RolledBack", "Complete"],
        Field(description="Progressing: workers change. Holding: a step waits for its time, or for requests."),
    ]
    revision: Annotated[Revision, Field(description="What should run: the spec's, the pinned one, or the one kept.")]
    stable: Annotated[
        Revision | None, Field(description="The last one that ran alone; a rejection goes back to it.")
    ] = None
    step: Annotated[int, Field(ge=0, le=32, description="Index in rollout.steps; past the last: all traffic.")] = 0
    step_since: Annotated[Timestamp | None, Field(description="When the share of this step was reached.")] = None
    rejected: Rejection | None = None
    message: Annotated[str, Field(max_length=1024)] = ""


class StartupStatus(Resource):
    """How long workers of one template take from being scheduled to being ready."""

    role: Annotated[str, Field(max_length=16)]
    template_revision: Revision
    seconds: Annotated[float, Field(ge=0, description="Median of what was measured.")]
    slowest_seconds: Annotated[float, Field(ge=0)]
    workers: Annotated[Count, Field(description="How many were measured.")]

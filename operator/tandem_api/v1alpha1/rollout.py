"""How one template replaces another: what the user asks for."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from tandem_api.schema import Resource, cel

_SHARE_PATTERN = "^(100|[1-9]?[0-9])%$"
_HOLD_PATTERN = "^[0-9]{1,5}(s|m|h)$"
_SECONDS = {"s": 1, "m": 60, "h": 3600}
REVISION_PATTERN = "^[0-9a-f]{8}$"
MAX_STEPS = 10


def _check_budget(value: int | str) -> int | str:
    if isinstance(value, int) and not 0 <= value <= 10_000:
        raise ValueError("give 0 to 10000 workers, or a share as 25%")
    return value


Budget = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[str, Field(pattern=_SHARE_PATTERN)],
    AfterValidator(_check_budget),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": 10_000,
            "pattern": _SHARE_PATTERN,
            "maxLength": 4,
        }
    ),
]


class RolloutStep(Resource):
    """One stop on the way of the traffic to a new revision."""

    traffic: Annotated[
        str,
        Field(
            pattern="^[1-9][0-9]?%$",
            max_length=3,
            description="Share of the requests that the new revision gets; the workers of either role grow with it.",
        ),
    ]
    hold: Annotated[
        str,
        Field(pattern=_HOLD_PATTERN, max_length=6, description="Least time at this share, as 90s, 5m or 1h."),
    ] = "5m"

    @property
    def percent(self) -> int:
        """`traffic` as a number."""
        return int(self.traffic.removesuffix("%"))

    @property
    def hold_s(self) -> int:
        """`hold` in seconds."""
        return int(self.hold[:-1]) * _SECONDS[self.hold[-1]]


class Rollout(Resource):
    """How a change of the pod template reaches the workers."""

    strategy: Annotated[
        Literal["Surge", "Recreate"],
        Field(description="Surge: new workers serve before old ones go. Recreate: old ones go first (no spare GPUs)."),
    ] = "Surge"
    max_surge: Annotated[
        Budget,
        Field(description="Workers that a pool may have above its size meanwhile; a share is rounded up."),
    ] = "25%"
    max_unavailable: Annotated[
        Budget,
        Field(description="Workers that a pool may lack of its size meanwhile; a share is rounded down."),
    ] = 0
    steps: Annotated[
        list[RolloutStep],
        Field(
            max_length=MAX_STEPS,
            description="Stops before the whole traffic. At each the new revision is compared with the one that "
            "serves; a breach of the objectives or of the error rate takes it back.",
        ),
    ] = []
    min_requests: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="A step holds until the new revision has ended so many requests."),
    ] = 50
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=86_400)] = 1800
    paused: Annotated[bool, Field(description="Sizes change, templates do not.")] = False
    pin: Annotated[
        str | None,
        Field(
            pattern=REVISION_PATTERN,
            max_length=8,
            description="Run this kept revision, whatever model, engine, pools and drain say (tandem rollout history).",
        ),
    ] = None
    retry: Annotated[
        int, Field(ge=0, le=1_000_000, description="Any other number tries a revision that was taken back once more.")
    ] = 0

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.maxSurge) || !has(self.maxUnavailable) || !(string(self.maxSurge) in ['0', '0%'])"
                    " || !(string(self.maxUnavailable) in ['0', '0%'])",
                    "rollout.maxSurge and rollout.maxUnavailable may not both be 0: raise one of them",
                ),
                cel(
                    "!has(self.steps) || size(self.steps) == 0 || !has(self.strategy) || self.strategy == 'Surge'",
                    "rollout.steps need both revisions at once: set rollout.strategy to Surge, or remove the steps",
                ),
                cel(
                    "!has(self.steps) || self.steps.map(s, int(s.traffic.replace('%', ''))).isSorted()"
                    " && self.steps.all(s, self.steps.exists_one(t, t.traffic == s.traffic))",
                    "rollout.steps: traffic must grow from step to step; put the steps in order",
                ),
            ]
        }
    )

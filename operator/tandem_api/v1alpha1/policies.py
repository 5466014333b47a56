"""What the fleet does over time: hand-over, routing, drain."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, cel
from tandem_api.v1alpha1.scheduling import Locality


class KVTransfer(Resource):
    """How KV cache moves from prefill to decode workers."""

    connector: Literal["tcp", "nccl", "nixl"] = "tcp"
    on_prefill_failure: Annotated[
        Literal["Retry", "Local", "Fail"],
        Field(description="When a prefill worker fails: Retry elsewhere then Local; Local prefill; or Fail."),
    ] = "Retry"
    locality: Annotated[Locality | None, Field(description="Default: anywhere.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.connector) || self.connector == 'tcp'",
                    "kvTransfer.connector: only tcp is available in this release; set tcp",
                )
            ]
        }
    )


class Routing(Resource):
    """Limits that the router applies to each request."""

    queue_timeout_seconds: Annotated[float | None, Field(ge=0, le=3600)] = None
    request_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1800.0
    continuation: Literal["Off", "Tokens"] = Field(
        "Off",
        description="What becomes of a stream whose worker is lost. Off: it ends with an error event. Tokens: another "
        "worker goes on from the tokens already sent, where the answer is one of plain text without tools, structured "
        "output, stop strings, log probabilities or a seed.",
    )


class Drain(Resource):
    """How long a worker that is told to stop may finish its streams."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600

"""What the fleet does over time: hand-over, routing, drain."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Name, Resource, cel
from tandem_api.v1alpha1.scheduling import Locality
from tandem_api.v1alpha1.sources import not_a_secret_of_tandem


class KVTransferTLS(Resource):
    """Mutual TLS between the workers of the fleet."""

    secret_name: Annotated[
        Name,
        Field(
            description="Secret of the fleet's namespace with tls.crt, tls.key and ca.crt, as cert-manager makes them. "
            "All workers of the fleet present this certificate, and accept what ca.crt has signed."
        ),
    ]

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [not_a_secret_of_tandem("secretName", "kvTransfer.tls.secretName")]
        }
    )


class KVTransfer(Resource):
    """How KV cache moves from prefill to decode workers."""

    connector: Annotated[
        Literal["tcp", "nccl", "nixl"],
        Field(
            description="tcp: sockets, through host memory. nccl: GPU to GPU; where it cannot be, tcp takes its place "
            "and KVTransferReady says why. Its KV path has never been run on a GPU by its authors. nixl: vLLM's own."
        ),
    ] = "tcp"
    tls: Annotated[KVTransferTLS | None, Field(description="Default: KV moves in clear.")] = None
    on_prefill_failure: Annotated[
        Literal["Retry", "Local", "Fail"],
        Field(description="When a prefill worker fails: Retry elsewhere then Local; Local prefill; or Fail."),
    ] = "Retry"
    locality: Annotated[Locality | None, Field(description="Default: anywhere.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.tls) || !has(self.connector) || self.connector == 'tcp'",
                    "kvTransfer.tls goes with kvTransfer.connector tcp, for the others cannot be encrypted: "
                    "set connector tcp, or remove tls and isolate the network",
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

"""What routers of different regions say to each other. All of it is bounded: a peer may be old, broken or hostile.

`GET  /internal/v1/region/stream`         lines of JSON, one `RegionDigest` each 100 ms
`GET  /internal/v1/region/ping`           204: measures the way there and back
`POST /internal/v1/region/forward/<path>` a client's request, with a `ForwardOrder` in the header `x-tandem-forward`
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tandem_router.regions.load import FleetLoad
from tandem_router.regions.residency import Residency

STREAM_PATH = "/internal/v1/region/stream"
PING_PATH = "/internal/v1/region/ping"
FORWARD_PATH = "/internal/v1/region/forward"
FORWARD_HEADER = b"x-tandem-forward"
HOP_HEADER = b"x-tandem-hop"
REGION_HEADER = b"x-tandem-region"
ORIGIN_HEADER = b"x-tandem-origin"
VERSION = 1
MAX_FLEETS = 20_000
LAST_HOP = 1

Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0, le=10_000_000_000)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Amounts = Annotated[dict[Text, Amount], Field(max_length=16)]


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, alias_generator=to_camel, populate_by_name=True
    )


class FleetDigest(_Message):
    """One fleet: `FleetLoad`, and the operator's word about demand (`tandem_api.router.RegionFleetWord`)."""

    served_name: Text
    queued_tokens: Amount = 0.0
    prefill_workers: Count = 0
    worker_tokens_per_s: Amount = 0.0
    free_slots: Count = 0
    idle_workers: Count = 0
    waiting_decode: Count = 0
    uncoverable: Amounts | None = None
    room: Amounts | None = None

    @property
    def load(self) -> FleetLoad:
        """What a request would meet."""
        return FleetLoad(
            self.queued_tokens, self.prefill_workers, self.worker_tokens_per_s, self.free_slots, self.idle_workers,
            self.waiting_decode,
        )  # fmt: skip


class RegionDigest(_Message):
    """What one router of a region tells of all of it. Of fleets, what has changed since the line before.

    Attributes:
        v: version of this message; one release older or newer is understood.
        replica: which start of which router tells.
        full: nothing that was told before counts any more.
        fleets: by `namespace/name`.
        gone: keys of fleets that are no more.
        drain: the region takes nothing from elsewhere.
        goaway: the last line: this router is about to stop; another one of its region goes on.
    """

    v: int = VERSION
    region: Text
    replica: Text = ""
    seq: Count = 0
    full: bool = False
    fleets: Annotated[dict[Text, FleetDigest], Field(max_length=MAX_FLEETS)] = {}
    gone: Annotated[tuple[Text, ...], Field(max_length=MAX_FLEETS)] = ()
    drain: bool = False
    goaway: bool = False


class ForwardOrder(_Message):
    """What a region must know of a request that another one forwards to it.

    Attributes:
        origin: region that the client asked; it has charged its tenant.
        fleet: `namespace/name`.
        residency: clauses of where it may be served; checked again at the destination.
        deadline_ms: what is left of the request's deadline.
        salt_basis: whose cached prefixes it may share; empty: those of all.
        counts_here: the destination takes it for demand of its own, because its origin may never serve it.
    """

    v: int = VERSION
    origin: Text
    fleet: Text
    tenant: Text = ""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    deadline_ms: Annotated[int, Field(ge=1, le=10**9)]
    residency: Annotated[tuple[frozenset[Text], ...], Field(max_length=8)] = ()
    salt_basis: Text = ""
    ttft_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    counts_here: bool = False

    @property
    def allowed(self) -> Residency:
        """Residency, as the choice reads it."""
        return self.residency


def speaks_like_us(version: int) -> bool:
    """A message of this version is understood."""
    return abs(version - VERSION) <= 1

"""What a router tells of all regions: `GET /internal/v1/regions` on its internal listener (bearer token)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

REGIONS_PATH = "/internal/v1/regions"

PeerState = Literal["up", "down", "unknown", "drained", "no_url"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PeerReport(_Message):
    """One peer region as one router sees it.

    Attributes:
        since_s: seconds in this state.
        accepts: share of what it could be given that it may be given now; below 1 while it comes back.
        headroom_slots: requests that its decode workers could take now, over all fleets.
        predicted_ttft_s: of a typical prompt, the way there included; None: it serves nothing.
        spilled_total, failures_total: requests sent there since this router started, and those of them that failed.
        uncoverable: fleets (`namespace/name`) whose demand it cannot cover itself, and what of it.
        fault: why it cannot be used, in words.
    """

    state: PeerState
    since_s: float | None = None
    rtt_ms: float | None = None
    accepts: float = 0.0
    headroom_slots: int = 0
    predicted_ttft_s: float | None = None
    spilled_total: int = 0
    failures_total: int = 0
    uncoverable: dict[str, dict[str, float]] = {}
    price_weight: float = 1.0
    labels: dict[str, str] = {}
    url: str | None = None
    fault: str = ""


class RegionMatrix(_Message):
    """All regions as one router sees them.

    Attributes:
        region: its own.
        choices: requests by why they stayed or left.
        refusals: requests that no region may serve, by why.
    """

    region: str
    drain: bool = False
    labels: dict[str, str] = {}
    price_weight: float = 1.0
    choices: dict[str, int] = {}
    refusals: dict[str, int] = {}
    peers: dict[str, PeerReport] = {}

"""What routers tell the operator on the internal listener (`GET /internal/v1/fleets`, bearer token)."""

from pydantic import BaseModel, ConfigDict

from tandem_api.worker import KVCounters

FLEETS_PATH = "/internal/v1/fleets"


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class RecentTraffic(_Message):
    """Counts of the last `window_s` seconds. Conditions are judged by these, so that they can fall again."""

    window_s: float = 300.0
    remote_prefills: int = 0
    local_prefills: int = 0  # requests that could have been disaggregated and were not
    kv_bytes: int = 0
    kv_failures: int = 0


class FleetReport(_Message):
    """One InferenceDeployment as a router sees it."""

    namespace: str
    name: str
    uid: str
    generation: int
    served_name: str
    serving: bool  # holds the served name and has a worker that can take a request
    name_conflict: bool = False
    workers: dict[str, int] = {}  # role → workers in use (ready, alive, not draining)
    kv: KVCounters = KVCounters()  # since this router started
    recent: RecentTraffic = RecentTraffic()


class RouterReport(_Message):
    """All fleets of one router replica."""

    replica: str
    synced: bool
    fleets: tuple[FleetReport, ...] = ()

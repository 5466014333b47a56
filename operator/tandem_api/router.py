"""What routers tell the operator on the internal listener (bearer token).

`GET /internal/v1/fleets`            what a router sees of every fleet: `RouterReport`
`GET /internal/v1/demand?cursor=N`   what was asked of it since second N: `DemandAnswer`; of one with `&fleet=ns/name`
"""

from typing import Annotated, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from tandem_api.v1alpha1.scaling_status import RegionLoad
from tandem_api.worker import KVCounters

FLEETS_PATH = "/internal/v1/fleets"
DEMAND_PATH = "/internal/v1/demand"

TRIAL_BIN_S = 10
TRIAL_KEPT_S = 600
DEMAND_KEPT_S = 3600  # bins and records are kept that long
DEMAND_RECORDS_PER_S = 50  # records per fleet and second, of arrivals and of endings each; above it they are sampled
DEMAND_PAGE_S = 300  # an answer covers at most that many seconds,
DEMAND_PAGE_RECORDS = 50_000  # and ends with the second in which it has come to hold so many records


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class RecentTraffic(_Message):
    """Counts of the last `window_s` seconds. Conditions are judged by these, so that they can fall again."""

    window_s: float = 300.0
    remote_prefills: int = 0
    local_prefills: int = 0  # requests that could have been disaggregated and were not
    kv_bytes: int = 0
    kv_failures: int = 0


class TrialBin(NamedTuple):
    """What workers of one template did in `TRIAL_BIN_S` seconds of Unix time; a JSON array.

    Attributes:
        started_s: Unix time, a multiple of `TRIAL_BIN_S`.
        requests: legs that ended on these workers and say something about them: no refusal of the request itself, no
            client that left.
        failed: of these, ended by a fault of the worker, also where another one then served the request.
        ttft_missed, tpot_missed: of these, later than the objectives of the fleet.
    """

    started_s: int
    requests: int = 0
    failed: int = 0
    ttft_missed: int = 0
    tpot_missed: int = 0


class Trial(_Message):
    """The newest `TRIAL_KEPT_S` seconds of one template."""

    template_revision: str
    bins: tuple[TrialBin, ...] = ()


class WorkerLoad(NamedTuple):
    """One worker as a router sees it; a JSON array.

    Attributes:
        inflight: requests of this router on it.
        hit_tokens: prompt tokens that its prefix cache saved lately; a decaying sum.
    """

    pod: str
    inflight: int = 0
    hit_tokens: float = 0.0


class KVEdges(_Message):
    """Pairs of (prefill worker, decode worker) of a fleet, by what was last seen of KV between them.

    Seen by a probe, or by asking what became of a real request's KV. A restart of either engine makes a pair untested.

    Attributes:
        failure: the failing pair that was looked at last, and why; empty without one.
    """

    proved: int = 0
    failing: int = 0
    untested: int = 0
    failure: str = ""


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
    kv_fallbacks: tuple[str, ...] = ()  # why workers do not use the connector that was asked for, each reason once
    recent: RecentTraffic = RecentTraffic()
    kv_edges: KVEdges = KVEdges()
    trials: tuple[Trial, ...] = ()  # while workers of more than one template of a role are known
    loads: tuple[WorkerLoad, ...] = ()  # workers that hold requests or have a useful cache


class RouterReport(_Message):
    """All fleets of one router replica."""

    replica: str
    synced: bool
    fleets: tuple[FleetReport, ...] = ()


class ArrivalRecord(NamedTuple):
    """One request as it came; a JSON array, because there are many.

    Attributes:
        arrival_s: Unix time.
        new_tokens: prompt tokens to compute, as estimated at arrival, after the prefix hit.
        cached_tokens: prompt tokens that the prefix hit saves.
        ttft_target_s: what the client asked for (`x-slo-ttft-ms`); None: the objective of the fleet.
        weight: requests that this record stands for; above one when the router samples.
    """

    arrival_s: float
    new_tokens: int
    cached_tokens: int = 0
    ttft_target_s: float | None = None
    weight: float = 1.0


class EndingRecord(NamedTuple):
    """One request as it ended. Facts only: whether they meet the objectives is judged by the reader.

    Attributes:
        ended_s: Unix time.
        is_failed: shed, failed or timed out. A request whose client left is not failed.
        ttft_s: from arrival to the first token; None: there was none.
        tpot_s: (last − first) / (completion tokens − 1); None for fewer than two tokens.
        prefilled_s: from arrival to the end of the prefill leg; None: prefilled on the decode worker, or never.
        decode_s: seconds that it held its decode worker.
        prompt_tokens, cached_tokens, completion_tokens: as the engine counted them, else as estimated.
        ttft_target_s, tpot_target_s: what the client asked for; None: the objectives of the fleet.
        prefill_s: seconds of the prefill leg when the worker had nothing else to do meanwhile; None: it had, or
            unknown. This is what the performance model is refitted with.
        weight: requests that this record stands for.
    """

    ended_s: float
    is_failed: bool = False
    ttft_s: float | None = None
    tpot_s: float | None = None
    prefilled_s: float | None = None
    decode_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    prefill_s: float | None = None
    weight: float = 1.0


class DemandBin(_Message):
    """Sums over one whole second of Unix time. Exact: never sampled. A second in which all are zero is left out.

    Attributes:
        arrivals: requests that came, those that are held for a fleet without workers included.
        new_tokens, square_tokens, prompt_tokens: over those that came, Σ n, Σ (n² + 2 n h), Σ (n + h) for n new and h
            cached prompt tokens.
        finished: requests that ended, however.
        failed: of these, shed, failed or timed out.
        held_s: requests on decode workers, integrated over the second.
        held_kv_s: KV tokens (prompt and what was produced so far) of those, integrated over the second.
    """

    second: int
    arrivals: int = 0
    new_tokens: float = 0.0
    square_tokens: float = 0.0
    prompt_tokens: float = 0.0
    finished: int = 0
    failed: int = 0
    held_s: float = 0.0
    held_kv_s: float = 0.0


class DemandLevels(_Message):
    """Levels at `DemandAnswer.now_s`.

    Attributes:
        queued: requests that wait for a worker to start their prefill (in a fleet without a prefill pool: at all).
        queued_tokens, queued_square_tokens: Σ n and Σ (n² + 2 n h) of these.
        decode_sequences: requests on decode workers, or waiting for one.
        decode_kv_tokens: KV tokens of these.
    """

    queued: int = 0
    queued_tokens: float = 0.0
    queued_square_tokens: float = 0.0
    decode_sequences: int = 0
    decode_kv_tokens: float = 0.0


class FleetDemand(_Message):
    """One fleet: bins by time, records by time."""

    namespace: str
    name: str
    uid: str
    bins: tuple[DemandBin, ...] = ()
    arrivals: tuple[ArrivalRecord, ...] = ()
    endings: tuple[EndingRecord, ...] = ()
    levels: DemandLevels = DemandLevels()


def _or_unheard(given: object, read: ValidatorFunctionWrapHandler) -> "RegionWord":
    """A word that cannot be read is as good as none: it must not cost the demand that stands beside it."""
    try:
        return cast(RegionWord, read(given))
    except ValidationError:
        return RegionWord()


class RegionFleetWord(_Message):
    """What a region says of one fleet (`status.regionDemand` there)."""

    uncoverable: RegionLoad | None = None
    room: RegionLoad | None = None


class RegionWord(_Message):
    """A region as a router hears it.

    Attributes:
        fresh: a stream from there is live; the own region's word always is.
        fleets: by `namespace/name`; those that any region cannot cover, the others are left out.
    """

    price_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    drain: bool = False
    fresh: bool = False
    fleets: dict[str, RegionFleetWord] = {}


class DemandAnswer(_Message):
    """What one router process saw in the whole seconds `covers_from` ≤ second < `cursor`.

    A bin is final once its second is over. Ask for `cursor` next; while it is behind `now_s` by a second or more there
    is more to fetch at once. A cursor from before the router's memory is moved up to it, one from its future gets an
    empty answer with the router's own newest cursor.

    Attributes:
        epoch: new at each start of the process; what an earlier process saw is lost to it.
        now_s: Unix time of the router.
        fleets: those with a bin in the span, or with levels above zero; every other fleet was silent.
        regions: all that are known, the own one included; empty where regions are off.
    """

    replica: str
    epoch: str
    now_s: float
    covers_from: int
    cursor: int
    fleets: tuple[FleetDemand, ...] = ()
    regions: dict[str, Annotated[RegionWord, WrapValidator(_or_unheard)]] = {}

"""What the autoscaler sees at one moment, and whether it may be believed."""

from dataclasses import dataclass, fields
from math import isfinite

from tandem_core.region_demand import NOTHING, RegionDemand
from tandem_operator.autoscale.demand import DemandHistory, Gauges


@dataclass(frozen=True, slots=True)
class PoolState:
    """Workers of one pool.

    Attributes:
        desired: size that was last asked for.
        ready: able to take work.
        pending_gpu_s: how long the oldest worker has waited for a GPU to be free; 0 when none waits.
        pending_gpu: how many wait.
        startup_s: measured time from creation to ready.
    """

    desired: int
    ready: int
    pending_gpu_s: float = 0.0
    startup_s: float = 120.0
    pending_gpu: int = 0

    @property
    def placed(self) -> int:
        """Workers that have a GPU, ready or starting."""
        return max(self.ready, self.desired - self.pending_gpu)


@dataclass(frozen=True, slots=True)
class FromRegions:
    """What the other regions mean for this fleet here.

    Attributes:
        helped: demand of theirs that this region is to cover.
        is_drained: this region is to send all of its own away.
    """

    helped: RegionDemand = NOTHING
    is_drained: bool = False


ALONE = FromRegions()


@dataclass(frozen=True, slots=True)
class Observation:
    """One moment of one fleet.

    Attributes:
        now_s: on the clock of the bins.
        newest_s: end of the newest bin that any router reported; None before the first.
        sources_expected, sources_fresh: routers that should report, and that did within the last seconds.
        residual: relative error of the performance model (tandem_core.refit).
        regions: nothing where regions are off.
    """

    now_s: float
    demand: DemandHistory
    gauges: Gauges
    newest_s: float | None
    sources_expected: int
    sources_fresh: int
    prefill: PoolState
    decode: PoolState
    residual: float = 0.0
    regions: FromRegions = ALONE


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing is changed. `reason` is CamelCase, `message` a sentence with the fix."""

    reason: str
    message: str


def find_fault(seen: Observation, stale_s: float, last_decided_s: float | None) -> Hold | None:
    """Why the observation may not be acted upon; None if it may."""
    return _clock_fault(seen, last_decided_s) or _bad_number(seen) or _data_fault(seen, stale_s)


def _clock_fault(seen: Observation, last_decided_s: float | None) -> Hold | None:
    if not isfinite(seen.now_s):
        return Hold("BadClock", f"now is {seen.now_s}: check this node's clock")
    if last_decided_s is not None and seen.now_s < last_decided_s:
        return Hold("ClockWentBack", f"now is {last_decided_s - seen.now_s:.0f} s before the last decision: check NTP")
    return None


def _data_fault(seen: Observation, stale_s: float) -> Hold | None:
    if seen.newest_s is None or seen.demand.first_second is None or seen.sources_fresh == 0:
        return Hold("NoData", "no router has reported demand yet: check that routers are ready and reachable")
    age_s = seen.now_s - seen.newest_s
    if age_s > stale_s:
        return Hold("StaleData", f"the newest demand is {age_s:.0f} s old: check the routers' internal listener")
    if age_s < -stale_s:
        return Hold("DataFromTheFuture", f"the newest demand lies {-age_s:.0f} s ahead: check the routers' clocks")
    return None


def _bad_number(seen: Observation) -> Hold | None:
    for field in fields(Gauges):
        value = getattr(seen.gauges, field.name)
        if not (isfinite(value) and value >= 0):
            return Hold("BadData", f"gauge {field.name} is {value}: a router reports what cannot be; restart it")
    for name, pool in (("prefill", seen.prefill), ("decode", seen.decode)):
        if not (isfinite(pool.startup_s) and min(pool.startup_s, pool.ready, pool.desired, pool.pending_gpu) >= 0):
            return Hold("BadData", f"the {name} pool's state is impossible ({pool})")
    if not (isfinite(seen.residual) and seen.residual >= 0):
        return Hold("BadData", f"the residual of the performance model is {seen.residual}")
    return None

"""One fleet's autoscaler: what is known of its demand, what it remembers, and what it says. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tandem_api.router import FleetDemand
from tandem_api.v1alpha1 import (
    AutoscalerMemoryStatus,
    DecisionStatus,
    InferenceDeploymentSpec,
    InferenceDeploymentStatus,
    ObjectivesStatus,
    RegionDemandStatus,
)
from tandem_core.performance import PerformanceModel
from tandem_core.profiles import UnknownProfileError
from tandem_core.refit import Refit
from tandem_core.region_demand import NOTHING_TO_SAY
from tandem_operator.autoscale.configure import build_settings, is_decided, may_act, read_profile
from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.decision import Decision, PoolDecision
from tandem_operator.autoscale.intake import Intake
from tandem_operator.autoscale.judge import build_judge
from tandem_operator.autoscale.observation import ALONE, FromRegions, Hold, Observation, PoolState
from tandem_operator.autoscale.recall import build_memory_status, read_memory
from tandem_operator.autoscale.report import (
    Signature,
    build_decision_status,
    build_objectives_status,
    build_region_status,
    sign,
)
from tandem_operator.autoscale.schedules import UnknownTimeZoneError
from tandem_operator.autoscale.settings import BadSettingsError, Role

DEFAULT_STARTUP_S = 120.0  # before any worker of the fleet has been seen to start (research/autoscaling.md §1.2)
REST_S = 60.0  # between decisions on a fleet that nobody asks
REPORT_EVERY_S = 60.0  # numbers that drift are written that often


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """One pool as the cluster shows it. `startup_s`: measured; None before the first start."""

    desired: int
    ready: int
    pending_gpu_s: float = 0.0
    startup_s: float | None = None
    pending_gpu: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """The routers: how many should report, which did, how new it is, and since when it is whole."""

    expected: int
    fresh: tuple[str, ...]
    newest_s: float | None
    covers_from: int | None


@dataclass(frozen=True, slots=True)
class Said:
    """What stands in status."""

    objectives: ObjectivesStatus | None = None
    decision: DecisionStatus | None = None
    memory: AutoscalerMemoryStatus | None = None
    region_demand: RegionDemandStatus | None = None


class Scaler:
    """The state of one fleet, rebuilt from its status and from the routers' last minutes."""

    def __init__(self, spec: InferenceDeploymentSpec, status: InferenceDeploymentStatus, now_s: float) -> None:
        self.spec = spec
        self._memory = read_memory(status.autoscaler_memory, now_s)
        self._intake = Intake(_shipped(spec))
        self._signature: Signature = sign(status.last_decision)
        self._said_s = now_s
        self.said = Said(status.objectives, status.last_decision, status.autoscaler_memory, status.region_demand)
        self.decision: Decision | None = None
        self._supply = NOTHING_TO_SAY  # as of the last decision that was none to hold
        self._needy_s = now_s
        self._regions: FromRegions | None = None

    def follow(self, spec: InferenceDeploymentSpec) -> None:
        """Take a spec that was edited. Demand stays; another engine is measured anew."""
        before, after = _shipped(self.spec), _shipped(spec)
        if before != after:
            self._intake.refit = Refit(after) if after else None
        self.spec = spec

    def take(self, router: str, demand: FleetDemand, now_s: float) -> None:
        """What a router tells of this fleet.

        Raises:
            BadDemandError: a number cannot be; nothing was taken, and the fleet holds for a minute.
        """
        self._intake.take(router, demand, build_judge(self.spec, self._intake.model), now_s)

    def silence(self, router: str) -> None:
        """A router has nothing to tell of this fleet."""
        self._intake.silence(router)

    def step(
        self, pools: Mapping[Role, PoolSeen], sources: Sources, now_s: float, regions: FromRegions | None = None
    ) -> bool:
        """Decide once more. Returns whether there is news for the status. `regions`: None where they are off."""
        if sources.covers_from is not None:
            self._intake.history.cover(sources.covers_from)
        self._intake.forget_others(sources.fresh)
        if regions is None:
            self._intake.learn_decode(pools["decode"].ready, now_s)
        self._intake.trim(now_s)
        if not is_decided(self.spec):
            self.decision, self._supply = None, NOTHING_TO_SAY
            return self._say(None, now_s)
        if regions == self._regions and self._is_at_rest(pools, now_s):
            return False
        self._regions = regions
        seen = self._observe(pools, sources, now_s)
        self.decision = self._decide(seen)
        if self.decision.hold is None:
            self._supply = self.decision.supply
        if self._supply.uncoverable:
            self._needy_s = now_s
        return self._say(seen, now_s)

    def _is_at_rest(self, pools: Mapping[Role, PoolSeen], now_s: float) -> bool:
        """Nothing came for longer than any window, nothing runs, the sizes are as decided: once a minute is enough."""
        decided = self.decision
        if decided is None or decided.hold is not None or now_s - decided.at_s >= REST_S:
            return False
        sizes = (pools["prefill"].desired, pools["decode"].desired)
        is_settled = sizes == (decided.prefill.workers, decided.decode.workers)
        return is_settled and now_s >= decided.at_s and self._intake.is_silent()

    def wanted(self) -> dict[Role, int]:
        """Sizes to write; empty when nothing may be written."""
        if self.decision is None or self.decision.hold is not None or not may_act(self.spec):
            return {}
        return {"prefill": self.decision.prefill.workers, "decode": self.decision.decode.workers}

    def _observe(self, pools: Mapping[Role, PoolSeen], sources: Sources, now_s: float) -> Observation:
        return Observation(
            now_s=now_s,
            demand=self._intake.history,
            gauges=self._intake.gauges(),
            newest_s=sources.newest_s,
            sources_expected=sources.expected,
            sources_fresh=len(sources.fresh),
            prefill=self._pool(pools, "prefill"),
            decode=self._pool(pools, "decode"),
            residual=self._intake.residual,
            regions=self._regions or ALONE,
        )

    def _pool(self, pools: Mapping[Role, PoolSeen], role: Role) -> PoolState:
        seen = pools[role]
        startup_s = DEFAULT_STARTUP_S if seen.startup_s is None else seen.startup_s
        return PoolState(seen.desired, seen.ready, seen.pending_gpu_s, startup_s, seen.pending_gpu)

    def _decide(self, seen: Observation) -> Decision:
        fault = self._intake.fault(seen.now_s)
        if fault is not None:
            return _hold(seen, Hold("BadData", f"{fault}; restart that router"))
        try:
            moment = datetime.fromtimestamp(seen.now_s, UTC)
            settings = build_settings(self.spec, moment, self._intake.model)
        except (BadSettingsError, UnknownProfileError, UnknownTimeZoneError) as error:
            return _hold(seen, Hold("ConfigInvalid", str(error)))
        decision, self._memory = decide(settings, seen, self._memory)
        return decision

    def _say(self, seen: Observation | None, now_s: float) -> bool:
        """News is another decision at once, and numbers that drifted once a minute."""
        signature = sign(self.decision)
        is_other = signature != self._signature
        is_due = now_s - self._said_s >= REPORT_EVERY_S or self._must_tell_regions()
        if not is_due and not is_other:
            return False
        before, self._signature, self._said_s = self.said, signature, now_s
        self.said = self._report(seen, now_s, is_other=is_other)
        return self.said != before

    def _must_tell_regions(self) -> bool:
        """Whether help is needed, and was not before."""
        said = self.said.region_demand
        was_needed = said is not None and said.uncoverable is not None
        return self._regions is not None and not was_needed and bool(self._supply.uncoverable)

    def _report(self, seen: Observation | None, now_s: float, *, is_other: bool) -> Said:
        objectives = self.spec.objectives
        latency = build_objectives_status(objectives, self._intake.realised.latency()) if objectives else None
        if self.decision is None or seen is None:
            return Said(latency)
        decision = self.said.decision
        if is_other or decision is None:
            decision = build_decision_status(self.decision, seen, acted=may_act(self.spec))
        memory = build_memory_status(self._memory, now_s)
        return Said(latency, decision, _keep_if_same(self.said.memory, memory), self._word(now_s))

    def _word(self, now_s: float) -> RegionDemandStatus | None:
        """What to tell the regions: that help is needed at once, that it is no more after a minute without need.

        At a bound a need comes and goes, and other regions should not come and go with it.
        """
        if self._regions is None:
            return None
        said, word = self.said.region_demand, build_region_status(self._supply)
        is_calm = said is None or said.uncoverable is None or now_s - self._needy_s >= REPORT_EVERY_S
        return word if is_calm or word.uncoverable is not None else said


def _keep_if_same(before: AutoscalerMemoryStatus | None, after: AutoscalerMemoryStatus) -> AutoscalerMemoryStatus:
    """The older of two that differ in their time alone: at rest nothing is written."""
    if before is not None and (before.prefill, before.decode) == (after.prefill, after.decode):
        return before
    return after


def _shipped(spec: InferenceDeploymentSpec) -> PerformanceModel | None:
    """The speed that the spec names; None where it names none, or one that does not exist."""
    try:
        return read_profile(spec).performance
    except (BadSettingsError, UnknownProfileError):
        return None


def _hold(seen: Observation, hold: Hold) -> Decision:
    prefill, decode = seen.prefill.desired, seen.decode.desired
    return Decision(seen.now_s, PoolDecision(prefill, prefill, "held"), PoolDecision(decode, decode, "held"), hold)

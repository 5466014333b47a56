"""A fleet, a trace and what goes wrong, made into runs of any policy under equal conditions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from tandem_core.performance import PerformanceModel
from tandem_operator.autoscale.decode import Load, workers_for
from tandem_operator.autoscale.replay import Job, smallest_pool
from tandem_operator.autoscale.settings import Handover, Settings
from tandem_simulator.conditions import Conditions, Policy, Sizes
from tandem_simulator.engine.spec import EngineSpec
from tandem_simulator.faults import Faults
from tandem_simulator.fleet_spec import FleetSpec
from tandem_simulator.outcome import Outcome, score
from tandem_simulator.pool import Startup
from tandem_simulator.prefix_cache import cached_prefix_tokens
from tandem_simulator.simulation import Run, Simulation
from tandem_simulator.traffic.model import Trace
from tandem_simulator.workload import Workload, build_workload

LOAD_SPAN_S = 60.0
FIRST_LOOK_S = 10.0
WARM_MARGIN = 1.2  # on decode: a burst within a minute


@dataclass(frozen=True)
class Scenario:
    """Equal conditions for every policy.

    Args:
        warm: every policy starts with the workers that the first minutes need, and is frozen and unscored for one
            start-up time. Otherwise it starts with the replicas of the object, and all is scored.
        cache_tokens: fleet-wide prefix cache; None: infinite.
    """

    fleet: FleetSpec
    trace: Trace
    startup: Startup = field(default_factory=Startup)
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    warm: bool = True
    cache_tokens: int | None = None

    @property
    def believed(self) -> PerformanceModel:
        """What router and autoscaler think of the engine."""
        return self.fleet.profile.performance.scaled(self.faults.prefill_error, self.faults.decode_error)

    def workload(self) -> Workload:
        """The trace with costs and targets."""
        cached = cached_prefix_tokens(self.trace, self.cache_tokens, self.faults.flushes_s)
        return build_workload(self.trace, cached, self.believed, self.fleet.objectives)

    def settings(self) -> Settings:
        """What the production autoscaler is told."""
        fleet, spec = self.fleet, self.engine()
        step_s = self.believed.decode_step_s(fleet.max_sequences / 2, fleet.profile.kv_capacity_tokens / 2)
        return Settings(
            objectives=fleet.objectives,
            performance=self.believed,
            prefill=fleet.prefill,
            decode=fleet.decode,
            kv_capacity_tokens=fleet.profile.kv_capacity_tokens,
            max_sequences=fleet.max_sequences,
            handover=Handover(spec.transfer_base_s + step_s, spec.transfer_per_token_s),
            ratio=fleet.ratio,
            gpu_budget=fleet.gpu_budget,
        )

    def engine(self) -> EngineSpec:
        """The true engine."""
        profile = self.fleet.profile
        return EngineSpec(
            profile.performance, profile.kv_capacity_tokens, self.fleet.max_sequences, profile.kv_bytes_per_token
        )

    def conditions(self, workload: Workload) -> Conditions:
        """The world that every policy meets."""
        return Conditions(
            spec=self.engine(),
            startup=self.startup,
            initial=self._first_sizes(workload),
            tpot_s=self.fleet.objectives.tpot_s,
            unscored_s=self.startup.mean_s if self.warm else 0.0,
            acts_from_s=self.startup.mean_s if self.warm else FIRST_LOOK_S,
            drain_s=self.fleet.drain_s,
            seed=self.seed,
            faults=self.faults,
        )

    def _first_sizes(self, workload: Workload) -> Sizes:
        """Nothing that a policy asks for can be there before two start-ups: one frozen, one to start."""
        return warm_sizes(self.settings(), workload, 2 * self.startup.mean_s) if self.warm else self.fleet.replicas


def run_policy(
    scenario: Scenario,
    workload: Workload,
    build: Callable[[Simulation], Policy],
    conditions: Conditions | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Outcome, Run, Policy]:
    """One run. `build` makes the policy, which may read the simulation's journal as a router would report it."""
    conditions = conditions or scenario.conditions(workload)
    simulation = Simulation(workload, conditions)
    policy = build(simulation)
    run = simulation.run(policy, on_progress)
    gpus = (scenario.fleet.prefill.gpus, scenario.fleet.decode.gpus)
    outcome = score(
        policy.name,
        run,
        workload,
        tpot_target_s=scenario.fleet.objectives.tpot_s,
        unscored_s=conditions.unscored_s,
        gpus=gpus,
    )
    return outcome, run, policy


def warm_sizes(settings: Settings, workload: Workload, until_s: float) -> Sizes:
    """Workers that the trace needs up to `until_s`: where a fleet that has long been running would stand."""
    until_s = min(until_s, max(workload.trace.span_s, 1.0))
    count = int(np.searchsorted(workload.trace.arrival_s, until_s, side="right"))
    prefill = smallest_pool(_jobs(workload, count), 0.0025, 1, 1, settings.prefill.maximum)
    loads = [first_load(settings, workload, at_s, at_s + LOAD_SPAN_S) for at_s in np.arange(0.0, until_s, LOAD_SPAN_S)]
    decode = ceil(max(workers_for(settings, load) for load in loads) * WARM_MARGIN)
    return _within(settings, Sizes(prefill, decode))


def _within(settings: Settings, sizes: Sizes) -> Sizes:
    prefill, decode = settings.prefill, settings.decode
    return replace(
        sizes,
        prefill=min(max(sizes.prefill, prefill.awake), prefill.maximum),
        decode=min(max(sizes.decode, decode.awake), decode.maximum),
    )


def _jobs(workload: Workload, count: int) -> list[Job]:
    arrival_s, target_s = workload.trace.arrival_s[:count], workload.target_s[:count]
    service_s = workload.isolated_s[:count]
    columns = (arrival_s, service_s, arrival_s + target_s - service_s, target_s)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def first_load(settings: Settings, workload: Workload, from_s: float, until_s: float) -> Load:
    """Decode load by Little's law: what the requests of a span would hold if they kept coming."""
    low, high = (int(place) for place in np.searchsorted(workload.trace.arrival_s, (from_s, until_s)))
    step_s = settings.performance.decode_step_s(settings.max_sequences, settings.kv_capacity_tokens * 0.8)
    outputs = workload.trace.output_tokens[low:high].astype(np.float64)
    held = workload.trace.input_tokens[low:high] + outputs
    per_s = step_s / (until_s - from_s)
    return Load(float(outputs.sum()) * per_s, float((outputs * held).sum()) * per_s)

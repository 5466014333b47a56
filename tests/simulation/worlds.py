"""Worlds of the scenarios that peers reported: traffic by a rate over time, fleets by profile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tandem_simulator.fleet_spec import FleetSpec, read_fleet
from tandem_simulator.outcome import Outcome
from tandem_simulator.policies.naming import parse_policy
from tandem_simulator.scenario import Scenario, run_policy
from tandem_simulator.simulation import Run
from tandem_simulator.traffic.model import Trace, build_trace


def build_fleet(
    folder: Path, profile: str, *, ttft_s: float, tpot_s: float, most: int = 60, first: tuple[int, int] = (1, 1)
) -> FleetSpec:
    """A fleet of a profile with p99 objectives."""
    tensor = int(profile.rsplit("tp", 1)[1])
    pool = {"min": 1, "max": most, "parallelism": {"tensor": tensor}}
    spec: dict[str, Any] = {
        "model": {"name": "acme/model", "source": "hf://acme/model"},
        "engine": {"performanceProfile": profile},
        "prefill": {**pool, "replicas": first[0]},
        "decode": {**pool, "replicas": first[1]},
        "objectives": {
            "ttft": {"percentile": "p99", "seconds": ttft_s, "isolatedFactor": 3},
            "tpot": {"percentile": "p99", "seconds": tpot_s},
        },
    }
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"kind": "InferenceDeployment", "metadata": {"name": "fleet"}, "spec": spec}))
    return read_fleet(path, "h100", None)


def arrivals(rate_rps: Callable[[float], float], span_s: float, prompt: int, output: int, seed: int = 1) -> Trace:
    """Poisson arrivals of a rate that changes; lengths vary by 20 % around their means."""
    rng = np.random.default_rng(seed)
    grid = np.arange(0.0, span_s, 0.25)
    counts = rng.poisson([0.25 * rate_rps(at) for at in grid])
    times = np.repeat(grid, counts) + rng.uniform(0, 0.25, int(counts.sum()))
    lengths = [np.maximum(1, rng.normal(mean, 0.2 * mean, len(times)).astype(np.int64)) for mean in (prompt, output)]
    return build_trace(times, lengths[0], lengths[1], None, "made")


def play(scenario: Scenario, policy: str) -> tuple[Outcome, Run]:
    """Run one policy."""
    workload = scenario.workload()
    outcome, run, _ = run_policy(scenario, workload, parse_policy(policy, scenario, workload))
    return outcome, run


def ttft_s(scenario: Scenario, run: Run) -> np.ndarray:
    """TTFT of every request, in order of arrival."""
    return np.array(run.journal.first_token_s) - scenario.trace.arrival_s

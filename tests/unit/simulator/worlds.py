"""Small worlds to simulate: traces made on the spot, a 70B fleet."""

from pathlib import Path

import numpy as np
import yaml

from tandem_simulator.fleet_spec import FleetSpec, read_fleet
from tandem_simulator.traffic.model import Trace, build_trace

FLEET = {
    "apiVersion": "tandem.dev/v1alpha1",
    "kind": "InferenceDeployment",
    "metadata": {"name": "llama-70b"},
    "spec": {
        "model": {"name": "meta-llama/Llama-3.1-70B-Instruct"},
        "engine": {"performanceProfile": "70b-h100-tp4"},
        "prefill": {"replicas": 2, "min": 1, "max": 60, "parallelism": {"tensor": 4}},
        "decode": {"replicas": 2, "min": 1, "max": 60, "parallelism": {"tensor": 4}},
        "objectives": {
            "ttft": {"percentile": "p99", "seconds": 2, "isolatedFactor": 3},
            "tpot": {"percentile": "p99", "seconds": 0.05},
        },
    },
}


def write_fleet(folder: Path, **spec) -> Path:
    """The fleet as a file, with some fields of its spec replaced."""
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({**FLEET, "spec": {**FLEET["spec"], **spec}}))
    return path


def fleet(folder: Path, **spec) -> FleetSpec:
    """The fleet as it is read."""
    return read_fleet(write_fleet(folder, **spec), "h100", None)


def poisson(rate_rps: float, span_s: float, *, prompt: int = 1000, output: int = 100, seed: int = 1) -> Trace:
    """Independent arrivals with exponential lengths."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, int(rate_rps * span_s)))
    return build_trace(
        arrivals,
        np.maximum(1, rng.exponential(prompt, len(arrivals)).astype(np.int64)),
        np.maximum(1, rng.exponential(output, len(arrivals)).astype(np.int64)),
        None,
        "poisson",
    )


def even(count: int, every_s: float, prompt: int, output: int) -> Trace:
    """Equal requests at equal distances."""
    sizes = (np.full(count, prompt, dtype=np.int64), np.full(count, output, dtype=np.int64))
    return build_trace(np.arange(count) * every_s, *sizes, None, "even")

"""Recorded traffic at ten times its speed: pools follow it, no stream is lost, and the simulator had said so before."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.installation import Installation
from demo.milestones import condition_of
from fleets import Fleets, build_sim_fleet
from replay import Ledger, play, thin
from tandem_api import labels
from tandem_simulator.faults import Faults
from tandem_simulator.fleet_spec import read_fleet
from tandem_simulator.policies.naming import parse_policy
from tandem_simulator.pool import Startup
from tandem_simulator.scenario import Scenario, run_policy
from tandem_simulator.traffic.model import Trace
from tandem_simulator.traffic.reading import read_trace
from tandem_simulator.traffic.servegen import Span

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

TRACES = Path(__file__).resolve().parents[1] / "bench" / "autoscaler" / "traces"
SPEEDUP = 10.0
EVERY = 40  # one of so many requests: a processor plays engines, routers and clients together
STARTUP_S = 8.0
LEAD_IN_S = 60.0  # both see so much traffic before they decide
TTFT_S, TPOT_S, FACTOR = 8.0, 0.2, 3.0
# A slow engine, so that few requests need several: a prompt of the trace takes 1.5 s, a token 70 ms.
P0_MS, P1_MS, P2_MS, D0_MS, D1_MS, D2_MS = 20.0, 1.2, 0.0, 60.0, 1.0, 0.0
KV_TOKENS, SLOTS = 100_000, 8
TOLD = ("requests", "attainment", "gpu_hours", "ttft_s", "tpot_s", "prefill", "decode", "starts")


def build_fleet(name: str) -> dict[str, Any]:
    """Engines of known speed, and objectives that they can just meet."""
    flags = {
        "start-ms": STARTUP_S * 1000,
        "prefill-base-ms": P0_MS,
        "prefill-token-ms": P1_MS,
        "prefill-square-ms": P2_MS,
        "decode-base-ms": D0_MS,
        "decode-sequence-ms": D1_MS,
        "decode-context-ms": D2_MS,
        "kv-tokens": KV_TOKENS,
    }
    model = {"p0Ms": P0_MS, "p1Ms": P1_MS, "p2Ms": P2_MS, "d0Ms": D0_MS, "d1Ms": D1_MS, "d2Ms": D2_MS}
    return build_sim_fleet(
        name,
        engine={
            "type": "sim",
            "batching": {"maxNumSeqs": SLOTS},
            "performanceModel": {**model, "kvCapacityTokens": KV_TOKENS},
            "extraArgs": [f"--sim-{flag}={value}" for flag, value in flags.items()],
        },
        prefill={"replicas": 3, "min": 1, "max": 8},
        decode={"replicas": 5, "min": 1, "max": 10},
        objectives={
            "ttft": {"percentile": "p95", "seconds": TTFT_S, "isolatedFactor": FACTOR},
            "tpot": {"percentile": "p95", "seconds": TPOT_S},
        },
        autoscaling={"mode": "External"},
        routing={"queueTimeoutSeconds": 120},
        drain={"timeoutSeconds": 120},
    )


@dataclass
class Watch:
    """Pods by role, second by second, and every decision that stood in status."""

    seconds: list[tuple[float, int, int]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def gpu_hours(self, until_s: float) -> float:
        """Workers × time, from creation to the end of their drain; one GPU each."""
        total, last = 0.0, (0.0, *self.seconds[0][1:])
        for row in (*(one for one in self.seconds if one[0] < until_s), (until_s, 0, 0)):
            total += (row[0] - last[0]) * (last[1] + last[2])
            last = row
        return total / 3600


@contextmanager
def watching(tandem_objects: Any, name: str) -> Iterator[Watch]:
    """Looks once a second while the block runs."""
    watch, stop, began_s = Watch(), threading.Event(), time.monotonic()

    def look() -> None:
        while not stop.is_set():
            pods = tandem_objects.fetch_all_pods(f"{labels.FLEET}={name}")
            roles = [pod.metadata.labels[labels.ROLE] for pod in pods]
            watch.seconds.append((time.monotonic() - began_s, roles.count("prefill"), roles.count("decode")))
            decision = tandem_objects.fetch_fleet(name).get("status", {}).get("lastDecision")
            if decision and decision not in watch.decisions:
                watch.decisions.append(decision)
            stop.wait(1.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def read_slice() -> Trace:
    """Half an hour of Azure's conversation trace in three minutes, thinned."""
    trace = read_trace(TRACES / "azure2023_conv_dev.csv.gz", None, 1, Span())
    return thin(trace, EVERY).faster(SPEEDUP)


def simulate(
    folder: Path, fleet: dict[str, Any], trace: Trace, startup_s: float, slowdown: float = 1.0
) -> dict[str, Any]:
    """What the simulator says of the same run, on engines that are `slowdown` times as slow as everybody believes."""
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    spec = read_fleet(path, "h100", None)
    true = replace(spec.profile, performance=spec.profile.performance.scaled(slowdown, slowdown))
    believed = Faults(prefill_error=1.0 / slowdown, decode_error=1.0 / slowdown)
    scenario = Scenario(replace(spec, profile=true), trace, startup=Startup(startup_s), faults=believed, warm=False)
    workload = scenario.workload()
    conditions = replace(scenario.conditions(workload), acts_from_s=LEAD_IN_S)
    outcome, run, _ = run_policy(scenario, workload, parse_policy("tandem", scenario, workload), conditions)
    sizes = {"prefill": sorted({row[2] for row in run.sizes}), "decode": sorted({row[4] for row in run.sizes})}
    return outcome.to_json() | sizes


def target_s(prompt_tokens: int) -> float:
    return max(TTFT_S, FACTOR * (P0_MS + P1_MS * prompt_tokens) / 1000)


def test_pools_follow_recorded_traffic_as_the_simulator_said(
    tandem: Installation, fleets: Fleets, router_url: str, tmp_path: Path
) -> None:
    trace, manifest = read_slice(), build_fleet("follows")
    fleets.apply(manifest)
    fleets.wait_ready("follows")
    take_over = threading.Timer(
        LEAD_IN_S, tandem.objects.patch_spec, ("follows", {"autoscaling": {"mode": "Objectives"}})
    )
    with watching(tandem.objects, "follows") as watch:
        take_over.start()
        ledger = asyncio.run(play(router_url, "follows", trace))
    take_over.join()
    status = fleets.fetch("follows")["status"]
    assert ledger.faults == []
    assert len(ledger.entries) == len(trace)
    assert_explained(watch)
    measured_s = max(one["seconds"] for one in status["startup"])
    report(watch, ledger, trace, lambda slowdown: simulate(tmp_path, manifest, trace, measured_s, slowdown), status)


def assert_explained(watch: Watch) -> None:
    """Sizes moved, and each decision that stood in status has its terms, its inputs and the bound that won."""
    assert len({row[1:] for row in watch.seconds}) > 2, "no pool followed the load"
    acted = [one for one in watch.decisions if "hold" not in one]
    assert len(acted) >= 3
    for decision in acted:
        assert decision["inputs"]["routersHeard"] == decision["inputs"]["routersExpected"]
        for role in ("prefill", "decode"):
            assert decision[role]["bound"]
            assert decision[role]["terms"]["expected"] > 0


Prediction = Callable[[float], dict[str, Any]]  # slowdown → what the simulator says


def report(watch: Watch, ledger: Ledger, trace: Trace, predict: Prediction, status: dict[str, Any]) -> None:
    """Prints what was seen beside what was simulated, and fails where they lie far apart.

    A busy machine is slower than its model, by as much as its tokens take longer. So a second simulation is told,
    on engines as slow as those were: what still differs there is the simulator's fault.
    """
    targets = {
        at: target_s(tokens) for at, tokens in zip(trace.arrival_s.tolist(), trace.input_tokens.tolist(), strict=True)
    }
    seen = {
        "requests": len(ledger.entries),
        "attainment": round(ledger.attainment(targets, TPOT_S), 4),
        "gpu_hours": round(watch.gpu_hours(trace.span_s), 4),
        "ttft_s": {f"p{share}": round(ledger.percentile("ttft_s", share), 3) for share in (50, 95)},
        "tpot_s": {f"p{share}": round(ledger.percentile("tpot_s", share), 4) for share in (50, 95)},
        "prefill": sorted({row[1] for row in watch.seconds}),
        "decode": sorted({row[2] for row in watch.seconds}),
    }
    told = {name: one for name, one in predict(1.0).items() if name in TOLD}
    slowdown = max(1.0, ledger.percentile("tpot_s", 50) / told["tpot_s"]["p50"])
    document = {
        "seen": seen,
        "simulated": told,
        "slowdown": round(slowdown, 3),
        "simulated_as_slow": {name: one for name, one in predict(slowdown).items() if name in TOLD},
        "status": status["objectives"],
        "load_average": os.getloadavg(),
    }
    print(json.dumps(document, indent=1))
    if "TANDEM_E2E_RESULTS" in os.environ:
        Path(os.environ["TANDEM_E2E_RESULTS"]).write_text(json.dumps(document, indent=1) + "\n")
    assert seen["gpu_hours"] == pytest.approx(told["gpu_hours"], rel=0.25)
    assert seen["attainment"] >= told["attainment"] - 0.1


def test_a_fleet_goes_to_zero_and_comes_back_for_the_first_request(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """The request that wakes it waits in the router, and is answered."""
    manifest = build_fleet("sleeps")
    manifest["spec"]["autoscaling"] = {"mode": "Objectives", "scaleToZeroAfterSeconds": 60}
    manifest["spec"]["prefill"]["replicas"] = manifest["spec"]["decode"]["replicas"] = 1
    fleets.apply(manifest)
    fleets.wait_ready("sleeps")
    fleets.wait_pods("sleeps", "decode", 0, timeout_s=240)
    fleets.wait_pods("sleeps", "prefill", 0, timeout_s=60)
    assert condition_of(fleets.fetch("sleeps"), "AutoscalerActive")["status"] == "True"
    one = Trace(
        *(values[:1] for values in (read_slice().arrival_s * 0, read_slice().input_tokens, read_slice().output_tokens))
    )
    ledger = asyncio.run(play(router_url, "sleeps", one))
    assert ledger.faults == []
    assert min(len(fleets.pods("sleeps", role)) for role in ("prefill", "decode")) >= 1

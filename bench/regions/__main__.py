"""Regions, simulated: Tandem's choice of a region beside five others, with equal queues, engines and caches below.

    make bench-regions

Three regions whose days are shifted by a third, 90 to 200 ms apart, each with the same workers. For each slice: the
highest rate at which the p90 of TTFT stays within twice its value on idle regions; then, at one common rate, the
tails. Results: bench/results/.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from tandem_simulator.conditions import Conditions, Sizes
from tandem_simulator.fleet_spec import read_fleet
from tandem_simulator.pool import Startup
from tandem_simulator.regions.choosers import (
    Chooser,
    GlobalRouter,
    LeastLoaded,
    Nearest,
    RoundRobin,
    SkyWalker,
    Tandem,
)
from tandem_simulator.regions.geography import Geography, build_geography, spread_over_days
from tandem_simulator.regions.world import World, WorldRun
from tandem_simulator.scenario import Scenario
from tandem_simulator.traffic.model import Ints, Trace
from tandem_simulator.traffic.reading import read_trace
from tandem_simulator.traffic.servegen import Span
from tandem_simulator.workload import Workload, build_workload

ROOT = Path(__file__).resolve().parents[2]
TRACES, RESULTS = ROOT / "bench" / "autoscaler" / "traces", ROOT / "bench" / "results"
REGIONS, RTTS_S = ("eu", "us", "ap"), (0.09, 0.2, 0.13)
IDLE_SPEEDUP, P90_LIMIT, SEED = 0.1, 2.0, 1
SIZES = Sizes(prefill=4, decode=8)
CACHE_TOKENS = 4_000_000  # per region
CHOOSERS: dict[str, Callable[[Geography], Chooser]] = {
    "tandem": Tandem, "skywalker": SkyWalker, "global": GlobalRouter, "least-loaded": LeastLoaded,
    "round-robin": RoundRobin, "nearest": Nearest,
}  # fmt: skip
SLICES: dict[str, Callable[[], Trace]] = {
    "azure-conv": lambda: read("azure2023_conv_dev.csv.gz"),
    "azure-code": lambda: read("azure2023_code_dev.csv.gz"),
    "mooncake": lambda: read("mooncake_conversation_dev.jsonl.gz"),
}


def read(name: str) -> Trace:
    """At most 12,000 requests of a committed slice."""
    trace = read_trace(TRACES / name, None, SEED, Span())
    return trace.between(0.0, float(trace.arrival_s[min(len(trace), 12_000) - 1]))


class Stage:
    """One slice's traffic over one geography, at any rate."""

    def __init__(self, trace: Trace, geography: Geography, fleet: Path, *, is_spread: bool = True) -> None:
        self._trace, self._geography, self._is_spread = trace, geography, is_spread
        self._spec = read_fleet(fleet, "h100", None)
        self.mean_rate = len(trace) / trace.span_s

    def run(self, chooser: Callable[[Geography], Chooser], speedup: float, sizes: Sizes | None = None) -> "Seen":
        """Serve the slice `speedup` times as fast."""
        trace, origins = spread_over_days(self._trace.faster(speedup), len(self._geography.names), SEED)
        if not self._is_spread:
            origins = np.zeros_like(origins)
        scenario = Scenario(self._spec, trace, startup=Startup(60.0), warm=False)
        nothing: Ints = np.zeros(len(trace), dtype=np.int64)
        workload = build_workload(trace, nothing, scenario.believed, self._spec.objectives)
        geography = self._geography
        if sizes is not None:
            geography = replace(geography, sizes=dict.fromkeys(geography.names, sizes))
        world = World(workload, origins, self._conditions(scenario), geography, CACHE_TOKENS)
        return Seen(world.run(chooser(geography)), workload, self._spec.objectives.tpot_s)

    def _conditions(self, scenario: Scenario) -> Conditions:
        return Conditions(scenario.engine(), Startup(60.0), SIZES, self._spec.objectives.tpot_s)


class Seen:
    """What a run showed."""

    def __init__(self, run: WorldRun, workload: Workload, tpot_s: float) -> None:
        self.run = run
        ttft = np.where(np.isnan(run.ttft_s), np.inf, run.ttft_s)
        self.p50, self.p90, self.p99 = (float(np.percentile(ttft, share, method="higher")) for share in (50, 90, 99))
        met = (ttft <= workload.target_s) & ~(run.tpot_s > tpot_s)
        self.attainment = float(met.mean())
        self.left_home = float((run.served != run.origins).mean())
        self.hit_share = run.cached_tokens / float(workload.trace.input_tokens.sum())


def highest_rate(stage: Stage, chooser: Callable[[Geography], Chooser], limit_s: float) -> float:
    """The greatest speedup whose p90 TTFT stays within the limit, to 1.5 %, by bisection on a logarithmic scale."""
    low, high = bracket(stage, chooser, limit_s)
    while high / low > 1.015:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stage.run(chooser, middle).p90 <= limit_s else (low, middle)
    return low


def measure(name: str, fleet: Path) -> dict[str, Any]:
    """All choosers on one slice."""
    stage = Stage(SLICES[name](), build_geography(REGIONS, SIZES, RTTS_S), fleet)
    limit_s = P90_LIMIT * stage.run(Nearest, IDLE_SPEEDUP).p90
    rates = {
        one: highest_rate(stage, made, limit_s)
        for one, made in track(CHOOSERS.items(), f"{name}: rates at p90 TTFT = {limit_s:.2f} s")
    }
    common = 0.95 * rates["tandem"]
    tails = {one: stage.run(made, common) for one, made in CHOOSERS.items()}
    rows = {
        one: {
            "requests_per_s": rates[one] * stage.mean_rate,
            "p50_s": seen.p50, "p90_s": seen.p90, "p99_s": seen.p99, "attainment": seen.attainment,
            "left_home": seen.left_home, "cached_share": seen.hit_share,
        }
        for one, seen in tails.items()
    }  # fmt: skip
    return {
        "rows": rows,
        "limit_s": limit_s,
        "common_requests_per_s": common * stage.mean_rate,
        "workers": workers_needed(stage, common),
    }


def bracket(stage: Stage, chooser: Callable[[Geography], Chooser], limit_s: float) -> tuple[float, float]:
    """A speedup that holds, and twice it that does not."""
    speedup = 1.0
    while stage.run(chooser, speedup).p90 > limit_s:
        if speedup < IDLE_SPEEDUP:  # one for whom the way alone is too long
            return speedup, speedup
        speedup /= 2.0
    while stage.run(chooser, 2.0 * speedup).p90 <= limit_s:
        speedup *= 2.0
    return speedup, 2.0 * speedup


def workers_needed(stage: Stage, speedup: float) -> dict[str, int]:
    """Smallest number of prefill workers per region that reaches 99 % attainment, decode workers being ample."""
    found = {}
    for name in ("tandem", "nearest"):
        low, high = 0, 64
        while high - low > 1:
            middle = (low + high) // 2
            is_enough = stage.run(CHOOSERS[name], speedup, Sizes(middle, 4 * SIZES.decode)).attainment >= 0.99
            low, high = (low, middle) if is_enough else (middle, high)
        found[name] = high
    return found


def split_of_one_and_two(fleet: Path, speedup: float = 5.0) -> float:
    """All requests come where nobody serves; of two peers as far away one has twice the workers. Its share of them.

    At a rate of about nine tenths of what the two can take.
    """
    trace = SLICES["azure-conv"]()
    geography = build_geography(("home", "one", "two"), Sizes(0, 0), (0.08, 0.08, 0.08))
    sizes = {"home": Sizes(0, 0), "one": Sizes(2, 6), "two": Sizes(4, 12)}
    stage = Stage(trace, replace(geography, sizes=sizes), fleet, is_spread=False)
    return float((stage.run(Tandem, speedup).run.served == 2).mean())


def residency_breaches(fleet: Path) -> tuple[int, int]:
    """Requests, and how many of them were served where their region's users do not allow it."""
    allowed = {"eu": frozenset({"eu"}), "us": frozenset({"us", "ap"})}
    geography = build_geography(REGIONS, SIZES, RTTS_S, allowed)
    trace = SLICES["azure-conv"]().superposed(9, SEED)
    run = Stage(trace, geography, fleet).run(Tandem, 0.6).run
    bound = [allowed.get(REGIONS[origin]) for origin in run.origins]
    breaches = sum(limit is not None and REGIONS[at] not in limit for limit, at in zip(bound, run.served, strict=True))
    return len(trace), breaches


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", nargs="+", choices=list(SLICES), default=list(SLICES), metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write bench/results/regions.{json,md}")
    options = parser.parse_args()
    fleet = ROOT / "bench" / "autoscaler" / "fleet-70b.yaml"
    found = {name: measure(name, fleet) for name in options.slices}
    requests, breaches = residency_breaches(fleet)
    extra = {"split_two_thirds": split_of_one_and_two(fleet), "requests": requests, "breaches": breaches}
    text = describe(found, extra)
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "regions.md").write_text(text)
        (RESULTS / "regions.json").write_text(json.dumps({"slices": found, **extra}, indent=1) + "\n")
    return 0


def describe(found: dict[str, Any], extra: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Regions, simulated (`make bench-regions`)",
        "",
        f"Regions {', '.join(REGIONS)}, round trips {', '.join(f'{rtt * 1000:.0f} ms' for rtt in RTTS_S)}; "
        f"{SIZES.prefill} prefill and {SIZES.decode} decode workers each (70B on 4 × H100).",
        f"Rate: the highest whose p90 TTFT stays within {P90_LIMIT:g} × that of idle regions.",
        "Tails: all at 0.95 × the rate of tandem.",
    ]
    for name, one in found.items():
        ours = one["rows"]["tandem"]["requests_per_s"]
        limit_s = one["limit_s"]
        lines += [
            "",
            f"## {name}: rates at p90 TTFT = {limit_s:.2f} s, tails at {one['common_requests_per_s']:.1f} requests/s",
            "",
        ]
        lines += ["| chooser | requests/s | tandem's is | p50 | p90 | p99 | attainment | left home | cached |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for chooser, row in one["rows"].items():
            rate = row["requests_per_s"]
            lines.append(
                f"| {chooser} | {rate:.2f} | {ours / rate:.2f} × | {row['p50_s']:.2f} s | "
                f"{row['p90_s']:.2f} s | {row['p99_s']:.2f} s | {row['attainment']:.1%} | {row['left_home']:.0%} | "
                f"{row['cached_share']:.0%} |"
            )
        workers = one["workers"]
        lines += ["", f"Prefill workers a region for 99 % attainment at that rate: {workers['tandem']} with regions "
                  f"that help each other, {workers['nearest']} isolated."]  # fmt: skip
    lines += [
        "",
        f"A peer with two thirds of the workers got {extra['split_two_thirds']:.1%} of the requests (ideal 66.7 %). "
        f"Residency: {extra['breaches']} breaches in {extra['requests']:,} requests.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

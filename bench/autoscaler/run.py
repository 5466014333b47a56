"""`python bench/autoscaler/run.py`: every policy on every slice under equal conditions; table, plot, JSON.

One configuration of Tandem for all. FULL=1: larger windows, start-up times of 15, 60, 120 and 180 s, three seeds.
Results are written after each run, and runs that are there already are skipped: it can be stopped at any time.
"""

import argparse
import json
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from slices import FULL, SLICES  # noqa: E402
from summary import write_summary  # noqa: E402

from tandem_simulator.fleet_spec import read_fleet  # noqa: E402
from tandem_simulator.oracle import search_oracle, search_static  # noqa: E402
from tandem_simulator.outcome import Outcome  # noqa: E402
from tandem_simulator.policies.naming import parse_policy  # noqa: E402
from tandem_simulator.pool import Startup  # noqa: E402
from tandem_simulator.scenario import Scenario, run_policy  # noqa: E402

HPA = tuple(f"hpa:{target:g}" for target in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85))
PEERS = ("queue-hpa:0.8", "dynamo", "dynamo:60,0.5", "velocity", "fixed-ratio")
POLICIES = ("tandem", *HPA, *PEERS, "static", "oracle")


def main() -> int:
    """Run what is missing, then summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", choices=("70b", "8b"), default="70b")
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="NAME")
    parser.add_argument("--slices", nargs="+", default=list(SLICES), metavar="NAME", choices=list(SLICES))
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="FOLDER")
    options = parser.parse_args()
    full = os.environ.get("FULL") == "1"
    startups, seeds = ((15.0, 60.0, 120.0, 180.0), (0, 1, 2)) if full else ((120.0,), (0,))
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / f"results-{options.fleet}{'-full' if full else ''}.json"
    done: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    grid = list(product(options.slices, startups, seeds, options.policies))
    with _progress() as progress:
        task = progress.add_task("runs", total=len(grid))
        for name, startup_s, seed, policy in grid:
            key = f"{name}|{startup_s:g}|{seed}|{policy}"
            progress.update(task, description=key)
            if key not in done:
                done[key] = _measure(options.fleet, (FULL if full else SLICES)[name], startup_s, seed, policy)
                store.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
            progress.advance(task)
    write_summary(done, store.with_suffix(".md"), store.with_suffix(".png"))
    Console().print(store.with_suffix(".md").read_text())
    return 0


def _measure(fleet: str, build_trace: Any, startup_s: float, seed: int, policy: str) -> dict[str, Any]:
    spec = read_fleet(HERE / f"fleet-{fleet}.yaml", "h100", None)
    scenario = Scenario(spec, build_trace(), startup=Startup(startup_s), seed=seed)
    return _run(scenario, policy).to_json()


def _run(scenario: Scenario, policy: str) -> Outcome:
    workload = scenario.workload()
    if policy in ("oracle", "static"):
        search = search_oracle if policy == "oracle" else search_static
        return search(scenario, workload, lambda _: None)[0]
    return run_policy(scenario, workload, parse_policy(policy, scenario, workload))[0]


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


if __name__ == "__main__":
    sys.exit(main())

"""The routing decision against its peers' in simulation: `python -m bench.routing`. No network, no engines.

The knee is the rate at which round robin's p95 TTFT reaches twice that of an almost idle fleet. The loads above it
are shares of the rate that the workers could serve if they shared one cache of any size; separate caches reach some
two thirds of that. Every policy sees the same arrivals.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.routing.policies import CacheAware, RoundRobin, Tandem
from bench.routing.traffic import BLOCK_TOKENS, build_traffic
from bench.routing.world import World

from tandem_core.profiles import find_profile

RESULTS = Path(__file__).parents[1] / "results"
WORKERS = 8
LOADS = (0.45, 0.55, 0.65)
PROFILE = "8b-h100-tp1"
POLICIES = (
    RoundRobin,
    CacheAware,
    lambda: Tandem(1, holds=False),
    lambda: Tandem(1),
)


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=6_000, help="per run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    idle_s = quantile(run(RoundRobin, 1, options).ttft_s, 0.95)
    knee = next(rate for rate in range(5, 500, 5) if quantile(run(RoundRobin, rate, options).ttft_s, 0.95) > 2 * idle_s)
    ideal = ideal_rate(options)
    rates = {"knee": knee} | {f"{load:.0%} of ideal": round(load * ideal) for load in LOADS}
    rows = [measure(build, rate, label, options) for label, rate in rates.items() for build in POLICIES]
    text = render(rows, options)
    print(text)
    if options.write:
        RESULTS.joinpath("routing.md").write_text(text)
        RESULTS.joinpath("routing.json").write_text(json.dumps(rows, indent=1) + "\n")


def run(build: Any, per_s: float, options: argparse.Namespace) -> World:
    """One policy at one rate."""
    profile = find_profile(PROFILE)
    prompts = build_traffic(options.requests, per_s, options.seed)
    world = World(prompts, WORKERS, profile.performance, profile.kv_capacity_tokens // 64, build())
    world.run()
    return world


def ideal_rate(options: argparse.Namespace) -> float:
    """Requests per second that keep all workers busy if every block is computed once."""
    model, seen = find_profile(PROFILE).performance, set[int]()
    work_s = 0.0
    prompts = build_traffic(options.requests, 1.0, options.seed)
    for prompt in prompts:
        new = max(1, sum(block not in seen for block in prompt.blocks) * BLOCK_TOKENS)
        seen.update(prompt.blocks)
        work_s += model.prefill_work_s(new / model.step_tokens, new, new * (2.0 * prompt.tokens - new))
    return WORKERS * len(prompts) / work_s


def measure(build: Any, per_s: float, label: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    world = run(build, per_s, options)
    scored = world.ttft_s[len(world.ttft_s) // 10 :]
    tokens = sum(prompt.tokens for prompt in world.prompts)
    return {
        "at": label,
        "requests_per_s": per_s,
        "policy": world.policy.name,
        "p50_s": quantile(scored, 0.5),
        "p90_s": quantile(scored, 0.9),
        "p95_s": quantile(scored, 0.95),
        "p99_s": quantile(scored, 0.99),
        "hit_share": 1 - world.computed_tokens / tokens,
    }


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def render(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table and the verdicts."""
    lines = [
        "# The routing decision in simulation",
        "",
        f"{WORKERS} prefill workers ({PROFILE}), {options.requests} requests a run, seed {options.seed}: "
        "conversations over 40 system prompts. TTFT in seconds.",
        "",
        "| at | requests/s | policy | p50 | p90 | p95 | p99 | prompt tokens from cache |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['at']} | {row['requests_per_s']} | {row['policy']} | {row['p50_s']:.3f} | {row['p90_s']:.3f} | "
        f"{row['p95_s']:.3f} | {row['p99_s']:.3f} | {row['hit_share']:.0%} |"
        for row in rows
    ]
    found = {(row["at"], row["policy"]): row for row in rows}
    knee = found["knee", "tandem"]["p95_s"] / found["knee", "round robin"]["p95_s"]
    lines += ["", f"p95 TTFT at the knee / round robin: {knee:.2f} (goal ≤ 1.05: {judge(knee, 1.05)})"]
    for load in LOADS:
        at = f"{load:.0%} of ideal"
        pushed = found[at, "tandem"]["p90_s"] / found[at, "blind push, cache-aware"]["p90_s"]
        lines.append(f"p90 TTFT at {at} / blind push: {pushed:.2f} (goal ≤ 0.33: {judge(pushed, 1 / 3)})")
    return "\n".join(lines) + "\n"


def judge(ratio: float, goal: float) -> str:
    """The goal is reached, or missed."""
    return "reached" if ratio <= goal else "MISSED"


if __name__ == "__main__":
    main()

"""`tandem simulate`: read, run, write, tell."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tandem_operator.autoscale.settings import BadSettingsError
from tandem_simulator.conditions import Policy
from tandem_simulator.errors import FleetError, UsageError
from tandem_simulator.faults import Faults
from tandem_simulator.fleet_spec import read_fleet
from tandem_simulator.oracle import search_oracle
from tandem_simulator.outcome import Outcome
from tandem_simulator.policies.naming import check_policy, parse_policy
from tandem_simulator.pool import Startup
from tandem_simulator.scenario import Scenario, run_policy
from tandem_simulator.simulation import Run
from tandem_simulator.traffic.model import Trace
from tandem_simulator.traffic.reading import read_trace
from tandem_simulator.traffic.servegen import Span
from tandem_simulator.workload import Workload

SLOW_FACTOR = 3.0


def simulate(options: argparse.Namespace, console: Console) -> int:
    """Run one policy on one trace.

    Raises:
        SimulatorError: an input is wrong.
    """
    _check(options)
    check_policy(options.policy)
    scenario = build_scenario(options)
    _check_limits(scenario)
    workload = scenario.workload()
    console.print(
        f"{len(workload):,} requests in {scenario.trace.span_s:,.0f} s"
        + (" (the trace goes on; see --max-requests)" if scenario.trace.truncated else "")
    )
    with _progress(console) as progress:
        outcome, run, policy = _run(options.policy, scenario, workload, progress)
    document = build_document(outcome, run, policy, scenario, options.gpu_price)
    _write(options.json, json.dumps(document, indent=1, allow_nan=False, default=str) + "\n", "--json")
    if options.report is not None:
        from tandem_simulator.report import write_report  # matplotlib takes a second to import

        write_report(options.report, document)
    console.print(_table(document))
    return 0


def build_scenario(options: argparse.Namespace) -> Scenario:
    """Fleet, trace and faults from the flags."""
    fleet = read_fleet(options.fleet, options.gpu.lower(), options.profile)
    return Scenario(
        fleet=fleet,
        trace=_trace(options),
        startup=Startup(options.startup_s, options.fail_starts, SLOW_FACTOR, options.slow_starts),
        faults=Faults(
            kills=tuple(_kill(text) for text in options.kill),
            blind_s=tuple(_span(text) for text in options.blind),
            flushes_s=tuple(options.flush),
            prefill_error=options.model_error,
            decode_error=options.model_error,
        ),
        seed=options.seed,
        warm=options.start == "warm",
        cache_tokens=options.prefix_cache_tokens,
    )


def build_document(
    outcome: Outcome, run: Run, policy: Policy, scenario: Scenario, gpu_price: float | None
) -> dict[str, Any]:
    """The JSON output: scores first, then the course of sizes and the explained decisions."""
    document = outcome.to_json()
    document["requests_per_s"] = outcome.requests / max(outcome.span_s, 1e-9)
    document["truncated"] = scenario.trace.truncated
    if gpu_price is not None:
        document["cost"] = outcome.gpu_hours * gpu_price
    document["seed"], document["startup_s"] = scenario.seed, scenario.startup.mean_s
    document["fleet"], document["profile"] = scenario.fleet.name, scenario.fleet.profile.name
    columns = ("at_s", "prefill_ready", "prefill_asked", "decode_ready", "decode_asked")
    document["sizes"] = [dict(zip(columns, row, strict=True)) for row in run.sizes]
    document["decisions"] = policy.explain()
    return document


def _run(name: str, scenario: Scenario, workload: Workload, progress: Progress) -> tuple[Outcome, Run, Policy]:
    if name == "oracle":
        task = progress.add_task("oracle: trying plans", total=None)
        return search_oracle(scenario, workload, lambda done: progress.update(task, completed=done))
    task = progress.add_task(name, total=len(workload))
    builder = parse_policy(name, scenario, workload)
    result = run_policy(scenario, workload, builder, on_progress=lambda done: progress.update(task, completed=done))
    progress.update(task, completed=len(workload))
    return result


def _trace(options: argparse.Namespace) -> Trace:
    span = Span(options.from_s, options.duration_s, options.keep, options.max_requests)
    trace = read_trace(options.trace, options.trace_format, options.seed, span)
    if options.copies > 1:
        trace = trace.superposed(options.copies, options.seed)
    return trace if options.speedup == 1.0 else trace.faster(options.speedup)


CHECKS: tuple[tuple[str, str, Callable[[float], bool], str], ...] = (
    ("--speedup", "speedup", lambda value: 0 < value < float("inf"), "above zero"),
    ("--copies", "copies", lambda value: value >= 1, "1 or more"),
    ("--startup-s", "startup_s", lambda value: 0 < value < 86_400, "above zero, in seconds"),
    ("--max-requests", "max_requests", lambda value: value >= 1, "1 or more"),
    ("--seed", "seed", lambda value: value >= 0, "zero or more"),
    ("--fail-starts", "fail_starts", lambda value: 0 <= value < 1, "from 0 to below 1"),
    ("--slow-starts", "slow_starts", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("--model-error", "model_error", lambda value: 0 < value < 100, "above zero, such as 1.2"),
)


def _check(options: argparse.Namespace) -> None:
    """Flags that argparse cannot judge; and outputs, before minutes of work."""
    for flag, name, is_good, wanted in CHECKS:
        if not is_good(getattr(options, name)):
            raise UsageError(f"{flag} {getattr(options, name)}: give a number {wanted}")
    if options.report is not None and options.report.suffix not in (".html", ".png"):
        raise UsageError(f"--report {options.report}: the name must end in .html or .png")
    for flag, path in (("--json", options.json), ("--report", options.report)):
        if path is not None and not path.resolve().parent.is_dir():
            raise UsageError(f"{flag} {path}: its folder does not exist; make it first")


def _check_limits(scenario: Scenario) -> None:
    try:
        scenario.settings()
    except BadSettingsError as error:
        raise FleetError(f"--fleet: spec.{error}") from None


def _kill(text: str) -> tuple[float, str]:
    role, _, at = text.partition("@")
    try:
        if role in ("prefill", "decode"):
            return float(at), role
    except ValueError:
        pass
    raise UsageError(f"--kill {text}: give ROLE@SECONDS, such as decode@600")


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        if float(low) < float(high):
            return float(low), float(high)
    except ValueError:
        pass
    raise UsageError(f"--blind {text}: give FROM-TO in seconds, such as 300-360")


def _write(path: Path, text: str, flag: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be written ({error.strerror})") from None


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _table(document: dict[str, Any]) -> Table:
    table = Table(title=f"{document['policy']} on {document['fleet']}", show_header=False)
    ttft, tpot = document["ttft_s"], document["tpot_s"]
    rows = {
        "attainment": f"{document['attainment']:.2%} of {document['scored_requests']:,} scored requests",
        "TTFT p50 / p95 / p99": " / ".join(f"{ttft[one]:.3f} s" for one in ("p50", "p95", "p99")) if ttft else "-",
        "TPOT p50 / p95 / p99": " / ".join(f"{tpot[one] * 1e3:.1f} ms" for one in ("p50", "p95", "p99"))
        if tpot
        else "-",
        "GPU-hours": f"{document['gpu_hours']:.2f}" + (f" = {document['cost']:.2f}" if "cost" in document else ""),
        "worker starts": str(document["starts"]),
        "failed, unfinished": f"{document['failed']}, {document['unfinished']}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table

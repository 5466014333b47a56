"""Table and plot of the results: attainment and GPU-hours, beside the oracle's."""

from collections import defaultdict
from math import exp, log
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

REACHED = 0.99


def write_summary(results: dict[str, Any], table: Path, plot: Path) -> None:
    """Markdown and PNG, from runs keyed `slice|start-up|seed|policy`."""
    rows = _mean_over_seeds(results)
    table.write_text(_table(rows), encoding="utf-8")
    _figure(rows).savefig(plot, dpi=110)


Rows = dict[tuple[str, str], dict[str, tuple[float, float, float]]]  # (slice, S) → policy → attainment, hours, starts/h


def _mean_over_seeds(results: dict[str, Any]) -> Rows:
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for key, one in results.items():
        name, startup, _, policy = key.split("|")
        grouped[(name, startup, policy)].append(one)
    rows: Rows = defaultdict(dict)
    for (name, startup, policy), runs in grouped.items():
        columns = [[run[field] for run in runs] for field in ("attainment", "gpu_hours", "starts_per_worker_hour")]
        attainment, hours, starts = (sum(column) / len(column) for column in columns)
        rows[(name, startup)][policy] = (attainment, hours, starts)
    return rows


def _table(rows: Rows) -> str:
    cells = sorted(rows)
    policies = sorted({policy for row in rows.values() for policy in row}, key=_order)
    lines = [
        "# Autoscaler benchmark",
        "",
        "Attainment % (joint, TTFT and TPOT) / GPU-hours. Bold: 99 % or more. Last column: geometric mean of GPU-hours",
        "over the oracle's where the oracle reaches 99 %, and on how many of those the policy does as well.",
        "Simulated engines (docs/autoscaling.md), not GPUs.",
        "",
        "| policy | " + " | ".join(f"{name}, S = {startup} s" for name, startup in cells) + " | over oracle |",
        "| --- |" + " --- |" * (len(cells) + 1),
    ]
    for policy in policies:
        shown = [_cell(rows[cell].get(policy)) for cell in cells]
        lines.append(f"| {policy} | " + " | ".join(shown) + f" | {_over_oracle(rows, policy)} |")
    return "\n".join(lines) + "\n"


def _order(policy: str) -> tuple[int, str]:
    return ({"oracle": 0, "static": 1, "tandem": 2}.get(policy, 3), policy)


def _cell(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return "-"
    attainment, hours, _ = found
    text = f"{100 * attainment:.2f} / {hours:.1f}"
    return f"**{text}**" if attainment >= REACHED else text


def _over_oracle(rows: Rows, policy: str) -> str:
    feasible = [row for row in rows.values() if row.get("oracle", (0.0,))[0] >= REACHED and policy in row]
    if not feasible:
        return "-"
    mean = exp(sum(log(row[policy][1] / row["oracle"][1]) for row in feasible) / len(feasible))
    return f"{mean:.2f} ({sum(row[policy][0] >= REACHED for row in feasible)} of {len(feasible)})"


def _figure(rows: Rows) -> Figure:
    """One panel per slice: cost over the oracle's against attainment."""
    cells = sorted(rows)
    figure = Figure(figsize=(4 * len(cells), 4), layout="constrained")
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    for axes, cell in zip(panels, cells, strict=True):
        for policy, (attainment, hours, _) in rows[cell].items():
            strong = policy in ("tandem", "oracle")
            axes.scatter(hours, 100 * attainment, s=60 if strong else 20, color="#d95f02" if strong else "#1f77b4")
            axes.annotate(policy, (hours, 100 * attainment), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.axhline(100 * REACHED, color="grey", lw=0.8, ls=":")
        axes.set(title=f"{cell[0]}, S = {cell[1]} s", xlabel="GPU-hours", ylabel="attainment, %")
    return figure

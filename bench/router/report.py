"""Medians, ratios to our own router, and the goals of DESIGN §15 beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from bench.router.measure import DIRECT, Reading, Report
from bench.router.peers import OURS, PEERS
from bench.router.scenarios import EVENT, FIRST_BYTE, LARGE, REQUEST, SPLIT

Value = Callable[[Report, str], float | None]


def cpu_us(scenario: str) -> Value:
    """Median CPU per unit of a scenario."""
    return lambda report, peer: middle(one.cpu_us for one in of(report, peer, scenario))


def added_us(scenario: str, quantile: str) -> Value:
    """Median, over the rounds, of a quantile less that of direct answers."""

    def value(report: Report, peer: str) -> float | None:
        ours = middle(getattr(one, quantile) for one in of(report, peer, scenario))
        floor = middle(getattr(one, quantile) for one in of(report, DIRECT, scenario))
        return None if ours is None or floor is None else ours - floor

    return value


def stream_kib(report: Report, peer: str) -> float | None:
    """Memory per open stream, KiB."""
    grown = report.stream_bytes.get(peer)
    return None if grown is None else grown / 1024


COLUMNS: dict[str, Value] = {
    "CPU µs, request 1 KB": cpu_us(REQUEST.name),
    "request 64 KB": cpu_us(LARGE.name),
    "P/D request": cpu_us(SPLIT.name),
    "event": cpu_us(EVENT.name),
    "first byte added p50 µs": added_us(FIRST_BYTE.name, "first_byte_p50_us"),
    "first byte added p99": added_us(FIRST_BYTE.name, "first_byte_p99_us"),
    "event added p50 µs": added_us(EVENT.name, "event_p50_us"),
    "event added p99": added_us(EVENT.name, "event_p99_us"),
    "KiB per stream": stream_kib,
}


@dataclass(frozen=True)
class Goal:
    """Our value may be at most `ratio` times a peer's."""

    column: str
    peer: str
    ratio: float


GOALS = (
    Goal("CPU µs, request 1 KB", "sglang-router", 1 / 2),
    Goal("CPU µs, request 1 KB", "vllm-router", 1 / 4),
    Goal("P/D request", "sglang-router", 1 / 1.7),
    Goal("P/D request", "vllm-router", 1 / 5),
    Goal("request 64 KB", "sglang-router", 0.8),
    Goal("event", "haproxy", 1.5),
    Goal("event", "sglang-router", 0.65),
    Goal("first byte added p50 µs", "sglang-router", 0.7),
    Goal("first byte added p99", "sglang-router", 0.8),
    Goal("KiB per stream", "sglang-router", 1 / 4),
)


def of(report: Report, peer: str, scenario: str) -> list[Reading]:
    """Readings of one peer in one scenario."""
    return [one for one in report.readings if (one.peer, one.scenario) == (peer, scenario)]


def middle(values: Iterable[float | None]) -> float | None:
    """Median of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def table(report: Report) -> str:
    """The table, in Markdown: a value, and how many times ours it is."""
    lines = ["| router | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for peer in (one.name for one in PEERS):
        cells = [cell(value(report, peer), value(report, OURS), is_ours=peer == OURS) for value in COLUMNS.values()]
        if any(text != "–" for text in cells):
            lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(value: float | None, ours: float | None, *, is_ours: bool) -> str:
    """One value with its ratio."""
    if value is None:
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return text if is_ours or not ours or ours < 0 else f"{text} (×{value / ours:.2f})"


def verdicts(report: Report) -> str:
    """Each goal with what was measured; a goal without its peer is said to be open."""
    return "\n".join(f"- {verdict(goal, report)}" for goal in GOALS)


def verdict(goal: Goal, report: Report) -> str:
    """One line for one goal."""
    ours, theirs = COLUMNS[goal.column](report, OURS), COLUMNS[goal.column](report, goal.peer)
    what = f"{goal.column} ≤ {goal.ratio:.2f} × {goal.peer}"
    if ours is None or not theirs:
        return f"{what}: not measured"
    return f"{what}: {ours / theirs:.2f}, {'met' if ours <= goal.ratio * theirs else 'MISSED'}"


def failures(report: Report) -> str:
    """Missing peers and failed requests, so that nothing is silently left out."""
    lines = [f"- {name}: {why}" for name, why in report.missing.items()]
    lines += [
        f"- {one.peer}, {one.scenario}: {one.failed} failed, {one.failure}" for one in report.readings if one.failed
    ]
    return "\n".join(lines) or "- nothing"

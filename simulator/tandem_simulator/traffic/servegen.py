"""ServeGen: requests generated from measured rates per client and measured length distributions.

Three files share a prefix: `<prefix>_rate10min…`, `<prefix>_top20clients…`, `<prefix>_tokens6h…`. Each of the twenty
largest clients is a renewal process (Gamma or Weibull intervals, measured coefficient of variation) under its own
rate; the rest is one Poisson process. Rates are linear between window centres: steps at window edges would be made up.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import gamma
from pathlib import Path

import numpy as np

from tandem_simulator.errors import TraceError
from tandem_simulator.traffic.model import Floats, Ints, Trace, build_trace
from tandem_simulator.traffic.text import open_text

WINDOW_S = 600.0
LENGTHS_WINDOW_S = 21_600.0
MAX_REQUESTS = 500_000


@dataclass(frozen=True)
class Client:
    """One source: its rate at each window centre, and the burstiness of its intervals."""

    rates_rps: Floats
    cv: float
    family: str


@dataclass(frozen=True)
class Span:
    """Which part to generate: from, seconds (None: to the end), and the share of requests to keep."""

    from_s: float = 0.0
    duration_s: float | None = None
    keep: float = 1.0
    max_requests: int = MAX_REQUESTS


def read_servegen(prefix: Path, seed: int, span: Span) -> Trace:
    """Generate requests; at most `span.max_requests`, then `truncated` is set.

    Raises:
        TraceError: one of the three files is missing or malformed.
    """
    rng = np.random.default_rng(seed)
    starts, totals = _read_rates(_find(prefix, "rate10min"))
    clients = _read_clients(_find(prefix, "top20clients"), starts, totals)
    from_s = max(span.from_s, _first_alive_s(starts, totals, span.from_s))
    until_s, truncated = _end_s(starts, totals * span.keep, from_s, span)
    arrivals = np.concatenate([_arrivals(rng, starts, one, span.keep, from_s, until_s) for one in clients])
    arrivals.sort()
    inputs, outputs = _sample_lengths(rng, _read_lengths(_find(prefix, "tokens6h")), arrivals, prefix)
    trace = build_trace(arrivals - from_s, inputs, outputs, None, str(prefix))
    return Trace(trace.arrival_s, trace.input_tokens, trace.output_tokens, None, truncated)


def _find(prefix: Path, part: str) -> Path:
    found = sorted(prefix.parent.glob(f"{prefix.name}_{part}*.csv*"))
    if not found:
        raise TraceError(f"--trace {prefix}: there is no {prefix.name}_{part}*.csv[.gz]; give the files' common prefix")
    return found[0]


def _read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    with open_text(path) as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise TraceError(f"{path}: the column {missing[0]} is missing")
        return list(reader)


def _read_rates(path: Path) -> tuple[Floats, Floats]:
    rows = _read_rows(path, ("window_start_s", "rate_rps"))
    starts = np.array([float(row["window_start_s"]) for row in rows])
    return starts, np.array([float(row["rate_rps"]) for row in rows])


def _read_clients(path: Path, starts: Floats, totals: Floats) -> list[Client]:
    """The twenty largest, and what is left of the total as one Poisson source."""
    index = {start: place for place, start in enumerate(starts.tolist())}
    rates: dict[str, Floats] = defaultdict(lambda: np.zeros(len(starts)))
    weighted: dict[str, float] = defaultdict(float)
    family: dict[str, str] = {}
    for row in _read_rows(path, ("window_start_s", "client", "rate_rps", "cv", "arrival_family")):
        place = index.get(float(row["window_start_s"]))
        if place is None:
            continue
        name, rate = row["client"], float(row["rate_rps"])
        rates[name][place] = rate
        weighted[name] += rate * float(row["cv"] or 1.0)
        family[name] = row["arrival_family"]
    large = [Client(rate, weighted[name] / rate.sum(), family[name]) for name, rate in rates.items() if rate.sum() > 0]
    rest = np.maximum(totals - sum((one.rates_rps for one in large), np.zeros(len(starts))), 0.0)
    return [*large, Client(rest, 1.0, "Exponential")]


def _first_alive_s(starts: Floats, totals: Floats, from_s: float) -> float:
    """The first window at or after `from_s` in which anything was recorded: a gap is not idleness."""
    alive = starts[(starts + WINDOW_S > from_s) & (totals > 0)]
    return float(alive[0]) if len(alive) else from_s


def _end_s(starts: Floats, rates: Floats, from_s: float, span: Span) -> tuple[float, bool]:
    """Where to stop: the wanted duration, the next recording gap, or the cap on requests."""
    last_s = float(starts[-1]) + WINDOW_S
    gaps = starts[(starts >= from_s) & (rates <= 0)]
    wanted_s = min(last_s, float(gaps[0]) if len(gaps) else last_s)
    if span.duration_s is not None:
        wanted_s = min(wanted_s, from_s + span.duration_s)
    grid = np.arange(from_s, wanted_s + 1.0)
    expected = np.cumsum(np.interp(grid, starts + WINDOW_S / 2, rates))
    if len(expected) and expected[-1] > span.max_requests:
        return from_s + float(np.searchsorted(expected, span.max_requests)), True
    return wanted_s, False


def _arrivals(rng: np.random.Generator, starts: Floats, client: Client, keep: float, low: float, high: float) -> Floats:
    """A renewal process in operational time: intervals of mean one, mapped through the cumulated rate."""
    grid = np.arange(low, high + 10.0, 10.0)
    rate = np.interp(grid, starts + WINDOW_S / 2, client.rates_rps)
    cumulated = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) * 5.0)])
    expected = float(cumulated[-1])
    if expected <= 0:
        return np.zeros(0)
    intervals = _intervals(rng, client, int(expected + 10 * client.cv * expected**0.5 + 50))
    # A random phase, or every client would start with a fresh interval.
    at = np.cumsum(intervals) - rng.uniform(0.0, intervals[0])
    times = np.interp(at[at < expected], cumulated, grid)
    times = times[times < high]
    kept: Floats = times if keep >= 1.0 else times[rng.random(len(times)) < keep]
    return kept


def _intervals(rng: np.random.Generator, client: Client, count: int) -> Floats:
    """Intervals of mean one with the client's coefficient of variation."""
    cv = min(max(client.cv, 0.05), 20.0)
    if client.family == "Gamma":
        return rng.gamma(1.0 / cv**2, cv**2, count)
    if client.family == "Weibull":
        shape = _weibull_shape(cv)
        return rng.weibull(shape, count) / gamma(1.0 + 1.0 / shape)
    return rng.exponential(1.0, count)


def _weibull_shape(cv: float) -> float:
    """The shape whose coefficient of variation is `cv`, by bisection: Γ(1+2/k)/Γ(1+1/k)² − 1 = cv²."""
    low, high = 0.15, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        found = gamma(1 + 2 / middle) / gamma(1 + 1 / middle) ** 2 - 1
        low, high = (middle, high) if found > cv**2 else (low, middle)
    return (low + high) / 2


Histogram = tuple[Floats, Floats, Floats]  # bin_lo, bin_hi, cumulated probability


def _read_lengths(path: Path) -> dict[tuple[str, float], Histogram]:
    """(field, window) → histogram. Image services name their prompt `text_tokens`."""
    grouped: dict[tuple[str, float], list[tuple[float, float, float]]] = defaultdict(list)
    for row in _read_rows(path, ("window_start_s", "field", "bin_lo", "bin_hi", "prob")):
        name = "input_tokens" if row["field"] == "text_tokens" else row["field"]
        bins = grouped[(name, float(row["window_start_s"]))]
        bins.append((float(row["bin_lo"]), float(row["bin_hi"]), float(row["prob"])))
    return {key: _cumulated(bins) for key, bins in grouped.items()}


def _cumulated(bins: list[tuple[float, float, float]]) -> Histogram:
    table = np.array(sorted(bins))
    mass = np.cumsum(table[:, 2])
    return table[:, 0], table[:, 1], mass / mass[-1]


def _sample_lengths(
    rng: np.random.Generator, lengths: dict[tuple[str, float], Histogram], arrivals: Floats, prefix: Path
) -> tuple[Ints, Ints]:
    sampled = []
    for name in ("input_tokens", "output_tokens"):
        known = np.array(sorted(window for field, window in lengths if field == name))
        if len(known) == 0:
            raise TraceError(f"{prefix}: the tokens6h file has no {name}")
        values = np.ones(len(arrivals), dtype=np.int64)
        window = known[np.clip(np.searchsorted(known, arrivals, side="right") - 1, 0, len(known) - 1)]
        for start in np.unique(window):
            chosen = window == start
            values[chosen] = _draw(rng, lengths[(name, float(start))], int(chosen.sum()))
        sampled.append(values)
    return sampled[0], sampled[1]


def _draw(rng: np.random.Generator, histogram: Histogram, count: int) -> Ints:
    low, high, mass = histogram
    chosen = np.minimum(np.searchsorted(mass, rng.random(count)), len(low) - 1)
    return np.floor(rng.uniform(low[chosen], high[chosen])).astype(np.int64)

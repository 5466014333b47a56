"""Rows of figures, for people and for later comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure. `limit` is what it must not pass; None for figures that are only told."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        aim = "" if self.limit is None else f"   {'ok' if self.is_met else 'MISSED'} (≤ {self.limit:g})"
        return f"{self.name:<58} {self.value:>10.1f} {self.unit}{aim}"


@dataclass
class Report:
    """What one run measured."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, limit: float | None = None) -> None:
        """Takes a figure down, and shows it at once."""
        self.rows.append(Row(name, value, unit, limit))
        print(self.rows[-1], flush=True)

    def add_latencies(self, name: str, took_ms: Sequence[float], limits: tuple[float, float] | None = None) -> None:
        """Median and 99th percentile, milliseconds."""
        ordered = sorted(took_ms)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        p50_limit, p99_limit = limits or (None, None)
        self.add(f"{name}, p50 of {len(ordered)}", statistics.median(ordered), "ms", p50_limit)
        self.add(f"{name}, p99", p99, "ms", p99_limit)

    @property
    def is_met(self) -> bool:
        """Whether every figure is within its limit."""
        return all(row.is_met for row in self.rows)

    def write(self, path: Path) -> None:
        """As JSON, with the machine and how busy it was."""
        machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "system": platform.platform()}
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = {"title": self.title, "when": when, "machine": machine, "rows": [asdict(row) for row in self.rows]}
        path.write_text(json.dumps(body, indent=1) + "\n")

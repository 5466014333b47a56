"""Mooncake traces: JSON lines with prefix blocks."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tandem_simulator.errors import TraceError
from tandem_simulator.traffic.model import Trace, build_trace
from tandem_simulator.traffic.text import open_text

QUANTUM_S = 3.0  # the conversation trace rounds time to this; spread evenly over it, or every burst is artificial
FIELDS = ("timestamp", "input_length", "output_length")


def read_mooncake(path: Path, seed: int) -> Trace:
    """Read `timestamp` (ms), `input_length`, `output_length`, `hash_ids` per line.

    Raises:
        TraceError: a line is no JSON object, or a field is missing; names both.
    """
    with open_text(path) as file:
        rows = [_row(path, number, line) for number, line in enumerate(file, 1) if line.strip()]
    arrival = np.array([row["timestamp"] for row in rows], dtype=np.float64) / 1000.0
    if len(rows) and np.all(arrival % QUANTUM_S == 0) and arrival[-1] > 0:
        arrival = arrival + np.random.default_rng(seed).uniform(0.0, QUANTUM_S, len(rows))
    return build_trace(
        arrival,
        np.array([row["input_length"] for row in rows], dtype=np.int64),
        np.array([row["output_length"] for row in rows], dtype=np.int64),
        [row.get("hash_ids", []) for row in rows],
        str(path),
    )


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}, line {number}: no JSON ({error.msg}); is --trace-format mooncake right?") from None
    missing = [name for name in FIELDS if not isinstance(row, dict) or not isinstance(row.get(name), int | float)]
    if missing:
        raise TraceError(f"{path}, line {number}: {missing[0]} is missing or no number")
    return dict(row)

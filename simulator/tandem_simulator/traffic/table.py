"""CSV traces: `arrival_s,input_tokens,output_tokens`, and the Azure files with their original column names."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tandem_simulator.errors import TraceError
from tandem_simulator.traffic.model import Trace, build_trace
from tandem_simulator.traffic.text import open_text

PLAIN = ("arrival_s", "input_tokens", "output_tokens")
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_table(path: Path) -> Trace:
    """Read either form; arrivals start at the first one for Azure's absolute times.

    Raises:
        TraceError: a column is missing, or a field is no number; names line and column.
    """
    rows = list(_rows(path))
    arrival = np.array([row[0] for row in rows], dtype=np.float64)
    tokens = np.array([row[1:] for row in rows], dtype=np.int64).reshape(len(rows), 2)
    return build_trace(arrival, tokens[:, 0], tokens[:, 1], None, str(path))


def _rows(path: Path) -> Iterator[tuple[float, int, int]]:
    with open_text(path) as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        columns = PLAIN if PLAIN[0] in header else AZURE
        missing = [name for name in columns if name not in header]
        if missing:
            found = ", ".join(header) or "nothing"
            raise TraceError(f"{path}: the header has {found}; it needs the columns {', '.join(PLAIN)}")
        places = [header.index(name) for name in columns]
        first_s: float | None = None
        for fields in reader:
            if not fields:
                continue
            row = _row(path, reader.line_num, columns, places, fields)
            if columns is AZURE:
                first_s = row[0] if first_s is None else first_s
                row = (row[0] - first_s, row[1], row[2])
            yield row


def _row(
    path: Path, line: int, columns: tuple[str, ...], places: list[int], fields: list[str]
) -> tuple[float, int, int]:
    name = columns[0]
    try:
        at_s = _time_s(fields[places[0]], columns is AZURE)
        name = columns[1]
        prompt = int(float(fields[places[1]]))
        name = columns[2]
        return at_s, prompt, int(float(fields[places[2]]))
    except (ValueError, IndexError, OverflowError):
        raise TraceError(
            f"{path}, line {line}: {name} is missing or no number; each row is {','.join(PLAIN)}"
        ) from None


def _time_s(text: str, absolute: bool) -> float:
    if not absolute:
        return float(text)
    # Seven digits of a second are in the originals; Python reads six.
    whole, _, part = text.partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return moment.timestamp() + (float(f"0.{part}") if part else 0.0)

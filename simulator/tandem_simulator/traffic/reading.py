"""From `--trace` and `--trace-format` to a trace."""

from pathlib import Path
from typing import Literal

from tandem_simulator.errors import TraceError, UsageError
from tandem_simulator.traffic.model import Trace
from tandem_simulator.traffic.mooncake import read_mooncake
from tandem_simulator.traffic.servegen import Span, read_servegen
from tandem_simulator.traffic.table import read_table

Format = Literal["azure", "mooncake", "servegen", "csv"]
FORMATS: tuple[Format, ...] = ("azure", "mooncake", "servegen", "csv")


def guess_format(path: Path) -> Format:
    """By name: `.jsonl` is Mooncake; a prefix with three files is ServeGen; else a table.

    Raises:
        TraceError: there is nothing by that name.
    """
    if ".jsonl" in path.suffixes or path.name.endswith((".jsonl", ".jsonl.gz")):
        return "mooncake"
    if path.is_file():
        return "csv"
    if list(path.parent.glob(f"{path.name}_rate10min*")):
        return "servegen"
    raise TraceError(f"--trace {path}: no such file, and no ServeGen files with this prefix")


def read_trace(path: Path, kind: Format | None, seed: int, span: Span) -> Trace:
    """Read (ServeGen: generate) the trace, and take the wanted span of it.

    Raises:
        TraceError: the file is missing or malformed.
        UsageError: the span is impossible.
    """
    if span.from_s < 0 or (span.duration_s is not None and span.duration_s <= 0) or not 0 < span.keep <= 1:
        raise UsageError("--from-s must be zero or more, --duration-s above zero, --keep in (0, 1]")
    kind = kind or guess_format(path)
    if kind == "servegen":
        return read_servegen(path, seed, span)
    whole = read_mooncake(path, seed) if kind == "mooncake" else read_table(path)
    if span.keep < 1:
        raise UsageError("--keep thins generated ServeGen traffic only; use --speedup below 1 for other traces")
    if span.from_s == 0 and span.duration_s is None:
        return whole
    until_s = float("inf") if span.duration_s is None else span.from_s + span.duration_s
    part = whole.between(span.from_s, until_s)
    if len(part) == 0:
        raise TraceError(f"{path}: no request between --from-s {span.from_s} and {until_s} s")
    return part

"""The workloads of the benchmark: fixed windows of the committed slices, at most half a million requests each."""

from collections.abc import Callable
from pathlib import Path

from tandem_simulator.traffic.model import Trace
from tandem_simulator.traffic.reading import read_trace
from tandem_simulator.traffic.servegen import Span

TRACES = Path(__file__).parent / "traces"
SEED = 1


def _copies(name: str, copies: int) -> Trace:
    return read_trace(TRACES / name, None, SEED, Span()).superposed(copies, SEED)


def _servegen(name: str, keep: float, requests: int) -> Trace:
    return read_trace(TRACES / name, "servegen", SEED, Span(keep=keep, max_requests=requests))


SLICES: dict[str, Callable[[], Trace]] = {
    "azure-conv x16": lambda: _copies("azure2023_conv_dev.csv.gz", 16),
    "mooncake x4": lambda: _copies("mooncake_conversation_dev.jsonl.gz", 4),
    "servegen-r1": lambda: _servegen("servegen_r1", 1.0, 100_000),
    "servegen-mlarge x0.4": lambda: _servegen("servegen_mlarge", 0.4, 120_000),
    "azure-code x6": lambda: _copies("azure2023_code_dev.csv.gz", 6),
}
FULL: dict[str, Callable[[], Trace]] = {
    **SLICES,
    "servegen-r1": lambda: _servegen("servegen_r1", 1.0, 500_000),
    "servegen-mlarge x0.4": lambda: _servegen("servegen_mlarge", 0.4, 500_000),
}

"""What policies may see: pools, work done, and arrivals by time. Everything a cluster's metrics would show, no more."""

from dataclasses import dataclass

import numpy as np

from tandem_simulator.traffic.model import Floats
from tandem_simulator.workload import Workload


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at a tick. `usage` is in workers: busy ones (prefill), or the scarcer of KV and slots held (decode)."""

    desired: int
    ready: int
    starting: int
    usage: float
    in_flight: int
    last_startup_s: float | None


@dataclass(frozen=True, slots=True)
class View:
    """One tick.

    Attributes:
        newest_s: how new the data are; before now_s when metrics are lost.
        kv_tokens, sequences: held by decode workers or waiting for one.
        decode_tokens_per_s: produced since the last tick.
        queued_steps, queued_tokens, queued_square: of prompts that wait.
        predicted_ttft_s, tpot_s: latency that a new request would see.
    """

    now_s: float
    newest_s: float
    prefill: PoolView
    decode: PoolView
    sequences: int
    kv_tokens: float
    decode_tokens_per_s: float
    queued_steps: float
    queued_tokens: float
    queued_square: float
    predicted_ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """Sums over the requests of a span, per second where it says so."""

    count: int
    rate_rps: float
    mean_new: float
    mean_prompt: float
    mean_output: float


class ArrivalMeter:
    """Sums of arrivals over any span, from cumulated columns."""

    def __init__(self, workload: Workload) -> None:
        trace = workload.trace
        self._arrival_s = trace.arrival_s
        self._new = _cumulated(workload.new.astype(np.float64))
        self._prompt = _cumulated(trace.input_tokens.astype(np.float64))
        self._output = _cumulated(trace.output_tokens.astype(np.float64))

    def between(self, from_s: float, until_s: float) -> Arrived:
        """Means are zero for an empty span."""
        low, high = (int(place) for place in np.searchsorted(self._arrival_s, (from_s, until_s)))
        count = high - low
        span_s = max(until_s - from_s, 1e-9)

        def mean(column: Floats) -> float:
            return float(column[high] - column[low]) / count if count else 0.0

        return Arrived(count, count / span_s, mean(self._new), mean(self._prompt), mean(self._output))


def _cumulated(column: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(column)])

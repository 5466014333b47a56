"""What a request may take: its TTFT target, and what a missed percentile costs (DESIGN §1)."""

from dataclasses import dataclass

from tandem_core.performance import PerformanceModel

PERCENTILES = {"p50": 0.50, "p75": 0.75, "p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Objectives:
    """Latency objectives of a fleet, as the client of the router sees them.

    Attributes:
        ttft_s: time to first token.
        tpot_s: time per output token after the first.
        ttft_share: share of requests that must meet the TTFT target; 0.99 for p99.
        tpot_share: likewise for TPOT.
        isolated_factor: a prompt whose prefill alone takes long may take this many times that.
    """

    ttft_s: float
    tpot_s: float
    ttft_share: float = 0.95
    tpot_share: float = 0.95
    isolated_factor: float = 1.0

    def __post_init__(self) -> None:
        if not (self.ttft_s > 0 and self.tpot_s > 0):
            raise ValueError("objectives: ttft and tpot must be seconds above zero")
        if not (0 < self.ttft_share < 1 and 0 < self.tpot_share < 1):
            raise ValueError("objectives: a percentile must lie between p0 and p100")
        if not self.isolated_factor >= 0:
            raise ValueError("objectives.ttft.isolatedFactor must be zero or more")

    @property
    def ttft_miss_budget(self) -> float:
        """Share of requests that may miss TTFT."""
        return 1.0 - self.ttft_share

    @property
    def tpot_miss_budget(self) -> float:
        """Share of requests that may miss TPOT."""
        return 1.0 - self.tpot_share


def ttft_target_s(objectives: Objectives, isolated_prefill_s: float) -> float:
    """max(seconds, isolatedFactor × prefill of that request alone)."""
    return max(objectives.ttft_s, objectives.isolated_factor * isolated_prefill_s)


def kv_limited_workers(sequences: float, kv_tokens: float, max_sequences: int, kv_capacity_tokens: int) -> float:
    """Workers that hold a load, by slots and by KV, as a real number: the scarcer of both."""
    return max(sequences / max_sequences, kv_tokens / kv_capacity_tokens)


def tpot_limited_workers(model: PerformanceModel, sequences: float, kv_tokens: float, tpot_s: float) -> float:
    """Workers that keep the step below `tpot_s`: d0 + (d1 B + d2 K) / c ≤ TPOT. Infinite if d0 alone is too slow."""
    room_ms = tpot_s * 1000.0 - model.d0_ms
    work_ms = model.d1_ms * sequences + model.d2_ms * kv_tokens
    if work_ms <= 0:
        return 0.0
    return work_ms / room_ms if room_ms > 0 else float("inf")

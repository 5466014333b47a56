"""How long an engine takes: six coefficients per model, GPU and tensor parallelism.

    prefill(n new tokens, h cached) = p0 · steps + p1 · n + p2 · (n² + 2 n h)    milliseconds
    decode step(b sequences, K tokens in their KV cache) = d0 + d1 · b + d2 · K   milliseconds

The quadratic term is attention: every new token reads all before it, so Σ over the prompt is n²/2 + n h, and p2 holds
the factor ½. Form and coefficients: least squares over measured kernels (research/autoscaling.md §3).
"""

from dataclasses import dataclass, replace
from math import ceil

MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class PerformanceModel:
    """Coefficients in milliseconds.

    Attributes:
        p0_ms: fixed cost of one prefill step.
        p1_ms: per new token.
        p2_ms: per squared new token.
        d0_ms: fixed cost of one decode step.
        d1_ms: per sequence in the batch.
        d2_ms: per token of KV cache that the batch reads.
        step_tokens: most new tokens in one prefill step (`max_num_batched_tokens`).
    """

    p0_ms: float
    p1_ms: float
    p2_ms: float
    d0_ms: float
    d1_ms: float
    d2_ms: float
    step_tokens: int = 8192

    def __post_init__(self) -> None:
        for name in COEFFICIENTS:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: give a finite number of milliseconds, zero or more")
        if self.p1_ms == 0 or self.d0_ms == 0:
            raise ValueError("p1_ms and d0_ms must be above zero: no engine works in no time")
        if self.step_tokens < 1:
            raise ValueError(f"step_tokens is {self.step_tokens}: give at least 1")

    def prefill_s(self, new_tokens: float, cached_tokens: float = 0.0) -> float:
        """Seconds to prefill one prompt alone."""
        return self.prefill_work_s(
            self.prefill_steps(new_tokens), new_tokens, new_tokens * (new_tokens + 2.0 * cached_tokens)
        )

    def prefill_steps(self, new_tokens: float) -> int:
        """Engine steps that one prompt takes alone."""
        return 1 if new_tokens <= self.step_tokens else ceil(new_tokens / self.step_tokens)

    def prefill_work_s(self, steps: float, new_tokens: float, square_tokens: float) -> float:
        """Seconds for sums over many prompts: steps, Σ n, and Σ (n² + 2 n h)."""
        return (self.p0_ms * steps + self.p1_ms * new_tokens + self.p2_ms * square_tokens) / MS_PER_S

    def decode_step_s(self, sequences: float, kv_tokens: float) -> float:
        """Seconds of one decode step, which is the time per output token of every sequence in the batch."""
        return (self.d0_ms + self.d1_ms * sequences + self.d2_ms * kv_tokens) / MS_PER_S

    def scaled(self, prefill: float = 1.0, decode: float = 1.0) -> "PerformanceModel":
        """The same engine, slower by these factors."""
        return replace(
            self,
            p0_ms=self.p0_ms * prefill,
            p1_ms=self.p1_ms * prefill,
            p2_ms=self.p2_ms * prefill,
            d0_ms=self.d0_ms * decode,
            d1_ms=self.d1_ms * decode,
            d2_ms=self.d2_ms * decode,
        )


COEFFICIENTS = ("p0_ms", "p1_ms", "p2_ms", "d0_ms", "d1_ms", "d2_ms")

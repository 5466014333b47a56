"""How fast a worker prefills, learned from requests that had it to themselves."""

from dataclasses import dataclass

GAIN = 0.2
MIN_SECONDS = 1e-6
MIN_TOKENS = 256  # shorter prompts measure the round trip, not the engine


@dataclass(slots=True)
class RateEstimate:
    """Exponentially weighted mean of tokens per second; None before the first observation."""

    tokens_per_s: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """`tokens` were prefilled in `seconds`; short or impossible observations are ignored."""
        if tokens < MIN_TOKENS or seconds < MIN_SECONDS:
            return
        rate = tokens / seconds
        self.tokens_per_s = rate if self.tokens_per_s is None else self.tokens_per_s + GAIN * (rate - self.tokens_per_s)

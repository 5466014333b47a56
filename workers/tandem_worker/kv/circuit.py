"""A circuit breaker toward one peer: after N failures in a row, fail fast for a while instead of trying."""

from dataclasses import dataclass

MAX_COOLDOWN_FACTOR = 8


@dataclass
class Circuit:
    """Opens after `failures_to_open` failures in a row; each failure after a cool-down doubles the next one."""

    failures_to_open: int
    cooldown_s: float
    _failures: int = 0
    _open_until_s: float = float("-inf")

    def is_open(self, now_s: float) -> bool:
        return now_s < self._open_until_s

    def on_success(self) -> None:
        self._failures = 0

    def on_failure(self, now_s: float) -> None:
        self._failures += 1
        excess = self._failures - self.failures_to_open
        if excess >= 0:
            factor: int = min(2 ** min(excess, 10), MAX_COOLDOWN_FACTOR)
            self._open_until_s = now_s + self.cooldown_s * factor

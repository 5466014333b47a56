"""When a prefill that is late is begun on a second worker too. Pure: what was measured comes in.

Late means later than 99 of 100 legs were, beside what the learned costs had foretold. The share of requests for which
it may be done is bounded, so that a fleet that is slow as a whole is not made slower.
"""

from collections import deque

QUANTILE = 0.99
REMEMBERED = 512
MIN_KNOWN = 100  # legs, before which the tail is not known
REFRESH_EVERY = 16
MIN_WAIT_S = 0.05  # a second prefill gains nothing where the first takes less
BURST = 5.0  # that may come at once, as when a worker begins to hang


class Hedging:
    """Of one fleet. `share`: of its requests that may be hedged; 0 turns it off."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._level = BURST if share > 0.0 else 0.0
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._since_refresh = 0
        self._tail: float | None = None

    def earn(self) -> None:
        """A prefill leg begins."""
        self._level = min(BURST, self._level + self._share)

    def spend(self) -> bool:
        """Take one hedge; False when there is none left."""
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def observe(self, foretold_s: float, took_s: float) -> None:
        """A leg ended, or was overtaken after `took_s`."""
        if foretold_s <= 0.0:
            return
        self._ratios.append(took_s / foretold_s)
        self._since_refresh += 1
        if len(self._ratios) >= MIN_KNOWN and (self._tail is None or self._since_refresh >= REFRESH_EVERY):
            self._since_refresh = 0
            self._tail = sorted(self._ratios)[int(QUANTILE * (len(self._ratios) - 1))]

    def wait_s(self, foretold_s: float) -> float | None:
        """After how many seconds a leg is late; None while the tail is not known, or hedging is off."""
        if self._tail is None or self._share <= 0.0:
            return None
        return max(MIN_WAIT_S, foretold_s * self._tail)

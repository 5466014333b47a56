"""How much of a fleet's work may be repeated, so that retries never turn a fault into an overload. Pure."""

SHARE = 0.2  # of a retry that each request earns
PER_S = 10.0  # retries that a quiet fleet may make
RESERVE = 200.0  # retries that may come at once, as when a worker dies with all its requests


class RetryBudget:
    """A bucket of retries, filled by requests and by time. Times are seconds of one clock, given by the caller."""

    __slots__ = ("_at_s", "_level")

    def __init__(self) -> None:
        self._level = RESERVE
        self._at_s = 0.0

    def earn(self) -> None:
        """A request has come."""
        self._level = min(RESERVE, self._level + SHARE)

    def spend(self, now_s: float) -> bool:
        """Take one retry; False when there is none left."""
        self._level = min(RESERVE, self._level + max(0.0, now_s - self._at_s) * PER_S)
        self._at_s = max(self._at_s, now_s)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

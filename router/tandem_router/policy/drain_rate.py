"""How fast requests leave, so that one who is turned away can be told when to come back."""

from collections import deque
from math import ceil

WINDOW_S = 60.0
REMEMBERED = 512
MAX_RETRY_AFTER_S = 60


class DrainRate:
    """Ends of the last minute. Times are seconds of any one clock."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=REMEMBERED)

    def note_end(self, now_s: float) -> None:
        """A request ended."""
        self._ends.append(now_s)

    def per_s(self, now_s: float) -> float:
        """Requests per second of late; 0 when none has ended."""
        ends = self._ends
        while ends and now_s - ends[0] > WINDOW_S:
            ends.popleft()
        return len(ends) / max(1.0, now_s - ends[0]) if ends else 0.0

    def retry_after_s(self, waiting: int, now_s: float) -> int:
        """Seconds until so many have probably left, from 1 to 60; 1 while nothing is known."""
        rate = self.per_s(now_s)
        return max(1, min(MAX_RETRY_AFTER_S, ceil(waiting / rate))) if rate else 1

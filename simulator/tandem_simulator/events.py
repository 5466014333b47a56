"""The clock of the simulation: a heap of (time, order, what, with what)."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Handler = Callable[[float, Any], None]


class Agenda:
    """Future events. Those of equal time run in the order in which they were made."""

    __slots__ = ("_heap", "_made")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Handler, Any]] = []
        self._made = 0

    def at(self, time_s: float, handler: Handler, subject: Any) -> None:
        """Call `handler(time_s, subject)` then."""
        self._made += 1
        heappush(self._heap, (time_s, self._made, handler, subject))

    def next_s(self) -> float:
        """Time of the next event; infinite when there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def run_next(self) -> float:
        """Run it; returns its time."""
        time_s, _, handler, subject = heappop(self._heap)
        handler(time_s, subject)
        return time_s

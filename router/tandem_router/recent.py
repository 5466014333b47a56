"""Counts of the last minutes out of counters that only grow, so that what is said of a fleet can change again."""

from collections import deque

from tandem_api.router import RecentTraffic

WINDOW_S = 300.0
_SAMPLE_S = 5.0

Totals = tuple[int, int, int, int]  # remote prefills, local prefills, KV bytes, KV failures; since start


class RecentWindow:
    """Samples of totals, old enough to look back `WINDOW_S`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque()

    def observe(self, now_s: float, totals: Totals) -> RecentTraffic:
        """What came within the window, by the totals of now. Before it is full, all since the first sample's zero."""
        start = self._find_start(now_s)
        if not self._samples or now_s - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now_s, totals))
        remote, local, kv_bytes, failures = (new - old for new, old in zip(totals, start, strict=True))
        return RecentTraffic(
            window_s=WINDOW_S, remote_prefills=remote, local_prefills=local, kv_bytes=kv_bytes, kv_failures=failures
        )

    def _find_start(self, now_s: float) -> Totals:
        """The newest sample from before the window; all-zero while the router itself is younger."""
        while len(self._samples) > 1 and self._samples[1][0] <= now_s - WINDOW_S:
            self._samples.popleft()
        if self._samples and self._samples[0][0] <= now_s - WINDOW_S:
            return self._samples[0][1]
        return (0, 0, 0, 0)

"""Kubernetes' HorizontalPodAutoscaler (autoscaling/v2 defaults), one per pool.

desired = ceil(Σ metric / target), within a tolerance of 10 %; at most doubling (or +4) in 15 s; down only to the
largest recommendation of the last 300 s. Starting pods count as idle, as the controller counts pods that are not ready.
"""

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any

from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import PoolView, View

TOLERANCE = 0.1
STABILIZATION_S = 300.0
Bounds = tuple[int, int]


class Hpa:
    """One HPA object."""

    def __init__(self, target: float, bounds: Bounds) -> None:
        self._target, self._bounds = target, bounds
        self._recommended: deque[tuple[float, int]] = deque()

    def decide(self, now_s: float, pool: PoolView, metric_sum: float) -> int:
        """Size by the sum of a per-pod metric."""
        if not self._recommended:
            self._recommended.append((now_s, pool.desired))  # as the controller does for a size that it finds
        wanted = self._recommend(pool, metric_sum)
        self._recommended.append((now_s, wanted))
        while self._recommended[0][0] < now_s - STABILIZATION_S:
            self._recommended.popleft()
        if wanted < pool.desired:
            wanted = min(pool.desired, max(size for _, size in self._recommended))
        most = max(2 * pool.desired, pool.desired + 4)
        return max(self._bounds[0], min(self._bounds[1], most, wanted))

    def _recommend(self, pool: PoolView, metric_sum: float) -> int:
        pods = max(1, pool.ready)
        ratio = metric_sum / pods / self._target
        if abs(ratio - 1.0) <= TOLERANCE:
            return pool.desired
        if ratio > 1.0 and pool.starting:
            # Re-checked with starting pods at zero; if that flips the direction, nothing changes.
            with_starting = metric_sum / (pods + pool.starting) / self._target
            if with_starting <= 1.0 + TOLERANCE:
                return pool.desired
        return max(1, ceil(metric_sum / self._target))


class HpaPolicy:
    """Two HPAs: prefill on `prefill_metric`, decode on the scarcer of KV and slots."""

    interval_s = 15.0
    sees_staleness = False

    def __init__(self, name: str, prefill: Hpa, decode: Hpa, prefill_metric: Callable[[PoolView], float]) -> None:
        self.name = name
        self._prefill, self._decode, self._metric = prefill, decode, prefill_metric

    def decide(self, view: View) -> Sizes:
        """Both, independently: HPAs know nothing of one another."""
        return Sizes(
            self._prefill.decide(view.now_s, view.prefill, self._metric(view.prefill)),
            self._decode.decide(view.now_s, view.decode, view.decode.usage),
        )

    def explain(self) -> list[dict[str, Any]]:
        """An HPA keeps no record."""
        return []


def build_hpa(target: float, prefill: Bounds, decode: Bounds) -> HpaPolicy:
    """On busy share: the usual duty-cycle HPA."""
    return HpaPolicy(f"hpa:{target:g}", Hpa(target, prefill), Hpa(target, decode), lambda pool: pool.usage)


def build_queue_hpa(target: float, prefill: Bounds, decode: Bounds) -> HpaPolicy:
    """On requests in flight per prefill worker; decode at 0.7 of the scarcer of KV and slots."""
    return HpaPolicy(
        f"queue-hpa:{target:g}", Hpa(target, prefill), Hpa(0.7, decode), lambda pool: float(pool.in_flight)
    )

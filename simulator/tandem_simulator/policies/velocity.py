"""TokenScale: workers = incoming token velocity / velocity of one worker, on a short window.

Prefill velocity is prompt tokens per second of one worker; decode velocity the tokens of KV per second that one worker
releases at its largest batch. Down only after a minute below.
"""

from collections import deque
from math import ceil
from typing import Any

from tandem_operator.autoscale.settings import Settings
from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import ArrivalMeter, Arrived, View
from tandem_simulator.policies.capacity import decode_capacity

WINDOW_S = 10.0
HOLD_S = 60.0
UTILIZATION = 0.6


class VelocityPolicy:
    """Proportional to the last ten seconds."""

    name = "velocity"
    interval_s = 5.0
    sees_staleness = False

    def __init__(self, settings: Settings, arrivals: ArrivalMeter, utilization: float = UTILIZATION) -> None:
        self._settings, self._arrivals, self._utilization = settings, arrivals, utilization
        self._wanted: deque[tuple[float, Sizes]] = deque()
        self._mean_output = 0.0

    def decide(self, view: View) -> Sizes:
        """The largest size of the last minute."""
        seen = self._arrivals.between(max(0.0, view.now_s - WINDOW_S), view.now_s)
        if not self._wanted:
            self._wanted.append((view.now_s, Sizes(view.prefill.desired, view.decode.desired)))
        if seen.count:
            self._wanted.append((view.now_s, self._sizes(seen)))
        while len(self._wanted) > 1 and self._wanted[0][0] < view.now_s - HOLD_S:
            self._wanted.popleft()
        return self._bounded(
            Sizes(max(one.prefill for _, one in self._wanted), max(one.decode for _, one in self._wanted))
        )

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []

    def _sizes(self, seen: Arrived) -> Sizes:
        busy = seen.rate_rps * self._settings.performance.prefill_s(seen.mean_new)
        released = seen.rate_rps * (seen.mean_prompt + seen.mean_output)
        return Sizes(ceil(busy / self._utilization), ceil(released / self._decode_velocity(seen) / self._utilization))

    def _decode_velocity(self, seen: Arrived) -> float:
        """KV tokens per second that one full worker releases: requests per second × KV of a request."""
        full = decode_capacity(self._settings, seen.mean_prompt, seen.mean_output)
        return full.tokens_per_s / max(1.0, seen.mean_output) * (seen.mean_prompt + seen.mean_output)

    def _bounded(self, sizes: Sizes) -> Sizes:
        prefill, decode = self._settings.prefill, self._settings.decode
        return Sizes(
            min(max(sizes.prefill, prefill.awake), prefill.maximum),
            min(max(sizes.decode, decode.awake), decode.maximum),
        )

"""HeteroScale: one signal, decode tokens per second per worker, for both pools; prefill follows at a fixed ratio."""

from math import ceil
from typing import Any

from tandem_operator.autoscale.settings import Settings
from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import ArrivalMeter, View
from tandem_simulator.policies.capacity import decode_capacity

BAND = 0.10
TARGET_SHARE = 0.7


class FixedRatioPolicy:
    """Proportional control with a dead band.

    Args:
        start: sizes at the start; their ratio is kept for ever.
        target_share: of the tokens per second of a full worker.
    """

    name = "fixed-ratio"
    interval_s = 15.0
    sees_staleness = False

    def __init__(
        self, settings: Settings, arrivals: ArrivalMeter, start: Sizes, target_share: float = TARGET_SHARE
    ) -> None:
        self._settings, self._arrivals, self._share = settings, arrivals, target_share
        self._prefill_per_decode = start.prefill / start.decode
        self._target_tokens_per_s: float | None = None

    def decide(self, view: View) -> Sizes:
        """Within the band nothing changes."""
        target = self._target(view.now_s)
        decode = view.decode.desired
        if abs(view.decode_tokens_per_s / max(1, view.decode.ready) / target - 1.0) > BAND:
            decode = max(1, ceil(view.decode_tokens_per_s / target))
        prefill = ceil(decode * self._prefill_per_decode)
        limits = self._settings
        return Sizes(
            min(max(prefill, limits.prefill.awake), limits.prefill.maximum),
            min(max(decode, limits.decode.awake), limits.decode.maximum),
        )

    def _target(self, now_s: float) -> float:
        """Set once, from the requests seen until the first decision: what its authors take from a load test."""
        if self._target_tokens_per_s is None:
            seen = self._arrivals.between(0.0, now_s)
            full = decode_capacity(self._settings, seen.mean_prompt, seen.mean_output)
            self._target_tokens_per_s = self._share * full.tokens_per_s
        return self._target_tokens_per_s

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []

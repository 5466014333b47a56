"""HeteroScale: one signal, decode tokens per second per worker, for both pools; prefill follows at a fixed ratio."""

from math import ceil
from typing import Any

from tandem_operator.autoscale.settings import Settings
from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import View

BAND = 0.10
TARGET_SHARE = 0.5


class FixedRatioPolicy:
    """Proportional control with a dead band.

    Args:
        start: sizes at the start; their ratio is kept for ever.
        target_share: of the tokens per second of a full worker.
    """

    name = "fixed-ratio"
    interval_s = 15.0
    sees_staleness = False

    def __init__(self, settings: Settings, start: Sizes, target_share: float = TARGET_SHARE) -> None:
        self._settings = settings
        self._prefill_per_decode = start.prefill / start.decode
        full = settings.max_sequences
        step_s = settings.performance.decode_step_s(full, settings.kv_capacity_tokens * 0.5)
        self._target_tokens_per_s = target_share * full / step_s

    def decide(self, view: View) -> Sizes:
        """Within the band nothing changes."""
        ratio = view.decode_tokens_per_s / max(1, view.decode.ready) / self._target_tokens_per_s
        decode = view.decode.desired
        if abs(ratio - 1.0) > BAND:
            decode = max(1, ceil(view.decode_tokens_per_s / self._target_tokens_per_s))
        prefill = ceil(decode * self._prefill_per_decode)
        limits = self._settings
        return Sizes(
            min(max(prefill, limits.prefill.awake), limits.prefill.maximum),
            min(max(decode, limits.decode.awake), limits.decode.maximum),
        )

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []

"""Growth that is certain: the lower confidence bound of a slope, carried one start-up ahead.

Extrapolating the fitted slope itself chases noise: on real traffic it cost a fifth more for nothing
(research/autoscaling.md §4.2). Its lower bound is zero for noise, and nearly the slope itself for a real ramp.
"""

from collections.abc import Sequence
from math import sqrt

CONFIDENCE = 3.0  # standard errors below the fitted slope; more than the usual two, because load is autocorrelated


def certain_growth(values: Sequence[float], step_s: float, horizon_s: float) -> float:
    """How much the last of equally spaced values will at least have grown after `horizon_s`; zero or more.

    Args:
        values: means over consecutive spans of `step_s`; fewer than six say nothing.
    """
    count = len(values)
    if count < 6:
        return 0.0
    slope, error = _fit(values)
    return max(0.0, slope - CONFIDENCE * error) / step_s * horizon_s


def _fit(values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope per step, and its standard error."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((place - middle) ** 2 for place in range(count))
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread
    left = sum((value - mean - slope * (place - middle)) ** 2 for place, value in enumerate(values))
    return slope, sqrt(left / (count - 2) / spread)

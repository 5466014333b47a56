"""Slow outer loop on the error budget: the only feedback from latencies.

Latency is flat until it falls off a cliff; a fast loop on it oscillates. So the misses move nothing but a level
between 0 and 1, by their integral: at level x the pool is not smaller than the x-quantile of what it needed in the
last hour. When the budget is kept, the level sinks again.
"""

from tandem_operator.autoscale.demand import quantile

WORST_EXCESS = 0.05  # one bad minute moves the level no faster than this excess of misses


def next_level(level: float, miss_share: float, rest_share: float, gain: float, elapsed_s: float) -> float:
    """The level after `elapsed_s` seconds with `miss_share` of the requests missing.

    Args:
        rest_share: share of misses at which the level does not move.
        gain: per second and unit of miss share.
    """
    excess = min(WORST_EXCESS, miss_share - rest_share)
    return min(1.0, max(0.0, level + gain * excess * elapsed_s))


def floor_workers(past_targets: list[int], level: float) -> int:
    """Smallest size that the level allows: that quantile of the past hour's targets; 0 at level 0."""
    return int(quantile(past_targets, level)) if level > 0 else 0

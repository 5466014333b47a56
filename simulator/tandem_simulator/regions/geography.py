"""Where the regions are, what runs in them, and how their traffic is made from one trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tandem_simulator.conditions import Sizes
from tandem_simulator.traffic.model import Ints, Trace

DAY_DEPTH = 0.6  # of the day's rate: its valley has (1 - depth) of the mean, its peak (1 + depth)


@dataclass(frozen=True)
class Geography:
    """Regions by name, in order.

    Attributes:
        sizes: workers of each region.
        rtt_s: round trip between two regions; 0 within one.
        allowed: per region, where its users' requests may be served; a region left out allows all.
    """

    sizes: Mapping[str, Sizes]
    rtt_s: Mapping[frozenset[str], float]
    allowed: Mapping[str, frozenset[str]]
    price_weight: Mapping[str, float]

    @property
    def names(self) -> list[str]:
        """All regions."""
        return list(self.sizes)

    def between_s(self, one: str, other: str) -> float:
        """Round trip."""
        return 0.0 if one == other else self.rtt_s[frozenset((one, other))]


def build_geography(
    names: Sequence[str], sizes: Sizes, rtts_s: Sequence[float], allowed: Mapping[str, frozenset[str]] | None = None
) -> Geography:
    """Equal regions. `rtts_s` are those of the pairs in the order (0,1), (0,2), …, (1,2), …."""
    pairs = [frozenset((one, other)) for at, one in enumerate(names) for other in names[at + 1 :]]
    return Geography(
        dict.fromkeys(names, sizes), dict(zip(pairs, rtts_s, strict=True)), allowed or {}, dict.fromkeys(names, 1.0)
    )


def spread_over_days(trace: Trace, regions: int, seed: int) -> tuple[Trace, Ints]:
    """One trace as the traffic of regions whose days are shifted: each request goes to one of them, by the hour there.

    Returns the trace as it is, and the origin (region number) of each request. The trace's span stands for a day.
    """
    rng = np.random.default_rng(seed)
    phases = np.arange(regions) / regions
    day = trace.arrival_s[:, None] / max(trace.span_s, 1.0) - phases[None, :]
    weights = 1.0 + DAY_DEPTH * np.sin(2.0 * np.pi * day)
    sums = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    draws = rng.random(len(trace))
    if trace.blocks is None:
        return trace, np.minimum((draws[:, None] > sums).sum(axis=1), regions - 1)
    # One conversation stays with its user: whoever shares a first block comes from one place.
    first = [ids[0] if ids else -1 for ids in trace.blocks]
    homes: dict[int, int] = {}
    origins = np.minimum((draws[:, None] > sums).sum(axis=1), regions - 1)
    for number, block in enumerate(first):
        origins[number] = homes.setdefault(block, int(origins[number])) if block >= 0 else origins[number]
    return trace, origins

"""Counters and histograms of the hot path: plain numbers, read by `exposition` when Prometheus asks."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

SECONDS_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
FAST_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Histogram:
    """Counts per bucket, with their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a negative one (clock noise) counts as zero."""
        if value < 0.0:
            value = 0.0
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, values at or below it), ending with +Inf."""
        running = 0
        pairs = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            pairs.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        return pairs


HISTOGRAMS = {
    "ttft": (SECONDS_BUCKETS, "Time to first token, as the router's client sees it."),
    "tpot": (FAST_BUCKETS, "Time per output token after the first."),
    "e2e": (SECONDS_BUCKETS, "Whole request."),
    "queue": (SECONDS_BUCKETS, "Wait for a worker that can start the request."),
    "prefill": (SECONDS_BUCKETS, "Prefill leg."),
    "transfer_gap": (SECONDS_BUCKETS, "End of the prefill leg to the first byte of the decode leg."),
    "overhead": (FAST_BUCKETS, "Time spent in the router itself before the request is sent on."),
}


@dataclass
class ModelMetrics:
    """Everything counted for one served model."""

    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram(bounds) for name, (bounds, _) in HISTOGRAMS.items()}
    )
    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)  # kind: prompt, cached, completion
    routes: Counter[str] = field(default_factory=Counter)  # reason of the decision: remote, or why local
    retries: Counter[str] = field(default_factory=Counter)  # by leg
    hedges: Counter[str] = field(default_factory=Counter)  # prefills on a second worker: begun, won, lost
    inflight: int = 0


@dataclass
class Metrics:
    """Everything this router counts. Models are those of known fleets only, so that labels stay bounded."""

    models: dict[str, ModelMetrics] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)  # requests that belong to no model, by status

    def of(self, model: str) -> ModelMetrics:
        """Counters of one served model."""
        found = self.models.get(model)
        if found is None:
            found = self.models[model] = ModelMetrics()
        return found

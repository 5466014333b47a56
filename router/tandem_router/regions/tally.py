"""What is counted about regions. Labels are names of regions that are configured, so they stay bounded. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from tandem_router.metrics import SECONDS_BUCKETS, Histogram

ELSEWHERE = "other"  # an origin that is not configured here


@dataclass
class RegionTally:
    """Counts of one router since it started.

    Attributes:
        choices: by reason of `choice.RegionChoice`.
        forwards: requests given to a region, by (region, how that ended).
        received: requests that came from a region, by (region, how that ended).
        refusals: by what residency did not allow: `client` (no region at all), `unreachable` (none that is up),
            `received` (refused here although another region sent it).
        transitions: by (region, state that it came to).
        ttft: time to first token by serving region, as the client here saw it.
    """

    choices: Counter[str] = field(default_factory=Counter)
    forwards: Counter[tuple[str, ...]] = field(default_factory=Counter)
    received: Counter[tuple[str, ...]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    transitions: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ttft: dict[str, Histogram] = field(default_factory=dict)

    def observe_ttft(self, region: str, seconds: float) -> None:
        """A request that `region` served began to answer."""
        found = self.ttft.get(region)
        if found is None:
            found = self.ttft[region] = Histogram(SECONDS_BUCKETS)
        found.observe(seconds)

    def spilled(self, region: str) -> int:
        """Requests that were given to `region`."""
        return sum(count for (name, *_), count in self.forwards.items() if name == region)

    def failed(self, region: str) -> int:
        """Of these, those that it did not serve."""
        return sum(count for (name, end), count in self.forwards.items() if name == region and end in FAILED_FORWARDS)


FAILED_FORWARDS = frozenset(("unreachable", "refused", "broken"))

"""How every request ended, once, and what that says of the regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

SECOND_S = 2.0  # of the look at oscillation
SWING = 0.5  # a share that moves by so much, and back, swings


@dataclass(frozen=True)
class Ended:
    """One request.

    Attributes:
        entry: region that its client asked.
        outcome: `ok`; `refused`: a typed error before the first byte; `cut`: a typed error after it; `lost`: the client
            was told nothing, or got less than it had asked for.
        region: which one says that it served, by its header; None: nobody says so.
        served_in: where the workers that served it run, by their names.
    """

    entry: str
    tenant: str
    began_s: float
    ended_s: float
    outcome: str
    region: str | None = None
    served_in: frozenset[str] = frozenset()
    ttft_s: float | None = None
    detail: str = ""

    @property
    def is_away(self) -> bool:
        """Another region than the client's served it."""
        return self.region is not None and self.region != self.entry


@dataclass
class Ledger:
    """Every request of a run."""

    entries: list[Ended] = field(default_factory=list)

    def between(self, from_s: float, until_s: float) -> Ledger:
        """Those that began in a span."""
        return Ledger([one for one in self.entries if from_s <= one.began_s < until_s])

    def of(self, entry: str) -> Ledger:
        """Those of one region's clients."""
        return Ledger([one for one in self.entries if one.entry == entry])

    def count(self, outcome: str) -> int:
        """Requests that ended so."""
        return sum(one.outcome == outcome for one in self.entries)

    def away_share(self) -> float:
        """Share of the answered ones that another region served."""
        answered = [one for one in self.entries if one.outcome == "ok"]
        return sum(one.is_away for one in answered) / max(1, len(answered))

    def breaches(self, allowed: Mapping[str, frozenset[str]]) -> list[Ended]:
        """Requests that a region worked on which their tenant does not allow, by its header or by its workers."""
        return [one for one in self.entries if not _places(one) <= allowed[one.tenant]]

    def ttft_ms(self, share: float) -> float:
        """A quantile of the time to the first token, of those that had one."""
        known = sorted(one.ttft_s for one in self.entries if one.ttft_s is not None)
        return 1000 * known[min(len(known) - 1, int(share * len(known)))] if known else float("nan")

    def details(self, outcome: str, most: int = 3) -> list[str]:
        """The usual reasons."""
        chosen = (one for one in self.entries if one.outcome == outcome)
        found = Counter(f"{one.tenant} in {one.entry}: {one.detail}" for one in chosen)
        return [f"{count} × {detail}" for detail, count in found.most_common(most)]

    def swings(self) -> int:
        """How often the share of requests that go away rose and fell by `SWING`, in steps of `SECOND_S`."""
        return count_swings(self._away_by_time())

    def _away_by_time(self) -> Iterator[float]:
        seconds: dict[int, list[Ended]] = {}
        for one in self.entries:
            seconds.setdefault(int(one.began_s / SECOND_S), []).append(one)
        return (Ledger(seconds[second]).away_share() for second in sorted(seconds))


def count_swings(shares: Iterable[float]) -> int:
    """Changes of direction between turning points that lie `SWING` or more apart; rising once is no swing."""
    turns = _turning_points(list(shares))
    large = [b - a for a, b in pairwise(turns) if abs(b - a) >= SWING]
    return max(0, len(large) - 1)


def _turning_points(shares: list[float]) -> list[float]:
    """Extremes of a curve, those that are less than `SWING` from the last one left out."""
    turns: list[float] = []
    for share in shares:
        if len(turns) >= 2 and (turns[-1] - turns[-2]) * (share - turns[-1]) >= 0:
            turns[-1] = share
        elif not turns or abs(share - turns[-1]) >= SWING:
            turns.append(share)
    return turns


def _places(one: Ended) -> frozenset[str]:
    return one.served_in | ({one.region} if one.region else frozenset())

"""Is a new revision as good as the one that serves? Judged on what both did in the same time.

The new revision is refused when the lower end of a Wilson interval around its share of bad requests (z = 2: wrong once
in forty) lies above both the share that is allowed and that of the old revision, and three requests at least were bad.
So a handful of requests refuses only what fails nearly always, and a fleet that is overloaded as a whole refuses none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from tandem_api.router import FleetReport
from tandem_api.v1alpha1 import Objectives

ALLOWED_FAILURES = 0.01
_LEAST_BAD = 3
_Z = 2.0


@dataclass(frozen=True)
class Tally:
    """Legs that ended on the workers of some templates."""

    requests: int = 0
    failed: int = 0
    ttft_missed: int = 0
    tpot_missed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.requests + other.requests,
            self.failed + other.failed,
            self.ttft_missed + other.ttft_missed,
            self.tpot_missed + other.tpot_missed,
        )


def tally(reports: Iterable[FleetReport], templates: Iterable[str], since_s: float) -> Tally:
    """What the routers saw of some templates in the bins that began at `since_s` (Unix time) or later."""
    wanted, total = frozenset(templates), Tally()
    for report in reports:
        for trial in report.trials:
            if trial.template_revision in wanted:
                for begun in trial.bins:
                    if begun.started_s >= since_s:
                        total += Tally(*begun[1:])
    return total


def find_breach(new: Tally, old: Tally, objectives: Objectives | None) -> str | None:
    """What the new revision does worse than it may and than the old one does, as a sentence; None if nothing."""
    checks = [("failed", new.failed, old.failed, ALLOWED_FAILURES)]
    if objectives is not None and objectives.ttft is not None:
        checks.append(
            ("missed the TTFT objective", new.ttft_missed, old.ttft_missed, _allowed(objectives.ttft.percentile))
        )
    if objectives is not None and objectives.tpot is not None:
        checks.append(
            ("missed the TPOT objective", new.tpot_missed, old.tpot_missed, _allowed(objectives.tpot.percentile))
        )
    for what, bad, bad_old, allowed in checks:
        share_old = bad_old / old.requests if old.requests else 0.0
        if bad >= _LEAST_BAD and lower_bound(bad, new.requests) > max(allowed, share_old):
            compared = f"{share_old:.1%} of {old.requests} on the serving revision, {allowed:.0%} allowed"
            return f"{bad / new.requests:.1%} of {new.requests} requests {what} ({compared})"
    return None


def lower_bound(bad: int, total: int) -> float:
    """Lower end of the Wilson score interval of a share (Wilson 1927)."""
    if total == 0:
        return 0.0
    share, z2 = bad / total, _Z * _Z
    middle = share + z2 / (2 * total)
    width = _Z * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, (middle - width) / (1 + z2 / total))


def _allowed(percentile: str) -> float:
    """Share of misses that an objective at `pX` allows."""
    return 1 - int(percentile.removeprefix("p")) / 100

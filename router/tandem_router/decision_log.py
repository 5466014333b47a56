"""A bounded sample of the decisions of late, kept so that one can be explained. No prompts: sizes and hits only."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandem_router.errand import Errand
from tandem_router.fleets import Worker
from tandem_router.policy.replay import Taken, record_decision

INTERVAL_S = 1.0  # between two samples of one fleet
KEPT = 256


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision with its circumstances."""

    number: int
    unix_s: float
    fleet: str
    revision: str
    prefill: str | None
    decode: str
    reason: str
    waited_s: float
    fields: dict[str, Any]  # a RecordedDecision


class DecisionLog:
    """The newest samples of all fleets."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._kept: deque[LoggedDecision] = deque(maxlen=KEPT)
        self._next_s: dict[str, float] = {}
        self._number = 0

    def offer(self, fleet: str, revision: str, errand: Errand, taken: Taken[Worker], now_s: float) -> None:
        """A decision was taken; keep it, unless one of this fleet was kept within the last second."""
        if now_s < self._next_s.get(fleet, 0.0):
            return
        self._next_s[fleet] = now_s + INTERVAL_S
        self._number += 1
        recorded = record_decision(errand.want, taken, errand.hits)
        pair = taken.pair
        prefill = None if pair.prefill is None else pair.prefill.name
        self._kept.append(
            LoggedDecision(
                self._number, self._wall(), fleet, revision, prefill, pair.decode.name, pair.reason,
                now_s - errand.started_s, recorded.to_fields(),
            )
        )  # fmt: skip

    def newest(self, fleet: str | None, number: int | None, at_most: int) -> list[LoggedDecision]:
        """Samples, newest first: of one fleet, or the one with this number."""
        wanted = (one for one in reversed(self._kept) if fleet in (None, one.fleet) and number in (None, one.number))
        return [one for one, _ in zip(wanted, range(at_most), strict=False)]

    def forget_fleets(self, known: set[str]) -> None:
        """Keep no clock of fleets that are gone."""
        for fleet in [fleet for fleet in self._next_s if fleet not in known]:
            del self._next_s[fleet]

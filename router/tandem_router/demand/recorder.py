"""Keeps the demand of all fleets of this process, closes each second as it ends, and answers the operator."""

import random
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tandem_api.router import ArrivalRecord, EndingRecord
from tandem_router.demand.archive import ClosedSecond, DemandArchive
from tandem_router.demand.book import DemandBook
from tandem_router.demand.sample import unpack

ARRIVAL_KINDS = (float, int, int, float, float)
ENDING_KINDS = (float, bool, float, float, float, float, int, int, int, float, float, float, float)
assert (len(ARRIVAL_KINDS), len(ENDING_KINDS)) == (len(ArrivalRecord._fields), len(EndingRecord._fields))


@dataclass(frozen=True, slots=True)
class FleetLevels:
    """Who a fleet is, and its levels of now as in `tandem_api.router.DemandLevels`."""

    namespace: str
    name: str
    uid: str
    levels: dict[str, float]

    def describe(self, rows: list[tuple[int, ClosedSecond]]) -> dict[str, Any]:
        """A `FleetDemand`, as plain values."""
        return {
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "bins": [{"second": second, **entry.bin_fields} for second, entry in rows],
            "arrivals": [row for _, entry in rows for row in unpack(entry.arrivals, ARRIVAL_KINDS)],
            "endings": [row for _, entry in rows for row in unpack(entry.endings, ENDING_KINDS)],
            "levels": self.levels,
        }


class DemandRecorder:
    """Books by fleet, and the archive of what is over.

    Args:
        wall: Unix time, seconds.
        clock: the loop's clock, in which requests are timed.
        draw: numbers in [0, 1).
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._offset_s = wall() - clock()
        self._second = int(wall())
        self._books: dict[str, DemandBook] = {}
        self._archive = DemandArchive(self._second)
        self.draw = draw
        self.epoch = secrets.token_hex(8)

    def unix_s(self, now_s: float) -> float:
        """Unix time of a moment of the loop's clock."""
        return now_s + self._offset_s

    def book(self, uid: str) -> DemandBook:
        """The book of one fleet."""
        found = self._books.get(uid)
        if found is None:
            found = self._books[uid] = DemandBook(uid, self.unix_s(self._clock()))
        return found

    def blank_book(self) -> DemandBook:
        """For a request that is no demand of this region's."""
        return DemandBook("", self.unix_s(self._clock()))

    def until_next_s(self) -> float:
        """Seconds until the open second ends."""
        return max(0.0, self._second + 1 - self._wall()) + 0.001

    def tick(self, known: Iterable[str]) -> None:
        """Close the second that is over, if one is; forget the books of fleets that are gone and idle.

        Call it as each second ends. A wall clock that is set back leaves the open second open until it has caught up.
        """
        now_s = self._wall()
        self._offset_s = now_s - self._clock()
        if int(now_s) <= self._second:
            return
        entries = [one for book in self._books.values() if (one := book.close_second(now_s)) is not None]
        self._archive.close(self._second, entries, int(now_s))
        self._second = int(now_s)
        wanted = set(known)
        for uid in [uid for uid, book in self._books.items() if uid not in wanted and not book.held]:
            del self._books[uid]

    def answer(self, replica: str, cursor: int, fleets: Iterable[FleetLevels], only: str | None) -> dict[str, Any]:
        """A `tandem_api.router.DemandAnswer`, as plain values.

        Args:
            fleets: every fleet of this router, with its levels.
            only: uid of the one fleet that is asked for.
        """
        start, until, entries = self._archive.page(cursor, only)
        told = {fleet.uid: fleet for fleet in fleets if only in (None, fleet.uid)}
        by_fleet: dict[str, list[tuple[int, ClosedSecond]]] = {
            uid: [] for uid, fleet in told.items() if any(fleet.levels.values())
        }
        for second, entry in entries:
            if entry.uid in told:
                by_fleet.setdefault(entry.uid, []).append((second, entry))
        return {
            "replica": replica,
            "epoch": self.epoch,
            "now_s": self._wall(),
            "covers_from": start,
            "cursor": until,
            "fleets": [told[uid].describe(rows) for uid, rows in by_fleet.items()],
        }

"""The last hour of demand, whole seconds over all fleets, in bounded memory; read page by page with a cursor."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tandem_api.router import DEMAND_KEPT_S, DEMAND_PAGE_RECORDS, DEMAND_PAGE_S

MAX_BYTES = 64 << 20
ENTRY_BYTES = 400  # of a closed second beside its records, measured


@dataclass(frozen=True, slots=True)
class ClosedSecond:
    """What one fleet saw in one second. Packed rows: see `sample`."""

    uid: str
    bin_fields: dict[str, float]
    arrivals: bytes
    endings: bytes
    records: int

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return ENTRY_BYTES + len(self.arrivals) + len(self.endings)


class DemandArchive:
    """Closed seconds in order. The oldest are dropped after an hour, or when memory is full: whole seconds only."""

    def __init__(self, first_second: int, max_bytes: int = MAX_BYTES) -> None:
        self._seconds: deque[tuple[int, tuple[ClosedSecond, ...]]] = deque()
        self._max_bytes = max_bytes
        self._bytes = 0
        self.covers_from = first_second
        self.cursor = first_second

    def close(self, second: int, entries: Iterable[ClosedSecond], now_second: int) -> None:
        """`second` is over, and it is `now_second`; what lies between was silent, or the clock jumped."""
        kept = tuple(entries)
        if kept:
            self._seconds.append((second, kept))
            self._bytes += sum(one.size_bytes for one in kept)
        self.cursor = now_second
        self._trim()

    def _trim(self) -> None:
        oldest = self.cursor - DEMAND_KEPT_S
        while self._seconds and (self._seconds[0][0] < oldest or self._bytes > self._max_bytes):
            second, entries = self._seconds.popleft()
            self._bytes -= sum(one.size_bytes for one in entries)
            self.covers_from = second + 1
        self.covers_from = max(self.covers_from, oldest)

    def page(self, cursor: int, uid: str | None = None) -> tuple[int, int, list[tuple[int, ClosedSecond]]]:
        """(from, until, entries) of the seconds from `cursor` on, as many as fit one answer; `uid`: of one fleet."""
        start = min(max(cursor, self.covers_from), self.cursor)
        until = min(self.cursor, start + DEMAND_PAGE_S)
        found: list[tuple[int, ClosedSecond]] = []
        records = 0
        for place in range(bisect_left(self._seconds, start, key=lambda one: one[0]), len(self._seconds)):
            second, entries = self._seconds[place]
            if second >= until:
                break
            found += [(second, one) for one in entries if uid in (None, one.uid)]
            records += sum(one.records for one in entries if uid in (None, one.uid))
            if records >= DEMAND_PAGE_RECORDS:
                return start, second + 1, found
        return start, until, found

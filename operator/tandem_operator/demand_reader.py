"""Reads what was asked of each router (`GET /internal/v1/demand`), where it stopped the last time."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from tandem_api.router import DEMAND_PATH, DemandAnswer
from tandem_operator.autoscale.demand import KEPT_S
from tandem_operator.kinds import Manifest
from tandem_operator.router_client import fetch_from_router

FRESH_S = 15.0  # a router that answered within that time is heard
EXPECTED_S = 60.0  # and one that was ready within this time should be
_PAGES = 8  # of one router in one round; the rest comes in the next
_AT_ONCE = 16  # routers

_log = logging.getLogger(__name__)

Sink = Callable[[str, DemandAnswer], None]


@dataclass(slots=True)
class Source:
    """One router pod. Times are Unix seconds; `cursor` is the first second that was not read yet."""

    name: str
    ready_s: float
    cursor: int
    epoch: str = ""
    answered_s: float | None = None
    newest_s: float | None = None

    def is_fresh(self, now_s: float) -> bool:
        """Whether it was heard a moment ago."""
        return self.answered_s is not None and now_s - self.answered_s <= FRESH_S


class DemandReader:
    """The cursors of all routers.

    Args:
        tokens: what to show now; they change when keys are rotated.
        sink: takes each answer, with the name of its router.
        clock: Unix seconds.

    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        tokens: Callable[[], tuple[str, ...]],
        sink: Sink,
        clock: Callable[[], float],
    ) -> None:
        self._session, self._tokens, self._sink, self._clock = session, tokens, sink, clock
        self._sources: dict[str, Source] = {}  # pod uid
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._covers_from: int | None = None  # what the routers of the first round knew
        self._first_read_s = float("inf")

    def expected(self) -> list[Source]:
        """Routers that are ready, or were within a minute."""
        return list(self._sources.values())

    def newest_s(self) -> float | None:
        """End of the newest bin that any of them reported."""
        return max((one.newest_s for one in self._sources.values() if one.newest_s is not None), default=None)

    def covers_from(self, listening_since_s: float) -> int | None:
        """Since when everything is known to one who listens since then; None before the first answer.

        Who was there in the first round heard what routers remembered; who came later did not.
        """
        if self._covers_from is None or listening_since_s <= self._first_read_s:
            return self._covers_from
        return int(listening_since_s) + 1

    async def read(self, ready: Sequence[Manifest]) -> None:
        """One round over the `ready` router pods. Those that do not answer are as they were."""
        now_s = self._clock()
        targets = list(self._mark(ready, now_s))
        covered = await asyncio.gather(*(self._read_one(source, address) for source, address in targets))
        known = [second for second in covered if second is not None]
        if self._covers_from is None and known:
            self._covers_from, self._first_read_s = max(known), now_s

    def _mark(self, ready: Sequence[Manifest], now_s: float) -> Iterator[tuple[Source, str]]:
        for pod in ready:
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            source = self._sources.get(uid)
            if source is None:
                # What an earlier leader decided on is read again, as far as a window reaches back.
                self._sources[uid] = source = Source(name, now_s, int(now_s - KEPT_S))
            source.ready_s = now_s
            yield source, pod["status"]["podIP"]
        self._sources = {uid: one for uid, one in self._sources.items() if now_s - one.ready_s <= EXPECTED_S}

    async def _read_one(self, source: Source, address: str) -> int | None:
        """All pages of one router. Returns the first second of the first page."""
        first = None
        for _ in range(_PAGES):
            answer = await self._fetch(source, address)
            if answer is None or not self._advance(source, answer):
                break
            first = answer.covers_from if first is None else first
            if answer.cursor >= int(answer.now_s):
                break
        return first

    def _advance(self, source: Source, answer: DemandAnswer) -> bool:
        """Take an answer, unless it repeats what was read. Returns whether it was taken."""
        if answer.epoch == source.epoch and answer.covers_from < source.cursor:
            _log.warning("router %s repeats second %d, asked for %d", source.name, answer.covers_from, source.cursor)
            return False
        if answer.cursor < answer.covers_from:
            _log.warning("router %s covers %d to %d", source.name, answer.covers_from, answer.cursor)
            return False
        self._sink(source.name, answer)
        source.epoch, source.cursor = answer.epoch, answer.cursor
        source.answered_s, source.newest_s = self._clock(), float(answer.cursor)
        return True

    async def _fetch(self, source: Source, address: str) -> DemandAnswer | None:
        query = {"cursor": str(source.cursor)}
        async with self._gate:
            body = await fetch_from_router(self._session, address, DEMAND_PATH, self._tokens(), query)
        try:
            return DemandAnswer.model_validate_json(body) if body is not None else None
        except ValidationError as error:
            _log.warning("router %s tells no demand that can be read: %s", source.name, error)
            return None

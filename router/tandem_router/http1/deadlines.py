"""Deadlines that every request has and hardly any meets: in buckets, with one timer of the loop for each bucket."""

import asyncio
from collections.abc import Callable

GRAIN_S = 1 / 16  # a deadline is noticed that much late at most, and…
SECOND_LOOK_S = 0.05  # …this much more: what came while our loop stood still is read before anybody is given up

Expire = Callable[[], None]


class Deadlines:
    """Times are of the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[Expire]] = {}

    def add(self, at_s: float, expire: Expire) -> set[Expire]:
        """Call `expire` after `at_s`, unless it is discarded from the returned bucket before."""
        key = int(at_s / GRAIN_S) + 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
            self._loop.call_at(key * GRAIN_S, self._look, key)
        bucket.add(expire)
        return bucket

    def _look(self, key: int) -> None:
        bucket = self._buckets.pop(key)
        if bucket:
            self._loop.call_later(SECOND_LOOK_S, expire_all, bucket)


def expire_all(bucket: set[Expire]) -> None:
    """Their time is over."""
    for expire in tuple(bucket):
        expire()

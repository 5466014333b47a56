"""A queue of keys with the semantics of client-go's.

A key that is added while it is being processed is processed again afterwards, once, however often it was added; no key
is ever processed by two workers at a time; a key that fails comes back later and later.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 60.0


class WorkQueue(Generic[K]):
    """Keys that wait. To be used from one event loop.

    Args:
        jitter: returns a factor near 1, so that keys that fail together do not come back together.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._jitter = jitter

    def add(self, key: K) -> None:
        """Asks for the key to be processed."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Asks for it after a while; of several such wishes the earliest counts."""
        loop = asyncio.get_running_loop()
        pending = self._timers.get(key)
        if pending and pending.when() <= loop.time() + delay_s:
            return
        if pending:
            pending.cancel()
        self._timers[key] = loop.call_later(delay_s, self._ring, key)

    def retry(self, key: K, at_least_s: float = 0.0) -> float:
        """Asks for it after a back-off that doubles with each failure. Returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = max(min(FIRST_DELAY_S * 2.0 ** min(failures, 16), LAST_DELAY_S), at_least_s) * self._jitter()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; call `done` with it afterwards."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """Processing ended, however it ended."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake.set()

    @property
    def depth(self) -> int:
        """Keys that wait now; those with a timer are not among them."""
        return len(self._ready)

    def close(self) -> None:
        """Cancels the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _ring(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

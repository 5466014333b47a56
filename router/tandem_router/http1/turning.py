"""A time limit that counts only while our own loop turns: what waits behind our lateness is nobody's fault."""

import asyncio
from collections.abc import Callable

SLICES = 16  # more than the turns that a connection takes from handshake to use; each serves what has come meanwhile


class TurningTimer:
    """Calls `expire` once, when `limit_s` have passed in slices, each of them followed by a turn of the loop.

    A loop that stands still for longer than a slice is charged one slice, however long that was.
    """

    __slots__ = ("_expire", "_handle", "_left", "_loop", "_slice_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._slice_s = limit_s / SLICES
        self._expire = expire
        self._left = SLICES
        self._handle = loop.call_later(self._slice_s, self._tick)

    def restart(self) -> None:
        """The whole limit is left again, to a slice."""
        self._left = SLICES

    def cancel(self) -> None:
        """Never expire."""
        self._handle.cancel()

    def _tick(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._handle = self._loop.call_later(self._slice_s, self._tick)
        else:
            self._expire()

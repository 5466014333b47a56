"""New connections to workers: so many of one endpoint at once, the others in turn.

A worker is blamed when nobody has got through to it for the whole limit while our own loop turned (`turning`), and
not when its backlog was full of what we ourselves had sent, or when a connection stood ready and we were late.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tandem_router.http1.exchange import ConnectError, Endpoint, OwnLimitError
from tandem_router.http1.turning import TurningTimer

T = TypeVar("T")
OUR_LIMITS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class _Line:
    """Everybody who wants a new connection to one endpoint now."""

    def __init__(self, at_once: int, timer: TurningTimer) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.waiting: set[asyncio.Timeout] = set()
        self.timer = timer


class Dialer:
    """Makes connections by endpoint, at most `at_once` of each at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, at_once: int) -> None:
        self._loop, self._limit_s, self._at_once = loop, limit_s, at_once
        self._lines: dict[Endpoint, _Line] = {}

    async def dial(self, endpoint: Endpoint, connect: Callable[[], Awaitable[T]]) -> T:
        """What `connect` brings, once it is our turn.

        Raises:
            ConnectError: refused, or nobody has got through for the whole limit.
            OwnLimitError: this process can open no more connections.
        """
        line = self._lines.get(endpoint)
        if line is None:
            timer = TurningTimer(self._loop, self._limit_s, lambda: self._give_up(endpoint))
            line = self._lines[endpoint] = _Line(self._at_once, timer)
        try:
            async with asyncio.timeout(None) as patience:
                line.waiting.add(patience)
                async with line.turns:
                    made = await connect()
            line.timer.restart()
            return made
        except OSError as error:  # TimeoutError is one
            raise self._fault(endpoint, error) from error
        finally:
            self._leave(endpoint, line, patience)

    def _give_up(self, endpoint: Endpoint) -> None:
        """Who comes from now on stands in a line of their own, and has the whole limit."""
        for patience in self._lines.pop(endpoint).waiting:
            patience.reschedule(0.0)

    def _leave(self, endpoint: Endpoint, line: _Line, patience: asyncio.Timeout) -> None:
        line.waiting.discard(patience)
        if not line.waiting and self._lines.get(endpoint) is line:
            line.timer.cancel()
            del self._lines[endpoint]

    def _fault(self, endpoint: Endpoint, error: OSError) -> ConnectError | OwnLimitError:
        if error.errno in OUR_LIMITS:
            return OwnLimitError(f"no connection can be opened: {error.strerror}")
        why = str(error) or f"nobody got through for {self._limit_s:g} s"
        return ConnectError(f"no connection to {endpoint.host}:{endpoint.port}: {why}")

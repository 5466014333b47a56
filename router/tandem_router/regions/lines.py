"""The body of a stream of digests, line by line."""

import asyncio
from collections.abc import Callable

from tandem_router.http1.exchange import UpstreamError

MAX_LINE_BYTES = 8 << 20


class NotThePeerError(Exception):
    """Whoever answers is not the peer, or does not want us; the message says what to mend."""


class DigestLines:
    """Takes the body of an exchange, and gives its lines to `take` until that says False.

    Attributes:
        ended: done when the stream is over; with an UpstreamError when it was cut, a NotThePeerError by `take`.
        has_spoken: at least one line was taken.
    """

    def __init__(self, take: Callable[[bytes], bool]) -> None:
        self._take = take
        self._rest = b""
        self.has_spoken = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_body(self, data: bytes) -> None:
        """Some bytes of it."""
        if self.ended.done():
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self.on_failure(UpstreamError("a line of the stream is too long"))
        for line in lines:
            if line and not self.ended.done():
                self._give(line)

    def _give(self, line: bytes) -> None:
        try:
            goes_on = self._take(line)
        except NotThePeerError as error:
            self.ended.set_exception(error)
            return
        if goes_on:
            self.has_spoken = True
        else:
            self.ended.set_result(None)

    def on_end(self) -> None:
        """It ended without a last word."""
        self.on_failure(UpstreamError("the stream ended"))

    def on_failure(self, error: UpstreamError) -> None:
        """It was cut."""
        if not self.ended.done():
            self.ended.set_exception(error)

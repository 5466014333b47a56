"""Writes one response to a client: framing, HEAD, HTTP/1.0, back-pressure, and an end that is never falsely clean."""

import asyncio
from collections.abc import Callable

from tandem_router.http1.messages import Headers, Request, encode_response_head

Flow = Callable[[bool], None]


class ResponseWriter:
    """The response to one request; used by one task.

    A response is either `send` (whole), or `begin`, `write`…, then `end` or `break_off`. After the client is gone
    every method does nothing.
    """

    __slots__ = (
        "_chunked",
        "_flow",
        "_is_head",
        "_keep_alive",
        "_paused",
        "_request",
        "_transport",
        "is_ended",
        "is_started",
    )

    def __init__(self, transport: asyncio.Transport, request: Request) -> None:
        self._transport = transport
        self._request = request
        self._is_head = request.method == b"HEAD"
        self._keep_alive = request.keep_alive
        self._chunked = False
        self._paused = False
        self._flow: Flow | None = None
        self.is_started = False
        self.is_ended = False

    @property
    def keeps_connection(self) -> bool:
        """Another request may follow on this connection."""
        return self._keep_alive

    @property
    def accepts_chunks(self) -> bool:
        """A broken end can be told from a clean one (chunked framing)."""
        return not self._request.is_http10

    def close_after(self) -> None:
        """This response is the connection's last."""
        self._keep_alive = False

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole response of known length."""
        self._start(status, [*headers, (b"Content-Length", b"%d" % len(body))], b"" if self._is_head else body)
        self.is_ended = True

    def begin(self, status: int, headers: Headers, length: int | None, first: bytes = b"") -> None:
        """Start a response of `length` bytes, or of unknown length if None, with its `first` bytes."""
        if length is not None:
            framing = [(b"Content-Length", b"%d" % length)]
        elif self.accepts_chunks:
            framing = [(b"Transfer-Encoding", b"chunked")]
            self._chunked = True
        else:
            framing = []
            self._keep_alive = False
        self._start(status, headers + framing, self._frame(first))

    def write(self, data: bytes) -> None:
        """Some payload bytes."""
        if data and not self._is_head:
            self._transport.write(self._frame(data))

    def end(self) -> None:
        """The response is complete."""
        if self._chunked and not self._is_head:
            self._transport.write(b"0\r\n\r\n")
        self.is_ended = True

    def break_off(self) -> None:
        """End the response so that the client sees that it is not complete."""
        self._keep_alive = False
        self.is_ended = True
        if self._chunked:
            self._transport.close()  # flushes what was written; the last chunk is missing
        else:
            self._transport.abort()

    def on_flow(self, flow: Flow | None) -> None:
        """Call `flow(False)` when the client reads too slowly and `flow(True)` when it reads again."""
        self._flow = flow
        if flow is not None and self._paused:
            flow(False)

    def set_flow(self, is_open: bool) -> None:
        """The connection's write buffer filled up, or drained."""
        self._paused = not is_open
        if self._flow is not None:
            self._flow(is_open)

    def _start(self, status: int, headers: Headers, first: bytes) -> None:
        self.is_started = True
        if not self._keep_alive:
            headers = [*headers, (b"Connection", b"close")]
        elif self._request.is_http10:
            headers = [*headers, (b"Connection", b"keep-alive")]
        self._transport.write(encode_response_head(status, headers) + first)

    def _frame(self, data: bytes) -> bytes:
        if not data or self._is_head:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

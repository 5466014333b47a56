"""The client's side of a connection: httptools parses, limits and order are kept here.

Requests of one connection are answered one after the other. A client that closes its side, or only its sending
half, is gone: its request is cancelled at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httptools

from tandem_router.errors import (
    BadRequestError,
    BodyTooLargeError,
    HeadersTooLargeError,
    RequestError,
    RequestTooSlowError,
)
from tandem_router.http1.messages import Headers, Request, encode_response_head
from tandem_router.http1.writer import ResponseWriter

Handler = Callable[[Request, ResponseWriter], Awaitable[None]]
WRITE_HIGH_BYTES = 128 * 1024
MAX_QUEUED_REQUESTS = 4  # pipelined behind the one in flight, before we stop reading
LINGER_S = 2.0  # how long we read on after refusing a request, so that the client sees why


@dataclass(frozen=True)
class Limits:
    """What a client may send, and how slowly."""

    header_bytes: int = 64 * 1024
    body_bytes: int = 16 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0


@dataclass
class Listener:
    """What all connections of one listening socket share."""

    handler: Handler
    limits: Limits
    connections: "set[ClientConnection]" = field(default_factory=set)
    draining: bool = False
    _emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: "ClientConnection") -> None:
        """A client has connected."""
        self.connections.add(connection)
        self._emptied.clear()

    def discard(self, connection: "ClientConnection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until there is no connection."""
        if self.connections:
            await self._emptied.wait()

    def connect(self) -> "ClientConnection":
        """Protocol factory."""
        return ClientConnection(self)

    def drain(self) -> None:
        """Close idle connections now, and the others after the response in flight."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort(self) -> None:
        """Close every connection now."""
        for connection in list(self.connections):
            connection.abort()

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits; call every second."""
        for connection in list(self.connections):
            connection.check_time(now_s)


class ClientConnection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writer: ResponseWriter | None = None
        self._refusal: RequestError | None = None  # answered when the request in flight is done
        self._lingering = False
        self._awaits_continue = False
        self._due_s = 0.0
        self._url = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._has_head = False
        self._in_message = False

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._due_s = self._loop.time() + self._limits.header_timeout_s
        self._listener.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.discard(self)
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        """A client that will send no more is gone: nobody waits for what a half-closed connection would get."""
        if self._task is not None:
            self._transport.abort()
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refusal is not None:
            return
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The client offers another protocol; we stay with HTTP/1.1, as RFC 9110 §7.8 allows.
            self._parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
        except RequestError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestError) else BadRequestError("Malformed request."))
        except httptools.HttpParserError as error:
            self._refuse(BadRequestError(f"Malformed HTTP request: {error}.", code="malformed_http"))

    def pause_writing(self) -> None:
        if self._writer is not None:
            self._writer.set_flow(False)

    def resume_writing(self) -> None:
        if self._writer is not None:
            self._writer.set_flow(True)

    # --- httptools callbacks ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begin_message()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # trailers are read and dropped
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._check_head()
        if self._awaits_continue and self._task is None:
            self._say_continue()

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        self._check_body_size(self._body_bytes)
        self._body.append(data)

    def on_message_complete(self) -> None:
        path, _, query = self._url.partition(b"?")
        request = Request(
            method=self._parser.get_method(),
            path=path.decode("latin-1"),
            query=query,
            headers=self._headers,
            body=b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
            is_http10=self._parser.get_http_version() == "1.0",
        )
        self._in_message = False
        self._awaits_continue = False
        self._body = []
        self._queue.append(request)
        if self._task is None:
            self._next()
        elif len(self._queue) >= MAX_QUEUED_REQUESTS:
            self._transport.pause_reading()

    # --- reading ------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if not self._in_message:
            self._in_message = True
            self._head_bytes = 0
            self._due_s = self._loop.time() + self._limits.header_timeout_s
            self._has_head = False
        if not self._has_head:
            self._head_bytes += len(data)
        self._parser.feed_data(data)
        if not self._has_head and self._in_message and self._head_bytes > self._limits.header_bytes:
            raise_too_large(self._limits.header_bytes)

    def _begin_message(self) -> None:
        self._url = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._has_head = False
        self._in_message = True

    def _check_head(self) -> None:
        if len(self._url) + sum(len(key) + len(value) + 4 for key, value in self._headers) > self._limits.header_bytes:
            raise_too_large(self._limits.header_bytes)
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadRequestError(f"HTTP version {version} is not supported: use HTTP/1.1.", code="malformed_http")
        names = [key.lower() for key, _ in self._headers]
        if names.count(b"host") != (1 if version == "1.1" else min(1, names.count(b"host"))):
            raise BadRequestError("A request has exactly one Host header.", code="malformed_http")
        self._check_framing(version)
        self._due_s = self._loop.time() + self._limits.body_timeout_s

    def _check_framing(self, version: str) -> None:
        for key, value in self._headers:
            low = key.lower()
            if low == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
                raise BadRequestError("Transfer-Encoding must be chunked, in HTTP/1.1.", code="malformed_http")
            if low == b"content-length":
                self._check_body_size(int(value))
            if low == b"expect":
                if value.lower() != b"100-continue":
                    raise BadRequestError("Expect may only be 100-continue.", code="malformed_http")
                self._awaits_continue = version == "1.1"

    def _check_body_size(self, size: int) -> None:
        limit = self._limits.body_bytes
        if size > limit:
            raise BodyTooLargeError(f"The request body is over the limit of {limit} bytes.", code="body_too_large")

    def _say_continue(self) -> None:
        self._awaits_continue = False
        self._transport.write(encode_response_head(100, []))

    # --- answering ----------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        if self._queue:
            request = self._queue.popleft()
            self._writer = ResponseWriter(self._transport, request)
            if self._listener.draining:
                self._writer.close_after()
            self._task = self._loop.create_task(self._answer(request, self._writer))
            return
        self._task = self._writer = None
        limits = self._limits
        self._due_s = self._loop.time() + (limits.header_timeout_s if self._in_message else limits.idle_timeout_s)
        self._transport.resume_reading()
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._awaits_continue:
            self._say_continue()
        elif self._listener.draining and not self._in_message:
            self._transport.close()

    async def _answer(self, request: Request, writer: ResponseWriter) -> None:
        try:
            await self._listener.handler(request, writer)
        finally:
            self._after_answer(writer)

    def _after_answer(self, writer: ResponseWriter) -> None:
        writer.on_flow(None)
        if not writer.is_ended:
            writer.break_off()
        if writer.keeps_connection:
            self._next()
        else:
            self._task = self._writer = None
            self._queue.clear()
            self._transport.close()

    def _refuse(self, error: RequestError) -> None:
        self._refusal = error
        if self._task is None:
            self._send_refusal(error)

    def _send_refusal(self, error: RequestError) -> None:
        body = error.to_json()
        head = encode_response_head(
            error.status,
            [
                (b"Content-Type", b"application/json"),
                (b"Content-Length", b"%d" % len(body)),
                (b"Connection", b"close"),
            ],
        )
        self._transport.write(head + body)
        self._linger()

    def _linger(self) -> None:
        """Close our sending half and read on for a moment: a reset would destroy the answer on its way."""
        self._lingering = True
        self._due_s = self._loop.time() + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    # --- time ---------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close now; a request in flight is cancelled."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is in flight or arriving."""
        if self._task is None and not self._in_message and not self._lingering:
            self._transport.close()
        elif self._writer is not None and not self._writer.is_started:
            self._writer.close_after()

    def check_time(self, now_s: float) -> None:
        """Close or refuse a connection that has been silent or slow for too long."""
        if self._task is not None or now_s < self._due_s:
            return
        if self._lingering:
            self._transport.abort()
        elif self._in_message:
            self._refuse(RequestTooSlowError("The request did not arrive in time.", code="request_timeout"))
        else:
            self._transport.close()


def raise_too_large(limit: int) -> None:
    """Refuse a request whose head is over `limit` bytes."""
    raise HeadersTooLargeError(
        f"The request line and headers are over the limit of {limit} bytes.", code="headers_too_large"
    )

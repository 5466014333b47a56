"""The client's side of a connection: httptools parses, limits and order are kept here.

Requests of one connection are answered one after the other. A client that closes its side, or only its sending
half, is gone: its request is cancelled at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import httptools

from tandem_router.errors import BadRequestError, OverloadedError, RequestError, RequestTooSlowError
from tandem_router.http1.messages import Headers, Request, encode_response_head, index_headers
from tandem_router.http1.reading import BufferedReader
from tandem_router.http1.strict import Limits, check_head
from tandem_router.http1.writer import ResponseWriter

Handler = Callable[[Request, ResponseWriter], Awaitable[None]]
WRITE_HIGH_BYTES = 128 * 1024
MAX_QUEUED_REQUESTS = 4  # pipelined behind the one in flight, before we stop reading
UPGRADE_HEADERS = frozenset((b"upgrade", b"http2-settings", b"connection"))
LINGER_S = 2.0  # how long we read on after refusing a request, so that the client sees why


class Home(Protocol):
    """The listener, as its connections see it."""

    @property
    def handler(self) -> Handler:
        """Answers requests."""

    @property
    def limits(self) -> Limits:
        """What a client may send."""

    @property
    def read_buffer(self) -> memoryview:
        """Where its connections read."""

    @property
    def draining(self) -> bool:
        """No request follows the one in flight."""

    @property
    def is_full(self) -> bool:
        """More clients are connected than may be."""

    def add(self, connection: "ClientConnection") -> None:
        """A client has connected."""

    def discard(self, connection: "ClientConnection") -> None:
        """A connection is closed."""


class ClientConnection(BufferedReader):
    """One connection of a client."""

    def __init__(self, listener: Home) -> None:
        super().__init__(listener.read_buffer)
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
        self._is_clogged = False  # the client has not read what was written
        self._is_surplus = False  # one client more than may be
        self._due_s = 0.0
        self._url = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0  # received, of a head that is not complete
        self._by_name: dict[bytes, bytes] = {}
        self._has_head = False
        self._in_message = False

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses of it
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._due_s = self._loop.time() + self._limits.header_timeout_s
        self._listener.add(self)
        self._is_surplus = self._listener.is_full

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.discard(self)
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        """A client that will send no more is gone: nobody waits for what a half-closed connection would get."""
        if self._task is not None:
            self._task.cancel()  # now, and not when the loop has told us that the connection is lost
            self._transport.abort()
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refusal is not None:
            return
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except RequestError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestError) else BadRequestError("Malformed request."))
        except httptools.HttpParserError as error:
            self._refuse(BadRequestError(f"Malformed HTTP request: {error}.", code="malformed_http"))

    def pause_writing(self) -> None:
        self._is_clogged = True
        if self._writer is not None:
            self._writer.set_flow(False)

    def resume_writing(self) -> None:
        self._is_clogged = False
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
        if self._awaits_continue and self._task is None and not self._parser.should_upgrade():
            self._say_continue()

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        self._limits.check_body_size(self._body_bytes)
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # without its body: `_decline_upgrade` follows
        path, _, query = self._url.partition(b"?")
        request = Request(
            method=self._parser.get_method(),
            path=path.decode("latin-1"),
            query=query,
            headers=self._headers,
            body=b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
            is_http10=self._parser.get_http_version() == "1.0",
            by_name=self._by_name,
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
        if not self._has_head and self._in_message:
            self._limits.check_head_size(self._head_bytes)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Stay with HTTP/1.1, as RFC 9110 §7.8 allows: the parser stops before the body of a request that offers
        another protocol, so it gets the request again without the offer."""
        method = self._parser.get_method()
        headers = [(key, value) for key, value in self._headers if key.lower() not in UPGRADE_HEADERS]
        self._parser = httptools.HttpRequestParser(self)
        head = b"%b %b HTTP/1.1\r\n" % (method, self._url)
        self._in_message = False
        self.data_received(head + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + rest)

    def _begin_message(self) -> None:
        self._url = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._has_head = False
        self._in_message = True

    def _check_head(self) -> None:
        limits = self._limits
        if self._is_surplus:
            raise OverloadedError("Too many clients are connected.", code="too_many_connections", retry_after_s=1)
        parser, headers = self._parser, self._headers
        limits.check_head_size(len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers))
        self._by_name = by_name = index_headers(headers)
        self._awaits_continue = check_head(parser.get_method(), parser.get_http_version(), headers, by_name, limits)
        self._due_s = self._loop.time() + self._limits.body_timeout_s

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
            self._writer.set_flow(not self._is_clogged)
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
        headers: Headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Connection", b"close"),
        ]
        if error.retry_after_s is not None:
            headers.append((b"Retry-After", b"%d" % error.retry_after_s))
        self._transport.write(encode_response_head(error.status, headers) + body)
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

"""The worker's side of a connection: kept-open connections, one exchange at a time, closed at once when cancelled."""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from tandem_router.http1.decoder import FramingError, ResponseDecoder
from tandem_router.http1.messages import Response, ResponseHead

IDLE_REUSE_S = 4.0  # engines' HTTP servers close idle connections after 5 s
MAX_IDLE_PER_ENDPOINT = 128
CONNECT_TIMEOUT_S = 1.0


class UpstreamError(Exception):
    """The exchange did not bring a whole, well-formed response."""


class ConnectError(UpstreamError):
    """No connection to the worker."""


class ConnectionBrokenError(UpstreamError):
    """The worker closed or reset the connection, or answered with something that is not HTTP."""


class WorkerLostError(UpstreamError):
    """The worker was given up while it worked: it is not seen alive any more, or it has been silent for too long."""


class ResponseTooLargeError(UpstreamError):
    """The answer is larger than its reader allows."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an HTTP server listens. `host` is an IP address, or a name for the resolver."""

    host: str
    port: int

    @property
    def authority(self) -> bytes:
        """Value of the Host header."""
        return (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}").encode()


class BodySink(Protocol):
    """Takes the body of a response as it comes."""

    def on_body(self, data: bytes) -> None:
        """Some payload bytes."""

    def on_end(self) -> None:
        """The body is complete."""

    def on_failure(self, error: UpstreamError) -> None:
        """The body will not be complete."""


class Exchange:
    """One request and its response. Holds body bytes (bounded) until a sink is attached."""

    HOLD_BYTES = 64 * 1024

    def __init__(self, loop: asyncio.AbstractEventLoop, *, head_suffices: bool = False) -> None:
        self._loop = loop
        self._head_suffices = head_suffices
        self._arrival: asyncio.Future[None] = loop.create_future()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sink: BodySink | None = None
        self._connection: UpstreamConnection | None = None
        self._error: UpstreamError | None = None
        self.head: ResponseHead | None = None
        self.is_ended = False
        self.is_paused = False
        self.last_byte_s = loop.time()

    def bind(self, connection: "UpstreamConnection") -> None:
        """The connection that carries this exchange."""
        self._connection = connection

    async def first_byte(self) -> ResponseHead:
        """Wait until the head and the first byte of the body (or its end) are here; or the head, if that suffices.

        Raises:
            UpstreamError: they will never be.
        """
        await self._arrival
        if self._error is not None:
            raise self._error
        assert self.head is not None
        return self.head

    def relay_to(self, sink: BodySink) -> None:
        """Give what is held, and all that follows, to `sink`."""
        held, self._held = self._held, []
        self._sink = sink
        for data in held:
            sink.on_body(data)
        self.set_flow(True)
        if self._error is not None:
            sink.on_failure(self._error)
        elif self.is_ended:
            sink.on_end()

    def set_flow(self, is_open: bool) -> None:
        """Stop or go on reading from the worker."""
        self.is_paused = not is_open
        if self._connection is not None:
            self._connection.set_flow(is_open)

    def abort(self) -> None:
        """Close the connection unless the response is complete: the worker sees it and stops working."""
        if self._connection is not None:
            self._connection.abort()

    def fail(self, error: UpstreamError) -> None:
        """End the exchange from outside: its worker is lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self.on_failure(error)

    # --- ResponseSink, called by the connection -----------------------------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        self.head = head
        self.last_byte_s = self._loop.time()
        if self._head_suffices:
            self._arrive()

    def on_body(self, data: bytes) -> None:
        self.last_byte_s = self._loop.time()
        if self._sink is not None:
            self._sink.on_body(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self.HOLD_BYTES:
            self.set_flow(False)
        self._arrive()

    def on_end(self) -> None:
        self.is_ended = True
        self._arrive()
        if self._sink is not None:
            self._sink.on_end()

    def on_failure(self, error: UpstreamError) -> None:
        if self.is_ended or self._error is not None:
            return
        self._error = error
        self._connection = None
        self._arrive()
        if self._sink is not None:
            self._sink.on_failure(error)

    def release(self) -> None:
        """The connection now serves another exchange."""
        self._connection = None

    def _arrive(self) -> None:
        if not self._arrival.done():
            self._arrival.set_result(None)


class UpstreamConnection(asyncio.Protocol):
    """One connection to a worker."""

    __slots__ = ("_decoder", "_exchange", "_loop", "_pool", "_transport", "endpoint", "idle_since_s")

    def __init__(self, pool: "UpstreamPool", endpoint: Endpoint) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._decoder: ResponseDecoder | None = None
        self.endpoint = endpoint
        self.idle_since_s = 0.0

    @property
    def is_closing(self) -> bool:
        """Not to be used again."""
        return self._transport.is_closing()

    def send(self, request: bytes, exchange: Exchange) -> None:
        """Start an exchange."""
        self._exchange = exchange
        self._decoder = ResponseDecoder(exchange, head_request=request.startswith(b"HEAD "))
        exchange.bind(self)
        self._transport.write(request)

    def set_flow(self, is_open: bool) -> None:
        """Stop or go on reading."""
        if self._transport.is_closing():
            return
        if is_open:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        decoder, exchange = self._decoder, self._exchange
        if decoder is None or exchange is None:
            self._transport.abort()  # bytes that nobody asked for
            return
        try:
            decoder.feed(data)
        except FramingError as error:
            self._exchange = self._decoder = None
            self._transport.abort()
            exchange.on_failure(ConnectionBrokenError(f"{self.endpoint.host}: {error}"))
            return
        if decoder.is_done:
            self._exchange = self._decoder = None
            exchange.release()
            self._pool.give_back(self, reusable=decoder.keep_alive)

    def eof_received(self) -> bool:
        decoder, exchange = self._decoder, self._exchange
        if decoder is not None and exchange is not None:
            try:
                decoder.end_of_stream()
            except FramingError:
                return False  # connection_lost reports it
            self._exchange = self._decoder = None
            exchange.release()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            untouched = self._decoder is not None and self._decoder.is_untouched
            reason = "no answer" if untouched else "answer cut"
            exchange.on_failure(ConnectionBrokenError(f"{self.endpoint.host} closed the connection: {reason}"))


@dataclass
class UpstreamPool:
    """Kept-open connections by endpoint."""

    loop: asyncio.AbstractEventLoop
    tls: ssl.SSLContext | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    _idle: dict[Endpoint, deque[UpstreamConnection]] = field(default_factory=dict)

    async def open(
        self,
        endpoint: Endpoint,
        request: bytes,
        inflight: "set[Exchange] | None" = None,
        *,
        head_suffices: bool = False,
    ) -> tuple[Exchange, ResponseHead]:
        """Send `request` and wait for the first byte of the body.

        A kept-open connection that turns out to be closed is replaced once by a new one. Cancelling closes the
        connection. The exchange is in `inflight` while it is waited for, and stays there if it succeeds.

        Raises:
            UpstreamError: no answer, or a malformed one.
        """
        connection = self._take_idle(endpoint)
        if connection is not None:
            exchange = Exchange(self.loop, head_suffices=head_suffices)
            connection.send(request, exchange)
            try:
                return exchange, await self._wait(exchange, inflight)
            except ConnectionBrokenError:
                if exchange.head is not None:
                    raise
        exchange = Exchange(self.loop, head_suffices=head_suffices)
        (await self._connect(endpoint)).send(request, exchange)
        return exchange, await self._wait(exchange, inflight)

    async def fetch(
        self,
        endpoint: Endpoint,
        request: bytes,
        max_bytes: int = 1 << 20,
        inflight: "set[Exchange] | None" = None,
    ) -> Response:
        """Send `request` and read the whole answer.

        Raises:
            UpstreamError: no whole answer of at most `max_bytes`.
        """
        exchange, head = await self.open(endpoint, request, inflight)
        try:
            return Response(head, await collect(exchange, max_bytes))
        finally:
            if inflight is not None:
                inflight.discard(exchange)

    async def _wait(self, exchange: Exchange, inflight: "set[Exchange] | None") -> ResponseHead:
        if inflight is not None:
            inflight.add(exchange)
        try:
            return await exchange.first_byte()
        except BaseException:
            exchange.abort()
            if inflight is not None:
                inflight.discard(exchange)
            raise

    async def _connect(self, endpoint: Endpoint) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self, endpoint), endpoint.host, endpoint.port, ssl=self.tls
                )
        except (OSError, TimeoutError) as error:
            raise ConnectError(f"no connection to {endpoint.host}:{endpoint.port}: {error or 'timeout'}") from error
        return connection

    def _take_idle(self, endpoint: Endpoint) -> UpstreamConnection | None:
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()  # the youngest: the least likely to be closed
            if not connection.is_closing and self.loop.time() - connection.idle_since_s < IDLE_REUSE_S:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """An exchange is complete."""
        idle = self._idle.setdefault(connection.endpoint, deque())
        if not reusable or connection.is_closing or len(idle) >= MAX_IDLE_PER_ENDPOINT:
            connection.abort()
            return
        connection.set_flow(True)
        connection.idle_since_s = self.loop.time()
        idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        idle = self._idle.get(connection.endpoint)
        if idle is not None:
            if connection in idle:
                idle.remove(connection)
            if not idle:
                del self._idle[connection.endpoint]

    def close_idle(self, now_s: float) -> None:
        """Close what has been idle for too long; call every second."""
        for idle in list(self._idle.values()):
            for connection in [one for one in idle if now_s - one.idle_since_s >= IDLE_REUSE_S]:
                connection.abort()

    def close(self) -> None:
        """Close every idle connection."""
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.abort()


class _Collector:
    def __init__(self, done: asyncio.Future[None], exchange: Exchange, max_bytes: int) -> None:
        self._done, self._exchange, self._left = done, exchange, max_bytes
        self.parts: list[bytes] = []

    def on_body(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._exchange.abort()
            self.on_failure(ResponseTooLargeError("the answer is too large"))
        else:
            self.parts.append(data)

    def on_end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def on_failure(self, error: UpstreamError) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def collect(exchange: Exchange, max_bytes: int) -> bytes:
    """The rest of the body, whole. Cancelling closes the connection.

    Raises:
        UpstreamError: cut, malformed, or larger than `max_bytes`.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sink = _Collector(done, exchange, max_bytes)
    exchange.relay_to(sink)
    try:
        await done
    except asyncio.CancelledError:
        exchange.abort()
        raise
    return b"".join(sink.parts)

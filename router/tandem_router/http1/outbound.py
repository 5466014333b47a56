"""The worker's side of a connection: kept-open connections, one exchange at a time, closed at once when cancelled."""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import cast

from tandem_router.http1.deadlines import Deadlines
from tandem_router.http1.decoder import FramingError, ResponseDecoder
from tandem_router.http1.dialing import Dialer
from tandem_router.http1.exchange import ConnectError, ConnectionBrokenError, Endpoint, Exchange, SilentError, collect
from tandem_router.http1.messages import Response, ResponseHead
from tandem_router.http1.reading import BufferedReader, new_read_buffer

IDLE_REUSE_S = 4.0  # engines' HTTP servers close idle connections after 5 s
MAX_IDLE_PER_ENDPOINT = 128


def hang_up(transport: asyncio.Transport) -> None:
    """End both directions of a connection, as far as it still stands."""
    with suppress(OSError):
        transport.get_extra_info("socket").shutdown(SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class ConnectRules:
    """How new connections are made.

    Attributes:
        timeout_s: after which an endpoint to which nobody gets through is given up.
        at_once: to one endpoint; fewer than the backlogs with which servers listen.
    """

    timeout_s: float = 3.0
    at_once: int = 64


class _StaleError(ConnectionBrokenError):
    """The connection ended before an answer began; on one that was kept open this speaks against nobody."""


class UpstreamConnection(BufferedReader):
    """One connection to a worker."""

    __slots__ = ("_decoder", "_exchange", "_loop", "_pool", "_transport", "endpoint", "idle_since_s")

    def __init__(self, pool: "UpstreamPool", endpoint: Endpoint) -> None:
        super().__init__(pool.read_buffer)
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
        """Close at once: a worker in the midst of an answer is told now, not at the loop's next turn."""
        if self._exchange is not None and not self._transport.is_closing():
            hang_up(self._transport)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses of it

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


class UpstreamPool:
    """Kept-open connections by endpoint.

    Args:
        tls: for endpoints with TLS.
        server_name: in their certificates; None: the host of the endpoint.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        rules: ConnectRules = ConnectRules(),
    ) -> None:
        self.loop, self.tls, self._server_name = loop, tls, server_name
        self.read_buffer = new_read_buffer()
        self.deadlines = Deadlines(loop)
        self._dialer = Dialer(loop, rules.timeout_s, rules.at_once)
        self._idle: dict[Endpoint, deque[UpstreamConnection]] = {}

    async def open(
        self,
        endpoint: Endpoint,
        request: bytes,
        inflight: "set[Exchange] | None" = None,
        *,
        head_suffices: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Exchange, ResponseHead]:
        """Send `request` and wait for the first byte of the body, at most `timeout_s`.

        A kept-open connection that turns out to be closed is replaced once by a new one. Cancelling closes the
        connection. The exchange is in `inflight` while it is waited for, and stays there if it succeeds.

        Raises:
            UpstreamError: no answer, or a malformed one.
        """
        connection = self._take_idle(endpoint)
        if connection is not None:
            try:
                return await self._ask(connection, request, inflight, timeout_s, head_suffices=head_suffices)
            except _StaleError:
                pass  # its worker closed it while it was idle, and has seen nothing of the request
        connection = await self._connect(endpoint)
        return await self._ask(connection, request, inflight, timeout_s, head_suffices=head_suffices)

    async def _ask(
        self,
        connection: UpstreamConnection,
        request: bytes,
        inflight: "set[Exchange] | None",
        timeout_s: float | None,
        *,
        head_suffices: bool,
    ) -> tuple[Exchange, ResponseHead]:
        """Raises: UpstreamError; _StaleError before a byte of an answer has come."""
        exchange = Exchange(self.loop, head_suffices=head_suffices)
        connection.send(request, exchange)
        if inflight is not None:
            inflight.add(exchange)
        expire, bucket = exchange.give_up, None
        if timeout_s is not None:
            exchange.patience_s = timeout_s
            bucket = self.deadlines.add(self.loop.time() + timeout_s, expire)
        try:
            return exchange, await exchange.first_byte()
        except BaseException as error:
            exchange.abort()
            if inflight is not None:
                inflight.discard(exchange)
            if isinstance(error, ConnectionBrokenError) and exchange.head is None:
                raise _StaleError(str(error)) from error
            raise
        finally:
            if bucket is not None:
                bucket.discard(expire)

    async def fetch(
        self,
        endpoint: Endpoint,
        request: bytes,
        max_bytes: int = 1 << 20,
        inflight: "set[Exchange] | None" = None,
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """Send `request` and read the whole answer, in at most `timeout_s`.

        Raises:
            UpstreamError: no whole answer of at most `max_bytes`.
        """
        deadline_s = None if timeout_s is None else self.loop.time() + timeout_s
        exchange, head = await self.open(endpoint, request, inflight, timeout_s=timeout_s)
        try:
            if exchange.is_ended:  # the common case: it came in one piece
                return Response(head, await collect(exchange, max_bytes))
            async with asyncio.timeout_at(deadline_s):
                return Response(head, await collect(exchange, max_bytes))
        except TimeoutError:
            raise SilentError(f"no whole answer within {timeout_s:g} s") from None
        finally:
            if inflight is not None:
                inflight.discard(exchange)

    async def _connect(self, endpoint: Endpoint) -> UpstreamConnection:
        tls = self.tls if endpoint.is_tls else None
        if endpoint.is_tls and tls is None:
            raise ConnectError(f"{endpoint.host}:{endpoint.port} wants TLS: give --upstream-ca")
        name = self._server_name or endpoint.host if tls is not None else None

        async def connect() -> UpstreamConnection:
            _, connection = await self.loop.create_connection(
                lambda: UpstreamConnection(self, endpoint), endpoint.host, endpoint.port, ssl=tls, server_hostname=name
            )
            return connection

        return await self._dialer.dial(endpoint, connect)

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

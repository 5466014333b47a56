"""One request to a worker and its response: waited for, held, relayed, or given up."""

import asyncio
from time import monotonic
from typing import NamedTuple, Protocol

from tandem_router.http1.messages import ResponseHead


class UpstreamError(Exception):
    """The exchange did not bring a whole, well-formed response."""


class ConnectError(UpstreamError):
    """No connection to the worker."""


class OwnLimitError(UpstreamError):
    """This process can open no more connections: that speaks against no worker."""


class ConnectionBrokenError(UpstreamError):
    """The worker closed or reset the connection, or answered with something that is not HTTP."""


class WorkerLostError(UpstreamError):
    """The worker was given up while it worked: it is not seen alive any more, or it has been silent for too long."""


class SilentError(UpstreamError):
    """The worker did not answer in time."""


class ResponseTooLargeError(UpstreamError):
    """The answer is larger than its reader allows."""


class Endpoint(NamedTuple):
    """Where an HTTP server listens. `host` is an IP address, or a name for the resolver."""

    host: str
    port: int
    is_tls: bool = False

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


class Carrier(Protocol):
    """The connection under an exchange."""

    def set_flow(self, is_open: bool) -> None:
        """Stop or go on reading."""

    def abort(self) -> None:
        """Close at once."""


class Exchange:
    """One request and its response. Holds body bytes (bounded) until a sink is attached."""

    HOLD_BYTES = 64 * 1024

    def __init__(self, loop: asyncio.AbstractEventLoop, *, head_suffices: bool = False) -> None:
        self._head_suffices = head_suffices
        self._arrival: asyncio.Future[None] = loop.create_future()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sink: BodySink | None = None
        self._connection: Carrier | None = None
        self._error: UpstreamError | None = None
        self.head: ResponseHead | None = None
        self.is_ended = False
        self.is_paused = False
        self.patience_s = 0.0  # for the first byte
        self.last_byte_s = monotonic()

    @property
    def has_begun(self) -> bool:
        """The first byte is here; before it, whoever waits has a deadline of its own."""
        return self._arrival.done()

    def bind(self, connection: Carrier) -> None:
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

    def give_up(self) -> None:
        """No first byte has come in time; nothing if it has come after all."""
        if not self.has_begun:
            self.fail(SilentError(f"no first byte within {self.patience_s:g} s"))

    def fail(self, error: UpstreamError) -> None:
        """End the exchange from outside: its worker is lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self.on_failure(error)

    # --- ResponseSink, called by the connection -----------------------------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        self.head = head
        self.last_byte_s = monotonic()
        if self._head_suffices:
            self._arrive()

    def on_body(self, data: bytes) -> None:
        self.last_byte_s = monotonic()
        sink = self._sink
        if sink is not None:
            sink.on_body(data)
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

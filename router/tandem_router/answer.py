"""The answering leg's response: opened, then passed on or relayed, and its connection closed if it is left early."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tandem_router.ask import Ask
from tandem_router.fleets import Worker
from tandem_router.http1.exchange import Exchange, UpstreamError, collect
from tandem_router.http1.messages import Headers, ResponseHead
from tandem_router.http1.outbound import UpstreamPool
from tandem_router.http1.writer import ResponseWriter
from tandem_router.legs import RETRIABLE, UNAUTHORIZED, LegError, fault_of
from tandem_router.relay import AnswerRelay, EventRelay
from tandem_router.sse import EventStream
from tandem_router.token_trail import TokenTrail

MAX_REFUSAL_BYTES = 1 << 20
_NOT_THE_CLIENTS = RETRIABLE | {UNAUTHORIZED}


class Relayed(NamedTuple):
    """What was learned from a whole answer."""

    usage: dict[str, Any] | None
    has_error: bool = False


class Server(Protocol):
    """Whoever answers: a worker, or another region."""

    @property
    def exchanges(self) -> set[Exchange]: ...


@dataclass(slots=True)
class Answer:
    """An answer whose first byte has come. `is_stream`: as server-sent events."""

    server: Server
    exchange: Exchange
    head: ResponseHead
    is_stream: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_stream = (self.head.header(b"content-type") or b"").startswith(b"text/event-stream")

    def close(self) -> None:
        """Done with it; a worker that is still sending is cut off."""
        self.server.exchanges.discard(self.exchange)
        self.exchange.abort()

    async def pass_on(self, writer: ResponseWriter, headers: Headers) -> None:
        """Give the engine's refusal to the client, whole.

        Raises:
            UpstreamError: it did not come whole.
        """
        body = await collect(self.exchange, MAX_REFUSAL_BYTES)
        writer.send(self.head.status, headers, body)

    async def relay(
        self,
        writer: ResponseWriter,
        headers: Headers,
        ask: Ask,
        trail: TokenTrail | None,
        *,
        on_first: Callable[[], None],
        on_event: Callable[[], None],
    ) -> Relayed:
        """Carry the answer to the client as it comes, at the client's pace.

        Raises:
            UpstreamError: the worker was lost; `writer.is_started` says whether the client has seen anything.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        relay: EventRelay | AnswerRelay
        if self.is_stream:
            events = EventStream(ask.api.stream, drop_usage=not ask.wants_usage, trail=trail)
            relay = EventRelay(writer, headers, events, done, on_first, on_event)
        else:
            relay = AnswerRelay(writer, self.head, headers, done, on_first, ask.api.read_usage)
        try:
            self.exchange.relay_to(relay)
            writer.on_flow(self.exchange.set_flow)  # after it, or reading would go on although the client is slow
            await done
        finally:
            writer.on_flow(None)
        return Relayed(relay.usage, relay.has_error)


async def open_answer(pool: UpstreamPool, worker: Worker, request: bytes, timeout_s: float) -> Answer:
    """Send `request` and wait for the first byte of the answer's body.

    Raises:
        LegError: none came, or it is an error that another worker may not have.
        OverloadedError: this router can open no more connections.
    """
    try:
        exchange, head = await pool.open(worker.endpoint, request, worker.exchanges, timeout_s=timeout_s)
    except UpstreamError as error:
        raise fault_of(worker, error) from error
    answer = Answer(worker, exchange, head)
    if head.status in _NOT_THE_CLIENTS or not (200 <= head.status < 300 or head.status >= 400):
        answer.close()
        raise LegError(worker, f"HTTP {head.status}", status=head.status)
    return answer

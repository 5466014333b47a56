"""Carries a worker's answer to the client as it comes. Until `has_begun`, the request can still go elsewhere."""

import asyncio
from collections.abc import Callable
from typing import Any

from tandem_router import jsontext
from tandem_router.http1.exchange import UpstreamError
from tandem_router.http1.messages import Headers, ResponseHead
from tandem_router.http1.writer import ResponseWriter
from tandem_router.sse import EventStream

UsageReader = Callable[[dict[str, Any]], dict[str, Any] | None]
HOLD_ANSWER_BYTES = 256 * 1024  # an answer up to this size is sent only when it is whole


class StreamCutError(UpstreamError):
    """The stream ended cleanly, but without its last event."""


class EventRelay:
    """Relays server-sent events. `done` ends with the stream, or with an UpstreamError."""

    def __init__(
        self,
        writer: ResponseWriter,
        headers: Headers,
        events: EventStream,
        done: "asyncio.Future[None]",
        on_first: Callable[[], None],
        on_event: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._headers = headers
        self._events = events
        self._done = done
        self._on_first = on_first
        self._on_event = on_event
        self.has_begun = False

    @property
    def usage(self) -> dict[str, Any] | None:
        """Token counts that the stream has told."""
        return self._events.usage

    @property
    def has_error(self) -> bool:
        """The engine itself reported an error in the stream."""
        return self._events.has_error

    def on_body(self, data: bytes) -> None:
        out = self._events.feed(data)
        if not out:
            return
        if self.has_begun:
            self._writer.write(out)
        else:
            self._begin(out)
        if self._events.has_data:
            self._on_event()

    def on_end(self) -> None:
        rest = self._events.flush()
        if not self._events.is_done:
            self.on_failure(StreamCutError("the stream ended without its last event"))
            return
        if not self.has_begun:
            self._begin(b"")
        self._writer.write(rest)
        self._writer.end()
        if not self._done.done():
            self._done.set_result(None)

    def on_failure(self, error: UpstreamError) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _begin(self, first: bytes) -> None:
        self.has_begun = True
        self._on_first()
        if self._writer.is_started:  # another worker has begun this answer
            self._writer.write(first)
        else:
            self._writer.begin(200, self._headers, None, first)


class AnswerRelay:
    """Relays an answer that is one document: held until whole, unless it is too large for that."""

    has_error = False  # an engine says so with a status

    def __init__(
        self,
        writer: ResponseWriter,
        head: ResponseHead,
        headers: Headers,
        done: "asyncio.Future[None]",
        on_first: Callable[[], None],
        read_usage: UsageReader,
    ) -> None:
        self._read_usage = read_usage
        self._writer = writer
        self._head = head
        self._headers = headers
        self._done = done
        self._on_first = on_first
        self._parts: list[bytes] = []
        self._size = 0
        self.has_begun = False
        self.usage: dict[str, Any] | None = None  # the answer's token counts, when it was held

    def on_body(self, data: bytes) -> None:
        if self.has_begun:
            self._writer.write(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > HOLD_ANSWER_BYTES:
            length = self._head.header(b"content-length")
            self._begin()
            self._writer.begin(self._head.status, self._headers, int(length) if length else None, self._take())

    def on_end(self) -> None:
        if self.has_begun:
            self._writer.end()
        elif not self._send_whole():
            self.on_failure(StreamCutError("the answer is not JSON"))
        if not self._done.done():
            self._done.set_result(None)

    def on_failure(self, error: UpstreamError) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _send_whole(self) -> bool:
        body = self._take()
        if (self._head.header(b"content-type") or b"").startswith(b"application/json"):
            try:
                answer = jsontext.loads(body)
            except jsontext.JSONDecodeError:
                return False
            self.usage = self._read_usage(answer) if isinstance(answer, dict) else None
        self._begin()
        self._writer.send(self._head.status, self._headers, body)
        return True

    def _begin(self) -> None:
        self.has_begun = True
        self._on_first()

    def _take(self) -> bytes:
        body, self._parts = b"".join(self._parts), []
        return body

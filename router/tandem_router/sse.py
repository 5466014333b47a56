"""Reads a stream of server-sent events on its way to the client: usage, first token, end. No I/O.

Only whole events are passed on, byte for byte, so that an error event of ours can follow at any moment. Events are
not tokens: token counts come from the usage event, which the router asks for and drops for clients that did not.
"""

from typing import Any

from tandem_router.apis.shape import StreamShape
from tandem_router.events import EVENT, begins_a_line, end_of_last_event, parse_event
from tandem_router.token_trail import TokenTrail

MAX_HELD_BYTES = 256 * 1024  # an event larger than this is passed on in parts
MAX_TRACED_BYTES = 4 << 20  # the first event of a traced stream holds the ids of the whole prompt


class EventStream:
    """State of one stream.

    Args:
        trail: takes note of each event's tokens; None where the stream could not go on elsewhere anyway.
    """

    __slots__ = (
        "_drop_usage",
        "_end",
        "_error",
        "_held",
        "_max_held",
        "_other_ends",
        "_shape",
        "_trail",
        "has_data",
        "has_error",
        "is_done",
        "usage",
    )

    def __init__(self, shape: StreamShape, *, drop_usage: bool, trail: TokenTrail | None = None) -> None:
        self._shape = shape
        self._end, *self._other_ends = shape.ends
        self._error = shape.error
        self._drop_usage = drop_usage
        self._trail = trail
        self._max_held = MAX_HELD_BYTES if trail is None else MAX_TRACED_BYTES
        self._held = b""
        self.has_data = False  # an event that is not a comment has passed
        self.has_error = False  # the engine itself reported an error in the stream
        self.is_done = False  # the last event has passed
        self.usage: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes that may go to the client now, after receiving `data`."""
        if self._held:
            data = self._held + data
        cut = end_of_last_event(data)
        if not cut and len(data) > self._max_held:
            self._held = b""
            if self._trail is not None:
                self._trail.give_up()
            return data
        self._held = data[cut:]
        return self._inspect(data[:cut]) if cut else b""

    def flush(self) -> bytes:
        """What is left when the stream has ended: an event without its empty line."""
        rest, self._held = self._held, b""
        self._note_end(rest)
        return self._trail.take(rest) if rest and self._trail is not None else rest

    def _inspect(self, events: bytes) -> bytes:
        if not self.has_data and (events.startswith(b"data:") or b"\ndata:" in events):
            self.has_data = True
        if self._error in events and begins_a_line(events, self._error):
            self.has_error = True
        if self._end in events or self._other_ends:
            self._note_end(events)
        if b'"usage"' in events:
            events = self._take_usage(events)
        if self._trail is not None:
            events = b"".join(map(self._trail.take, EVENT.findall(events)))
        return events

    def _note_end(self, events: bytes) -> None:
        if begins_a_line(events, self._end) or any(begins_a_line(events, end) for end in self._other_ends):
            self.is_done = True

    def _take_usage(self, events: bytes) -> bytes:
        return b"".join(event for event in EVENT.findall(events) if not self._is_dropped(event))

    def _is_dropped(self, event: bytes) -> bool:
        if b'"usage"' not in event:
            return False
        chunk = parse_event(event)
        usage = self._shape.read_usage(chunk)
        if usage is None:
            return False
        self.usage = usage
        return self._drop_usage and chunk.get("choices") == []

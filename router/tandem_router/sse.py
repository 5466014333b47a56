"""Reads a stream of server-sent events on its way to the client: usage, first token, end. No I/O.

Only whole events are passed on, byte for byte, so that an error event of ours can follow at any moment. Events are
not tokens: token counts come from the usage event, which the router asks for and drops for clients that did not.
"""

import re
from typing import Any

from tandem_router import jsontext

MAX_HELD_BYTES = 256 * 1024  # an event larger than this is passed on in parts
DONE = b"data: [DONE]"

_EVENT = re.compile(rb".*?\n\r?\n", re.DOTALL)


class EventStream:
    """State of one stream."""

    __slots__ = ("_drop_usage", "_held", "has_data", "has_error", "is_done", "usage")

    def __init__(self, *, drop_usage: bool) -> None:
        self._drop_usage = drop_usage
        self._held = b""
        self.has_data = False  # an event that is not a comment has passed
        self.has_error = False  # the engine itself reported an error in the stream
        self.is_done = False  # the [DONE] event has passed
        self.usage: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes that may go to the client now, after receiving `data`."""
        if self._held:
            data = self._held + data
        cut = end_of_last_event(data)
        if not cut and len(data) > MAX_HELD_BYTES:
            self._held = b""
            return data
        self._held = data[cut:]
        return self._inspect(data[:cut]) if cut else b""

    def flush(self) -> bytes:
        """What is left when the stream has ended: an event without its empty line."""
        rest, self._held = self._held, b""
        if rest.strip() == DONE:
            self.is_done = True
        return rest

    def _inspect(self, events: bytes) -> bytes:
        if b'"usage"' in events:
            events = self._take_usage(events)
        if not self.has_data and (events.startswith(b"data:") or b"\ndata:" in events):
            self.has_data = True
        if b'data: {"error"' in events:
            self.has_error = True
        if DONE in events:
            self.is_done = True
        return events

    def _take_usage(self, events: bytes) -> bytes:
        return b"".join(event for event in _EVENT.findall(events) if not self._is_dropped(event))

    def _is_dropped(self, event: bytes) -> bool:
        if b'"usage"' not in event:
            return False
        chunk = parse_event(event)
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            return False
        self.usage = usage
        return self._drop_usage and chunk.get("choices") == []


def end_of_last_event(data: bytes) -> int:
    """Index after the last empty line, 0 if there is none."""
    if data.endswith(b"\n\n"):  # as nearly every read does
        return len(data)
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)


def parse_event(event: bytes) -> dict[str, Any]:
    """JSON object in the data lines of one event; empty when there is none."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    try:
        value = jsontext.loads(b"\n".join(lines))
    except jsontext.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def error_event(body: bytes) -> bytes:
    """The event that tells a client why its stream ends."""
    return b"data: " + body + b"\n\n"

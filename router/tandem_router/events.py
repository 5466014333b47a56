"""The text of server-sent events: where one ends, what it says. Pure."""

import re
from typing import Any

from tandem_router import jsontext

EVENT = re.compile(rb".*?\n\r?\n", re.DOTALL)


def begins_a_line(events: bytes, mark: bytes) -> bool:
    """`mark` stands at the beginning of a line, and not in a token that spells it: JSON escapes line ends."""
    return events.startswith(mark) or b"\n" + mark in events


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


def build_event(value: object) -> bytes:
    """An event whose data is JSON."""
    return b"data: " + jsontext.dumps(value) + b"\n\n"

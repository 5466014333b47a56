"""W3C Trace Context (https://www.w3.org/TR/trace-context/): the `traceparent` header. Pure."""

import re
from dataclasses import dataclass

TRACEPARENT = b"traceparent"
SAMPLED = 0x01

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Which span, of which trace; ids as numbers."""

    trace_id: int
    span_id: int
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whoever began the trace records it."""
        return bool(self.flags & SAMPLED)

    def to_header(self) -> bytes:
        """Value of `traceparent`."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.flags)


def parse_traceparent(value: bytes | None) -> TraceContext | None:
    """The caller's context, None where there is none that the standard calls valid."""
    found = _TRACEPARENT.fullmatch(value) if value is not None else None
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return TraceContext(trace_id, span_id, int(found[4], 16) & SAMPLED) if trace_id and span_id else None

"""The spans of one request: one for all of it, one for each leg. Recorded on the hot path, exported elsewhere."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tandem_router.http1.exchange import Endpoint
from tandem_router.http1.messages import Headers
from tandem_router.token_counts import TokenCounts
from tandem_router.tracing.context import SAMPLED, TRACEPARENT, TraceContext, parse_traceparent

Attributes = dict[str, str | int | float | bool]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
FLEET = "tandem.fleet"
WORKER = "tandem.worker"
ROUTE_REASON = "tandem.route.reason"
QUEUE_S = "tandem.queue.duration"


@dataclass(slots=True)
class Span:
    """One span. Times are Unix time in nanoseconds."""

    name: str
    context: TraceContext
    parent_id: int | None
    is_client: bool  # of a call that we make; else of one that we answer
    start_ns: int
    end_ns: int = 0
    attributes: Attributes = field(default_factory=dict)

    def fail(self, kind: str) -> None:
        """It did not end well."""
        self.attributes[ERROR_TYPE] = kind


Sink = Callable[[list[Span]], None]


class RequestTrace:
    """Spans of one request. Times given are seconds of the loop's clock."""

    __slots__ = ("_base_ns", "_root", "_sink", "_spans")

    def __init__(self, root: Span, base_ns: int, sink: Sink) -> None:
        self._root = root
        self._base_ns = base_ns
        self._sink = sink
        self._spans = [root]

    def describe(self, attributes: Attributes) -> None:
        """Something is known of the request."""
        self._root.attributes.update(attributes)

    def begin_leg(self, name: str, now_s: float, worker: str, endpoint: Endpoint) -> Span:
        """A leg is sent to a worker."""
        attributes: Attributes = {WORKER: worker, SERVER_ADDRESS: endpoint.host, SERVER_PORT: endpoint.port}
        context = TraceContext(self._root.context.trace_id, new_span_id(), self._root.context.flags)
        span = Span(name, context, self._root.context.span_id, True, self._at(now_s), attributes=attributes)
        self._spans.append(span)
        return span

    def end_leg(self, span: Span, now_s: float, failure: str | None = None) -> None:
        """A leg has ended."""
        span.end_ns = self._at(now_s)
        if failure is not None:
            span.fail(failure)

    def finish(self, outcome: str, counts: TokenCounts, now_s: float) -> None:
        """The request has ended; legs that have not are cut off here."""
        self.describe({INPUT_TOKENS: counts.prompt, OUTPUT_TOKENS: counts.completion, CACHED_TOKENS: counts.cached})
        if outcome != "ok":
            self._root.fail(outcome)
        end_ns = self._at(now_s)
        for span in self._spans:
            span.end_ns = span.end_ns or end_ns
        self._sink(self._spans)

    def _at(self, now_s: float) -> int:
        return self._base_ns + int(now_s * 1e9)


class Tracer:
    """Decides which requests are traced: those whose caller traces them, and a share of the others.

    Args:
        share: of requests without a trace context, from 0 to 1.
    """

    def __init__(self, sink: Sink, share: float, draw: Callable[[], float] = random.random) -> None:
        self._sink = sink
        self._share = share
        self._draw = draw

    def start(self, header: bytes | None, name: str, now_s: float) -> RequestTrace | None:
        """Begin a trace for a request with this `traceparent`; None when it is not traced."""
        parent = parse_traceparent(header)
        if not (self._draw() < self._share if parent is None else parent.is_sampled):
            return None
        trace_id = random.getrandbits(128) or 1 if parent is None else parent.trace_id
        base_ns = time.time_ns() - int(now_s * 1e9)
        context = TraceContext(trace_id, new_span_id(), SAMPLED)
        root = Span(name, context, None if parent is None else parent.span_id, False, base_ns + int(now_s * 1e9))
        return RequestTrace(root, base_ns, self._sink)


def new_span_id() -> int:
    """Never 0, which the standard calls invalid."""
    return random.getrandbits(64) or 1


def traced_headers(headers: Headers, span: Span) -> Headers:
    """`headers` with the span as the parent of what the worker does; tracestate and baggage stay as they are."""
    kept = [header for header in headers if len(header[0]) != len(TRACEPARENT) or header[0].lower() != TRACEPARENT]
    kept.append((b"Traceparent", span.context.to_header()))
    return kept

"""Sends spans to an OpenTelemetry collector over OTLP/HTTP, in a thread of its own: the only user of that library.

The library is optional (extra `tracing`). What cannot be sent is dropped and counted; no request waits for it.
"""

import logging
import threading
from collections import deque
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tandem_router.tracing.context import TraceContext
from tandem_router.tracing.spans import ERROR_TYPE, Span

LOG = logging.getLogger(__name__)
MAX_WAITING = 8192  # spans
BATCH = 512
INTERVAL_S = 1.0
STOP_S = 3.0


class SpanQueue:
    """Spans on their way to the exporter; `put` is for the event loop, the rest happens in a thread."""

    def __init__(self, exporter: SpanExporter, replica: str) -> None:
        self._exporter = exporter
        self._resource = Resource.create({"service.name": "tandem-router", "service.instance.id": replica})
        self._scope = InstrumentationScope("tandem_router", version("tandem-inference"))
        self._waiting: deque[Span] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self.sent = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, spans: list[Span]) -> None:
        """Take the spans of one request, unless too many wait."""
        if len(self._waiting) + len(spans) > MAX_WAITING:
            self.dropped += len(spans)
        else:
            self._waiting.extend(spans)

    def stop(self) -> None:
        """Send what is left, for at most a few seconds."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self._send_all()
        self._send_all()
        self._exporter.shutdown()

    def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS:
                self.sent += len(batch)
            else:
                self.dropped += len(batch)
                return  # the collector is away: not another batch before the next round

    def _readable(self, span: Span) -> ReadableSpan:
        parent = None if span.parent_id is None else TraceContext(span.context.trace_id, span.parent_id, 1)
        is_error = ERROR_TYPE in span.attributes
        return ReadableSpan(
            name=span.name,
            context=_context(span.context),
            parent=None if parent is None else _context(parent),
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.CLIENT if span.is_client else SpanKind.SERVER,
            status=Status(StatusCode.ERROR if is_error else StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def build_queue(endpoint: str, replica: str) -> SpanQueue:
    """A queue that sends to `endpoint`, the URL of a collector's `/v1/traces`."""
    return SpanQueue(OTLPSpanExporter(endpoint=endpoint, timeout=STOP_S), replica)


def _context(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=False, trace_flags=TraceFlags(context.flags))

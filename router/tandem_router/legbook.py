"""Names the legs of one request, and gives each its headers and, in a request that is traced, its span."""

from time import monotonic

from tandem_router.fleets import Worker
from tandem_router.headers import leg_headers
from tandem_router.http1.messages import Headers
from tandem_router.serving import Order
from tandem_router.tracing.spans import RequestTrace, Span, traced_headers

LEG_NAMES = {"p": "prefill", "d": "decode"}


class LegBook:
    """Of one request.

    Attributes:
        count: legs so far.
    """

    __slots__ = ("_id", "_order", "_span", "count")

    def __init__(self, order: Order, request_id: str) -> None:
        self._order = order
        self._id = request_id
        self._span: Span | None = None  # of the leg under way
        self.count = 0

    def open(self, kind: str, worker: Worker, bearer: str | None, *, is_hedge: bool = False) -> tuple[str, Headers]:
        """A transport id that no other leg has had, and the headers of the leg. A hedge has no span of its own."""
        order, now_s = self._order, monotonic()
        self.count += 1
        leg_id = f"{self._id}-{kind}{self.count:02d}"  # no id is part of another: workers search for it
        remaining_s = order.deadline_s - now_s
        headers = leg_headers(order.headers, transport_id=leg_id, bearer=bearer, remaining_s=remaining_s)
        if order.trace is None or is_hedge:
            return leg_id, headers
        return leg_id, self._trace(order.trace, kind, worker, headers, now_s)

    def close(self, failure: str | None = None) -> None:
        """The leg under way ended."""
        trace = self._order.trace
        if self._span is not None and trace is not None:
            trace.end_leg(self._span, monotonic(), failure)

    def _trace(self, trace: RequestTrace, kind: str, worker: Worker, headers: Headers, now_s: float) -> Headers:
        self._span = trace.begin_leg(LEG_NAMES[kind], now_s, worker.name, worker.endpoint)
        return traced_headers(headers, self._span)

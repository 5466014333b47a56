"""Accepts completion requests: reads them, opens their account, and closes it whatever happens."""

import asyncio
from dataclasses import dataclass
from time import monotonic

from tandem_router.apis.served import BY_PATH
from tandem_router.ask import Ask, parse_ask
from tandem_router.call import Call
from tandem_router.demand.account import DemandAccount
from tandem_router.demand.recorder import DemandRecorder
from tandem_router.errand import Standing
from tandem_router.fleets import Fleet
from tandem_router.gateway.gate import GuestVisit
from tandem_router.gateway.service import Gateway
from tandem_router.headers import (
    REQUEST_ID,
    SLO_TPOT_MS,
    SLO_TTFT_MS,
    TIMEOUT_MS,
    engine_headers,
    parse_seconds,
    parse_timeout_s,
    require_json,
)
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.ledger import Outcome, RequestLedger
from tandem_router.metrics import Metrics
from tandem_router.regions.border import Border
from tandem_router.regions.crossing import Crossing
from tandem_router.regions.residency import require_unbound
from tandem_router.served_names import model_not_found
from tandem_router.serving import Order, Serving
from tandem_router.tracing.context import TRACEPARENT
from tandem_router.tracing.spans import FLEET, OPERATION, PROVIDER, REQUEST_MODEL, REQUEST_STREAM, RequestTrace, Tracer


@dataclass
class CompletionService:
    """Serves requests for tokens, of every API and fleet."""

    serving: Serving
    metrics: Metrics
    gateway: Gateway
    demand: DemandRecorder
    tracer: Tracer | None = None
    border: Border | None = None

    async def handle(self, request: Request, writer: ResponseWriter) -> None:
        """Answer one request at the path of one of the served APIs.

        Raises:
            RequestError: refused before it was accepted; nothing has been sent, and nothing is charged.
        """
        started_s = monotonic()
        require_json(request.header(b"content-type"))
        principal = self.gateway.authenticate(request.headers)
        ask = parse_ask(BY_PATH[request.path], request.body, self.gateway.gate.salt_of(principal))
        if not principal.may_use(ask.model):
            raise model_not_found(ask.model)
        if self.border is None:
            require_unbound(principal.residency)
        fleet = self.serving.catalog.resolve(ask.model)
        headers = engine_headers(request.headers)
        timeout_s = parse_timeout_s(request.header(TIMEOUT_MS), fleet.spec.request_timeout_s)
        targets = [parse_seconds(name, request.header(name)) for name in (SLO_TTFT_MS, SLO_TPOT_MS)]
        request_id, tenant, deadline_s = request.header(REQUEST_ID), principal.tenant, started_s + timeout_s
        trace = None if self.tracer is None else self._trace(self.tracer, request, ask, fleet, started_s)
        # The last that can fail: what is refused before is not charged, and what has entered always ends its visit.
        visit = self.gateway.enter(principal, ask.prompt_tokens)
        standing = Standing(tenant.name, tenant.priority, tenant.weight, visit.index_seed, *targets)
        order = Order(ask, fleet, headers, request_id, started_s, deadline_s, visit, standing, trace)
        if self.border is not None:
            is_counted = self.border.counts_at_home(order, principal)
            order = order._replace(region=self.border.name, is_counted=is_counted)
        await self.serve(order, writer)

    def _trace(self, tracer: Tracer, request: Request, ask: Ask, fleet: Fleet, now_s: float) -> RequestTrace | None:
        operation = ask.api.operation
        trace = tracer.start(request.header(TRACEPARENT), f"{operation} {fleet.spec.served_name}", now_s)
        if trace is not None:
            named = {OPERATION: operation, PROVIDER: "tandem", REQUEST_MODEL: fleet.spec.served_name}
            trace.describe({**named, REQUEST_STREAM: ask.stream, FLEET: fleet.key})
        return trace

    async def serve(self, order: Order, writer: ResponseWriter) -> Outcome:
        """Serve an accepted request to its end, and close its account."""
        fleet = order.fleet
        book = self.demand.book(fleet.spec.uid) if order.is_counted else self.demand.blank_book()
        demand = DemandAccount(book, self.demand, order.started_s, order.standing)
        ledger = RequestLedger(self.metrics.of(fleet.spec.served_name), demand, order.started_s)
        outcome = Outcome.INTERNAL
        try:
            outcome = await self._carry(order, ledger, writer)
            return outcome
        except asyncio.CancelledError:
            outcome = Outcome.CLIENT_GONE
            raise
        finally:
            now_s = monotonic()
            ledger.finish(outcome, now_s)
            if order.trace is not None:
                order.trace.finish(outcome.value, ledger.counts, now_s)
            order.visit.end(outcome.value, ledger.counts, now_s)
            fleet.queue.count_finished(now_s)

    async def _carry(self, order: Order, ledger: RequestLedger, writer: ResponseWriter) -> Outcome:
        """A guest is served here or not at all: no request crosses twice."""
        call = Call(self.serving, order, ledger, writer)
        if self.border is None or isinstance(order.visit, GuestVisit):
            return await call.run()
        return await Crossing(self.border, call, order, order.visit.principal, ledger, writer).run()

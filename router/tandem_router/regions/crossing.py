"""One request of a client of this region: served at home, or elsewhere, and elsewhere again while nothing is sent."""

import asyncio
import random
from time import monotonic

from tandem_router.answer import Answer
from tandem_router.call import Call
from tandem_router.errors import (
    DeadlineExceededError,
    OverloadedError,
    RegionForbiddenError,
    RequestError,
    StreamBrokenError,
    UnavailableError,
    UpstreamFailedError,
)
from tandem_router.gateway.principal import Principal
from tandem_router.headers import SERVED_BY, client_headers
from tandem_router.http1.exchange import UpstreamError
from tandem_router.http1.messages import Headers
from tandem_router.http1.writer import ResponseWriter
from tandem_router.ledger import Outcome, RequestLedger
from tandem_router.reception import isolated_s, target_of
from tandem_router.regions.atlas import Journey
from tandem_router.regions.border import Border, HomeLostError
from tandem_router.regions.choice import RegionChoice
from tandem_router.regions.forward import ForwardError, build_order, build_request, lost, open_forward
from tandem_router.regions.link import PeerLink
from tandem_router.regions.residency import describe
from tandem_router.serving import Order
from tandem_router.tracing.spans import Span, traced_headers

ROUNDS_S = (0.1, 0.3, 0.6)  # pauses before all regions are tried again, where one was lost and nobody else was left
JUST_NOW_S = 3.0  # a region that was lost so lately may be back in a moment
MET_ELSEWHERE = (OverloadedError, UnavailableError, UpstreamFailedError)


class Crossing:
    """Carries one request over regions. Every region is tried once in a round; more rounds only after a loss."""

    def __init__(
        self,
        border: Border,
        call: Call,
        order: Order,
        principal: Principal,
        ledger: RequestLedger,
        writer: ResponseWriter,
    ) -> None:
        self._border, self._call, self._order, self._principal = border, call, order, principal
        self._ledger, self._writer = ledger, writer
        self._journey = build_journey(call, order, principal)
        self._tried: set[str] = set()
        self._has_left = False  # home was lost while the request waited there
        self._served_in = border.name
        self._has_lost = False  # a region that had the request
        self._rounds = iter(ROUNDS_S)

    async def run(self) -> Outcome:
        """Serve the request to its end; every error has been told to the client when this returns."""
        self._border.atlas.arrive(self._journey)
        try:
            return await self._carry()
        except RequestError as error:
            return self._call.tell(error)
        finally:
            if self._ledger.first_token_s is not None:
                self._border.tally.observe_ttft(self._served_in, self._ledger.first_token_s - self._order.started_s)

    async def _carry(self) -> Outcome:
        failure: RequestError | None = None
        while True:
            choice = await self._choose(failure)
            link = self._border.links.get(choice.region or "")
            self._border.atlas.send(self._journey, choice, monotonic())
            try:
                return await (self._stay() if link is None else self._cross(link))
            except HomeLostError:
                self._has_left = True
                self._call.errand.failures.clear()  # if it comes back here after all, it is with all workers open to it
            except ForwardError as error:
                failure = error.error
                self._has_lost = self._has_lost or not isinstance(failure, OverloadedError)
            except MET_ELSEWHERE as error:
                if link is not None or self._writer.is_started:
                    raise
                self._tried.add(self._border.name)
                failure = error

    async def _choose(self, failure: RequestError | None) -> RegionChoice:
        """Raises: RequestError: nobody is left, or nobody is allowed."""
        atlas, tally = self._border.atlas, self._border.tally
        while True:
            choice = atlas.choose(self._journey, self._tried, monotonic(), random.random())  # noqa: S311 - a ramp
            if choice.region is not None and choice.region not in self._tried:
                tally.choices[choice.reason] += 1
                return choice
            pause_s = next(self._rounds, None) if self._has_hope() else None
            if pause_s is None or monotonic() + pause_s >= self._order.deadline_s:
                tally.choices[choice.reason] += 1
                raise failure or self._residency_error()
            await asyncio.sleep(pause_s)
            self._tried &= {self._border.name}

    def _has_hope(self) -> bool:
        """A region was lost on the way, or a moment ago; those that are merely busy are not asked again and again."""
        if self._tried:
            return self._has_lost
        allowed = self._border.atlas.allowed(self._principal.residency) or ()
        peers = [peer for name, peer in self._border.atlas.peers.items() if name in allowed]
        return any(peer.since_s and monotonic() - peer.since_s < JUST_NOW_S for peer in peers)

    def _residency_error(self) -> RequestError:
        atlas, residency = self._border.atlas, self._principal.residency
        places = describe(residency)
        if not atlas.allowed(residency):
            self._border.tally.refusals["client"] += 1
            known = ", ".join(sorted({atlas.own.name, *atlas.peers}))
            message = f"This key's requests may be served in {places} only; this installation knows {known}."
            return RegionForbiddenError(message, code="region_not_allowed")
        self._border.tally.refusals["unreachable"] += 1
        message = f"This key's requests may be served in {places} only, and no such region can be reached now."
        return UnavailableError(message, code="allowed_region_unreachable", retry_after_s=1)

    async def _stay(self) -> Outcome:
        """At home. Whoever can be served elsewhere is not to wait for workers that are gone."""
        self._served_in = self._border.name
        self._call.errand.may_leave = not self._has_left
        return await self._call.serve()

    # --- one hop ------------------------------------------------------------------------------------------------

    async def _cross(self, link: PeerLink) -> Outcome:
        """Raises: ForwardError, StreamBrokenError, DeadlineExceededError."""
        name, order = link.peer.name, self._order
        self._tried.add(name)
        self._served_in, end = name, "broken"
        try:
            async with asyncio.timeout_at(order.deadline_s):
                outcome = await self._exchange(link)
            end = "ok"
            return outcome
        except ForwardError as error:
            end = "refused" if error.was_reached else "unreachable"
            if error.is_fault:
                link.peer.health.strike(monotonic())
            raise
        except TimeoutError:
            end = "deadline"
            raise DeadlineExceededError("The deadline of the request passed.", code="deadline_exceeded") from None
        except asyncio.CancelledError:
            end = "client_gone"
            raise
        finally:
            self._border.tally.forwards[(name, end)] += 1

    async def _exchange(self, link: PeerLink) -> Outcome:
        order, border, now_s = self._order, self._border, monotonic()
        span = None if order.trace is None else order.trace.begin_leg("forward", now_s, link.peer.name, link.endpoint)
        headers = order.headers if span is None else traced_headers(order.headers, span)
        basis = border.salt_basis(self._principal)
        forward = build_order(
            order,
            self._principal,
            basis,
            border.name,
            now_s,
            counts_there=not border.counts_at_home(order, self._principal),
        )
        answer = await open_forward(link, build_request(order, forward, link, headers), border.first_byte_timeout_s)
        self._ledger.demand.hold(monotonic())
        try:
            outcome = await self._relay(answer, link)
        except UpstreamError as error:
            raise self._broken(link, error) from error
        finally:
            self._ledger.demand.let_go(monotonic())
            answer.close()
            self._end_span(span)
        link.peer.health.succeed()
        return outcome

    def _broken(self, link: PeerLink, error: UpstreamError) -> Exception:
        if not self._writer.is_started:
            return ForwardError(lost(link.peer.name), is_fault=True, was_reached=False)
        link.peer.health.strike(monotonic())
        message = f"Region {link.peer.name} was lost in the middle of the answer."
        return StreamBrokenError(message, code="stream_broken")

    def _end_span(self, span: Span | None) -> None:
        if span is not None and self._order.trace is not None:
            self._order.trace.end_leg(span, monotonic())

    async def _relay(self, answer: Answer, link: PeerLink) -> Outcome:
        """Raises: UpstreamError."""
        ask, ledger = self._order.ask, self._ledger
        headers = self._headers(answer, link.peer.name)
        if answer.head.status != 200:
            await answer.pass_on(self._writer, headers)
            return Outcome.REJECTED
        relayed = await answer.relay(
            self._writer, headers, ask, None, on_first=lambda: None, on_event=lambda: ledger.mark_token(monotonic())
        )
        ledger.count_usage(relayed.usage)
        return Outcome.ENGINE_ERROR if relayed.has_error else Outcome.OK

    def _headers(self, answer: Answer, region: str) -> Headers:
        served_by = (answer.head.header(SERVED_BY) or region.encode()).decode("latin-1")
        ours = self._order.visit.answer_headers(monotonic())
        ours.append((b"X-Tandem-Region", region.encode()))
        return client_headers(answer.head.headers, request_id=self._order.request_id, served_by=served_by, ours=ours)


def build_journey(call: Call, order: Order, principal: Principal) -> Journey:
    """What a choice of regions needs to know of the request."""
    errand, fleet = call.errand, order.fleet
    alone_s = isolated_s(fleet, errand.tokens - errand.cached_tokens, order.started_s)
    return Journey(
        fleet=fleet.key,
        served_name=fleet.spec.served_name,
        tokens=errand.tokens,
        cached_tokens=errand.cached_tokens,
        blocks=errand.blocks,
        tokens_per_block=errand.want.tokens_per_block,
        target_s=target_of(fleet, order.standing, alone_s),
        tenant=principal.tenant.name,
        spill_share=principal.tenant.spill_budget,
        residency=principal.residency,
    )

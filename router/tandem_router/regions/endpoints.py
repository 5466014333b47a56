"""What routers of other regions ask of us: streams of digests, pings, and requests of their clients."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from pydantic import ValidationError

from tandem_router.apis.served import BY_PATH
from tandem_router.apis.shape import Api
from tandem_router.ask import parse_ask
from tandem_router.completion import CompletionService
from tandem_router.errand import Standing
from tandem_router.errors import BadRequestError, PathNotFoundError, RequestError, UnauthorizedError, UnavailableError
from tandem_router.fleets import Fleet
from tandem_router.gateway.gate import GuestVisit
from tandem_router.headers import REQUEST_ID, guest_headers
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.policy.prefix_index import seed_of
from tandem_router.regions.border import Border
from tandem_router.regions.messages import (
    FORWARD_HEADER,
    FORWARD_PATH,
    HOP_HEADER,
    LAST_HOP,
    PING_PATH,
    STREAM_PATH,
    ForwardOrder,
    speaks_like_us,
)
from tandem_router.regions.tally import ELSEWHERE
from tandem_router.routes import CREATE, Routes
from tandem_router.serving import Order


class MisdirectedError(RequestError):
    """Another region sent here what cannot or may not be served here."""

    status = 421
    kind = "misdirected_request_error"


@dataclass
class RegionEndpoints:
    """Answers peers. Every request needs a region token, or a certificate where the listener demands one.

    Attributes:
        guests: requests of other regions that are being served now.
    """

    border: Border
    completions: CompletionService
    guests: int = 0
    _is_leaving: bool = False
    _emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def add_to(self, routes: Routes) -> None:
        """Put the paths into the internal listener's table."""
        routes.add(("GET",), STREAM_PATH, self._stream)
        routes.add(("GET",), PING_PATH, self._ping)
        routes.add(CREATE, FORWARD_PATH + "/", self._forward)

    async def leave(self) -> None:
        """Tell the peers to go on with another router of this region, and wait until their requests are served."""
        self._is_leaving = True
        self.border.broadcaster.say_goaway()
        if self.guests:
            await self._emptied.wait()

    async def _stream(self, request: Request, writer: ResponseWriter) -> None:
        self._require_peer(request)
        await self.border.broadcaster.serve(writer)

    async def _ping(self, request: Request, writer: ResponseWriter) -> None:
        self._require_peer(request)
        self._close_after(writer)
        writer.send(200, [], b"")

    async def _forward(self, request: Request, writer: ResponseWriter) -> None:
        """Serve a client of another region: admitted with what its origin says of it, and charged there."""
        started_s = monotonic()
        self._require_peer(request)
        self._close_after(writer)
        api = find_api(request.path)
        forward = read_order(request)
        order = self._accept(request, api, forward, started_s)
        origin = forward.origin if forward.origin in self.border.atlas.peers else ELSEWHERE
        self.guests += 1
        outcome = "internal"
        try:
            outcome = (await self.completions.serve(order, writer)).value
        finally:
            self.guests -= 1
            if not self.guests:
                self._emptied.set()
            self.border.tally.received[(origin, outcome)] += 1

    def _close_after(self, writer: ResponseWriter) -> None:
        """A router that stops wants no kept-open connections: the next request is to find another one."""
        if self._is_leaving:
            writer.close_after()

    def _accept(self, request: Request, api: Api, forward: ForwardOrder, started_s: float) -> Order:
        """Raises: RequestError: it cannot or may not be served here; its origin tries elsewhere."""
        self._require_allowed(forward)
        fleet = self._fleet(forward)
        salt = self.completions.gateway.salt_for(forward.salt_basis)
        ask = parse_ask(api, request.body, salt)
        if self.border.catalog.resolve(ask.model) is not fleet:
            raise MisdirectedError(f"{ask.model[:100]} is another fleet here.", code="fleet_mismatch", param="model")
        if not fleet.can_serve(started_s):
            raise UnavailableError("No worker of this fleet can serve here now.", code="no_workers", retry_after_s=1)
        visit = GuestVisit(0 if salt is None else seed_of(salt))
        ttft_s, tpot_s = seconds(forward.ttft_ms), seconds(forward.tpot_ms)
        standing = Standing(forward.tenant, forward.priority, forward.weight, visit.index_seed, ttft_s, tpot_s)
        deadline_s = started_s + forward.deadline_ms / 1000
        headers, request_id = guest_headers(request.headers), request.header(REQUEST_ID)
        return Order(
            ask, fleet, headers, request_id, started_s, deadline_s, visit, standing,
            region=self.border.name, is_counted=forward.counts_here,
        )  # fmt: skip

    def _require_allowed(self, forward: ForwardOrder) -> None:
        """Residency is checked again, also by what is said of the tenant here; and nobody sends to itself."""
        border = self.border
        if forward.origin == border.name:
            raise MisdirectedError(f"{border.name} forwards to itself: look at the peers' url.", code="region_loop")
        here = self.completions.gateway.residency_of(forward.tenant)
        if not border.atlas.may_serve_here((*forward.residency, *here)):
            border.tally.refusals["received"] += 1
            message = f"Requests of this tenant may not be served in {border.name}."
            raise MisdirectedError(message, code="region_not_allowed")
        if border.atlas.own.drain:
            raise UnavailableError(f"{border.name} is drained.", code="region_drained", retry_after_s=5)

    def _fleet(self, forward: ForwardOrder) -> Fleet:
        for fleet in self.border.catalog.fleets.values():
            if fleet.key == forward.fleet and not fleet.spec.is_elsewhere:
                return fleet
        raise MisdirectedError(f"{forward.fleet[:200]} is not served here.", code="fleet_not_here")

    def _require_peer(self, request: Request) -> None:
        """Raises: UnauthorizedError."""
        tokens = self.border.tokens
        if not tokens.is_configured:
            if self.border.rules.trusts_certificates:
                return
            message = "This region accepts no other: give its routers --region-token-file, or --internal-tls-ca."
            raise UnauthorizedError(message, code="regions_closed")
        scheme, _, shown = (request.header(b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not tokens.accepts(shown.strip()):
            raise UnauthorizedError("The region token is missing or wrong.", code="unauthorized")


def find_api(path: str) -> Api:
    """The API behind a forward's path.

    Raises:
        PathNotFoundError: it is none that this release serves.
    """
    api = BY_PATH.get(path.removeprefix(FORWARD_PATH))
    if api is None:
        raise PathNotFoundError("There is no such API in this release.", code="path_not_found")
    return api


def read_order(request: Request) -> ForwardOrder:
    """What the origin says of its request.

    Raises:
        BadRequestError: it says nothing that can be read.
        MisdirectedError: the request has already crossed, or the origin speaks another version.
    """
    if request.header(HOP_HEADER) != b"%d" % LAST_HOP:
        raise MisdirectedError("A request crosses from one region to another once.", code="too_many_hops")
    try:
        forward = ForwardOrder.model_validate_json(request.header(FORWARD_HEADER) or b"")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:200]
        name = FORWARD_HEADER.decode()
        raise BadRequestError(f"{name}: {place}: {first['msg']}.", code="invalid_forward", param=name) from None
    if not speaks_like_us(forward.v):
        raise MisdirectedError(f"Version {forward.v} of forwards is not understood here.", code="version_skew")
    return forward


def seconds(milliseconds: float | None) -> float | None:
    """None stays None."""
    return None if milliseconds is None else milliseconds / 1000

"""A request given to another region: what is sent there, and what its answer means. One hop, and never a second."""

from tandem_router.answer import Answer
from tandem_router.ask import build_serving_body
from tandem_router.errors import OverloadedError, RequestError, UnavailableError, UpstreamFailedError
from tandem_router.gateway.principal import Principal
from tandem_router.headers import REQUEST_ID
from tandem_router.http1.exchange import OwnLimitError, UpstreamError
from tandem_router.http1.messages import Headers, encode_request
from tandem_router.legs import RETRIABLE
from tandem_router.regions.link import PeerLink
from tandem_router.regions.messages import (
    FORWARD_HEADER,
    FORWARD_PATH,
    HOP_HEADER,
    LAST_HOP,
    ORIGIN_HEADER,
    ForwardOrder,
)
from tandem_router.serving import Order

# What speaks against the region, not against the request: no token, no such fleet there, not allowed there, …
NOT_SERVED = RETRIABLE | {401, 403, 404, 421}
FAULTS = frozenset((500, 502, 504))  # of the region; else it is well, and has no room or does not know the fleet


class ForwardError(Exception):
    """Another region did not serve; nothing has been sent to the client, so it can be tried elsewhere.

    Attributes:
        error: what the client is told when nobody else is left.
        is_fault: it speaks against the region's health.
        was_reached: it answered.
    """

    def __init__(self, error: RequestError, *, is_fault: bool, was_reached: bool) -> None:
        super().__init__(error.message)
        self.error, self.is_fault, self.was_reached = error, is_fault, was_reached


def build_order(
    order: Order, principal: Principal, salt_basis: str, origin: str, now_s: float, *, counts_there: bool
) -> ForwardOrder:
    """What the destination must know. Nothing that a client sent is in it but through our own reading of it."""
    standing = order.standing
    return ForwardOrder(
        origin=origin,
        fleet=order.fleet.key,
        tenant=standing.tenant,
        priority=standing.priority,
        weight=standing.weight,
        deadline_ms=max(1, int((order.deadline_s - now_s) * 1000)),
        residency=principal.residency,
        salt_basis=salt_basis,
        ttft_ms=None if standing.ttft_s is None else standing.ttft_s * 1000,
        tpot_ms=None if standing.tpot_s is None else standing.tpot_s * 1000,
        counts_here=counts_there,
    )


def build_request(order: Order, forward: ForwardOrder, link: PeerLink, headers: Headers) -> bytes:
    """The client's own request as it goes to the peer; `headers` are its own, without its credentials."""
    ask = order.ask._replace(cache_salt=None)  # the destination salts with its own key
    ours = [
        *link.headers,
        (HOP_HEADER, b"%d" % LAST_HOP),
        (ORIGIN_HEADER, forward.origin.encode()),
        (FORWARD_HEADER, forward.model_dump_json(by_alias=True, exclude_defaults=True).encode("ascii", "replace")),
    ]
    if order.request_id is not None:
        ours.append((REQUEST_ID, order.request_id))
    target = FORWARD_PATH.encode() + ask.api.target
    return encode_request(
        b"POST", target, link.endpoint.authority, headers + ours, build_serving_body(ask, ask.model, None)
    )


async def open_forward(link: PeerLink, request: bytes, timeout_s: float) -> Answer:
    """Send a request to a peer, and wait for the first byte of its answer.

    Raises:
        ForwardError: none came, or it is an error that another region may not have.
        OverloadedError: this router can open no more connections.
    """
    name = link.peer.name
    try:
        exchange, head = await link.pool.open(link.endpoint, request, link.exchanges, timeout_s=timeout_s)
    except OwnLimitError as error:
        message = "The router can open no more connections."
        raise OverloadedError(message, code="router_full", retry_after_s=1) from error
    except UpstreamError as error:
        raise ForwardError(lost(name), is_fault=True, was_reached=False) from error
    answer = Answer(link, exchange, head)
    if head.status in NOT_SERVED or not (200 <= head.status < 300 or head.status >= 400):
        answer.close()
        raise ForwardError(refused(name, head.status), is_fault=head.status in FAULTS, was_reached=True)
    return answer


def lost(region: str) -> RequestError:
    """The region was lost before the first byte."""
    message = f"Region {region} was lost before the first byte of the answer."
    return UpstreamFailedError(message, code="region_lost", retry_after_s=1)


def refused(region: str, status: int) -> RequestError:
    """The region did not take the request."""
    if status == 429:
        return OverloadedError(f"Region {region} is overloaded.", code="region_overloaded", retry_after_s=1)
    message = f"Region {region} did not serve the request (HTTP {status})."
    return UnavailableError(message, code="region_refused", retry_after_s=1)

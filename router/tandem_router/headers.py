"""Which headers cross the router, in both directions. No I/O."""

from tandem_router.errors import BadRequestError, MediaTypeError
from tandem_router.http1.messages import HOP_BY_HOP, Headers, end_to_end

REQUEST_ID = b"x-request-id"
TIMEOUT_MS = b"x-request-timeout-ms"
SLO_TTFT_MS = b"x-slo-ttft-ms"
SLO_TPOT_MS = b"x-slo-tpot-ms"
SERVED_BY = b"x-served-by"

_REFUSED_PREFIXES = (b"x-tandem-", b"x-data-parallel-", b"x-gateway-destination-")
_REFUSED = frozenset((b"x-prefiller-host-port", b"x-prefiller-hosts-ports", b"x-kv-transfer-params"))
_NOT_FORWARDED = HOP_BY_HOP | {
    b"host", b"content-length", b"authorization", b"x-api-key", b"expect", b"accept-encoding", REQUEST_ID, TIMEOUT_MS,
    SLO_TTFT_MS, SLO_TPOT_MS,
}  # fmt: skip
_NOT_ANSWERED = HOP_BY_HOP | {b"content-length", b"server", b"date", REQUEST_ID, SERVED_BY, b"x-tandem-region"}


def require_json(content_type: bytes | None) -> None:
    """Raises: MediaTypeError unless the body is declared as JSON."""
    if (content_type or b"").partition(b";")[0].strip().lower() != b"application/json":
        raise MediaTypeError("Set the header Content-Type: application/json.", code="unsupported_media_type")


def engine_headers(headers: Headers) -> Headers:
    """The client's headers as the engine may see them; its credentials stay here.

    Raises:
        BadRequestError: a header that only Tandem may set.
    """
    kept, is_plain = [], True
    for header in headers:  # one walk: every request comes this way
        low = header[0].lower()
        if low in _NOT_FORWARDED:
            is_plain = is_plain and low != b"connection"
            continue
        if low.startswith(b"x-") and (low.startswith(_REFUSED_PREFIXES) or low in _REFUSED):
            name = low.decode("latin-1")
            raise BadRequestError(
                f"The header {name} may not be set by clients. Remove it.", code="header_refused", param=name
            )
        kept.append(header)
    return kept if is_plain else end_to_end(headers, _NOT_FORWARDED)


def guest_headers(headers: Headers) -> Headers:
    """Headers of a request that another region has forwarded, as the engine may see them: without Tandem's own."""
    kept = end_to_end(headers, _NOT_FORWARDED)
    return [header for header in kept if not header[0].lower().startswith(b"x-tandem-")]


def leg_headers(base: Headers, *, transport_id: str, bearer: str | None, remaining_s: float) -> Headers:
    """Headers of one leg: `base`, our request id, the fleet's bearer, and what is left of the deadline."""
    ours = [
        (b"X-Request-Id", transport_id.encode()),
        (b"X-Request-Timeout-Ms", b"%d" % max(1, int(remaining_s * 1000))),
    ]
    if bearer is not None:
        ours.append((b"Authorization", b"Bearer " + bearer.encode()))
    return base + ours


def client_headers(
    headers: Headers, *, request_id: bytes | None, served_by: str, ours: Headers | None = None
) -> Headers:
    """The worker's headers as the client sees them, with `ours` behind them; framing is left to the writer."""
    kept = end_to_end(headers, _NOT_ANSWERED)
    kept += ours or ()
    if request_id is not None:
        kept.append((b"X-Request-Id", request_id))
    kept.append((b"X-Served-By", served_by.encode()))
    return kept


def parse_timeout_s(value: bytes | None, limit_s: float) -> float:
    """Deadline that the client set, at most `limit_s`.

    Raises:
        BadRequestError: not a positive number of milliseconds.
    """
    asked_s = parse_seconds(TIMEOUT_MS, value)
    return limit_s if asked_s is None else min(limit_s, asked_s)


def parse_seconds(name: bytes, value: bytes | None) -> float | None:
    """Seconds out of a header of milliseconds; None where the client did not send it.

    Raises:
        BadRequestError: not a positive whole number.
    """
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12 or int(value) == 0:
        text = name.decode()
        raise BadRequestError(f"The header {text} must be a positive whole number.", code="invalid_header", param=text)
    return int(value) / 1000

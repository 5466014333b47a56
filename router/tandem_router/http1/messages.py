"""Heads of HTTP messages as plain values."""

from dataclasses import dataclass, field
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]  # in the order and the letter case in which they came

REASONS = {int(status): status.phrase.encode() for status in HTTPStatus}

NO_TOKENS: frozenset[bytes] = frozenset()
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)


@dataclass(slots=True)
class Request:
    """One request of a client, complete. `by_name`: its headers as `index_headers` has them."""

    method: bytes
    path: str  # without the query
    query: bytes
    headers: Headers
    body: bytes = b""
    keep_alive: bool = True
    is_http10: bool = False
    by_name: dict[bytes, bytes] = field(default_factory=dict)

    def header(self, name: bytes) -> bytes | None:
        """First value of the header `name` (given in lower case), or None."""
        return self.by_name.get(name)


@dataclass(slots=True)
class ResponseHead:
    """Status line and headers of a worker's answer."""

    status: int
    headers: Headers
    keep_alive: bool

    def header(self, name: bytes) -> bytes | None:
        """First value of the header `name` (given in lower case), or None."""
        return find_header(self.headers, name)


@dataclass(frozen=True, slots=True)
class Response:
    """A worker's whole answer."""

    head: ResponseHead
    body: bytes


def index_headers(headers: Headers) -> dict[bytes, bytes]:
    """First value of each header, by its name in lower case."""
    index: dict[bytes, bytes] = {}
    for name, value in headers:
        index.setdefault(name.lower(), value)
    return index


def find_header(headers: Headers, name: bytes) -> bytes | None:
    """First value of the header `name` (given in lower case), or None."""
    size = len(name)  # compared first: most names differ in length
    for key, value in headers:
        if len(key) == size and key.lower() == name:
            return value
    return None


def end_to_end(headers: Headers, dropped: frozenset[bytes] = HOP_BY_HOP) -> Headers:
    """`headers` without those in `dropped`, and those that belong to one connection only (RFC 9110 §7.6.1)."""
    named = connection_tokens(headers)
    if named:
        dropped |= named
    return [header for header in headers if header[0].lower() not in dropped]


def connection_tokens(headers: Headers) -> frozenset[bytes]:
    """Lower-case tokens of all Connection headers."""
    values = [value for key, value in headers if len(key) == 10 and key.lower() == b"connection"]
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) if values else NO_TOKENS


def encode_request(method: bytes, target: bytes, host: bytes, headers: Headers, body: bytes) -> bytes:
    """Bytes of a request with a body of known length."""
    lines = [b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method, target, host)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    if body or method == b"POST":
        lines.append(b"Content-Length: %d\r\n" % len(body))
    lines.append(b"\r\n")
    lines.append(body)
    return b"".join(lines)


def encode_response_head(status: int, headers: Headers) -> bytes:
    """Bytes of a response head; framing headers are the caller's."""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b"Unknown"))]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    return b"".join(lines)

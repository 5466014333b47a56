"""What a client's request must be like, beyond what the parser refuses. No I/O."""

from dataclasses import dataclass

from tandem_router.errors import BadRequestError, BodyTooLargeError, HeadersTooLargeError
from tandem_router.http1.messages import Headers

_CHECKED = frozenset((b"transfer-encoding", b"content-length", b"expect"))


@dataclass(frozen=True)
class Limits:
    """What clients may send, and how slowly. `connections`: of all clients at once."""

    header_bytes: int = 64 * 1024
    body_bytes: int = 16 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    connections: int = 1 << 20

    def check_head_size(self, size: int) -> None:
        """Raises: HeadersTooLargeError."""
        if size > self.header_bytes:
            message = f"The request line and headers are over the limit of {self.header_bytes} bytes."
            raise HeadersTooLargeError(message, code="headers_too_large")

    def check_body_size(self, size: int) -> None:
        """Raises: BodyTooLargeError."""
        if size > self.body_bytes:
            message = f"The request body is over the limit of {self.body_bytes} bytes."
            raise BodyTooLargeError(message, code="body_too_large")


def check_head(method: bytes, version: str, headers: Headers, limits: Limits) -> bool:
    """Refuse what two servers could read differently. Returns whether the client waits for 100-continue.

    Raises:
        BadRequestError: not plain HTTP/1.1 or 1.0, or not exactly one Host.
        BodyTooLargeError: Content-Length is over the limit.
    """
    if method == b"CONNECT":
        raise malformed("This is no proxy: CONNECT is not served.")
    if version not in ("1.1", "1.0"):
        raise malformed(f"HTTP version {version} is not supported: use HTTP/1.1.")
    hosts, awaits_continue = 0, False
    for key, value in headers:
        name = key.lower()
        if name == b"host":
            hosts += 1
        elif name in _CHECKED:
            awaits_continue |= _check_framing(name, value.lower(), version, limits)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise malformed("A request has exactly one Host header.")
    return awaits_continue


def _check_framing(name: bytes, value: bytes, version: str, limits: Limits) -> bool:
    if name == b"transfer-encoding" and (value != b"chunked" or version == "1.0"):
        raise malformed("Transfer-Encoding must be chunked, in HTTP/1.1.")
    if name == b"content-length":
        limits.check_body_size(int(value))
    if name != b"expect":
        return False
    if value != b"100-continue":
        raise malformed("Expect may only be 100-continue.")
    return version == "1.1"


def malformed(message: str) -> BadRequestError:
    """The request is not well-formed HTTP."""
    return BadRequestError(message, code="malformed_http")

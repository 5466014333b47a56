"""What a client's request must be like, beyond what the parser refuses. No I/O."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tandem_router.errors import BadRequestError, BodyTooLargeError, HeadersTooLargeError
from tandem_router.http1.messages import Headers

_FRAMING = (b"transfer-encoding", b"content-length", b"expect")


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


def check_head(method: bytes, version: str, headers: Headers, by_name: Mapping[bytes, bytes], limits: Limits) -> bool:
    """Refuse what two servers could read differently. Returns whether the client waits for 100-continue.

    Args:
        by_name: `headers`, indexed.

    Raises:
        BadRequestError: not plain HTTP/1.1 or 1.0, or not exactly one Host.
        BodyTooLargeError: Content-Length is over the limit.
    """
    if method == b"CONNECT":
        raise malformed("This is no proxy: CONNECT is not served.")
    if version not in ("1.1", "1.0"):
        raise malformed(f"HTTP version {version} is not supported: use HTTP/1.1.")
    if len(by_name) != len(headers):
        _refuse_repeated(headers)
    if b"host" not in by_name and version == "1.1":
        raise malformed("A request has exactly one Host header.")
    coding, length, expect = map(by_name.get, _FRAMING)
    if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
        raise malformed("Transfer-Encoding must be chunked, in HTTP/1.1.")
    if length is not None:
        limits.check_body_size(int(length))
    if expect is None:
        return False
    if expect.lower() != b"100-continue":
        raise malformed("Expect may only be 100-continue.")
    return version == "1.1"


def _refuse_repeated(headers: Headers) -> None:
    """Only the first value of a header is looked at: none that matters here may come twice."""
    counts = Counter(name.lower() for name, _ in headers)
    if counts[b"host"] > 1:
        raise malformed("A request has exactly one Host header.")
    for name in _FRAMING:
        if counts[name] > 1:
            raise malformed(f"The header {name.decode()} may come once only.")


def malformed(message: str) -> BadRequestError:
    """The request is not well-formed HTTP."""
    return BadRequestError(message, code="malformed_http")

"""A small raw client of the Kubernetes API: get a page, follow a watch. Read-only."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tandem_router import jsontext
from tandem_router.http1.exchange import Endpoint, Exchange, UpstreamError, collect
from tandem_router.http1.messages import Headers, encode_request
from tandem_router.http1.outbound import ConnectRules, UpstreamPool

MAX_PAGE_BYTES = 64 << 20
MAX_LINE_BYTES = 4 << 20
HELD_LINES = 256
REQUEST_TIMEOUT_S = 15.0


class ApiUnreachableError(Exception):
    """The API server could not be reached, or answered with what is not its protocol."""


class ApiRefusedError(Exception):
    """The API server refused a request.

    Attributes:
        status: HTTP status; 410 when a resourceVersion has expired.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class ApiMisconfiguredError(Exception):
    """There is no usable URL or certificate; the message says what to set."""


@dataclass
class Credentials:
    """The service account's token, read from its file whenever that changes."""

    directory: Path
    _token: str = ""
    _stamp_ns: int = 0

    def headers(self) -> Headers:
        """The Authorization header, none when there is no token."""
        file = self.directory / "token"
        try:
            stamp_ns = file.stat().st_mtime_ns
            if stamp_ns != self._stamp_ns:
                self._token, self._stamp_ns = file.read_text().strip(), stamp_ns
        except OSError:
            pass  # keep the token that we have; the API server judges it
        return [(b"Authorization", b"Bearer " + self._token.encode())] if self._token else []


class ApiClient:
    """Requests to one API server."""

    def __init__(self, url: str, credentials: Credentials, loop: asyncio.AbstractEventLoop) -> None:
        """`url` is `https://host:port`, or `http://…` for a proxy on the same machine.

        Raises:
            ApiMisconfiguredError: the URL or the CA certificate is unusable.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiMisconfiguredError(f"{url!r} is no URL of an API server: give https://HOST:PORT")
        tls = build_tls(credentials.directory / "ca.crt") if parts.scheme == "https" else None
        self._endpoint = Endpoint(parts.hostname, parts.port or (443 if tls else 80), is_tls=tls is not None)
        self._credentials = credentials
        self._pool = UpstreamPool(loop, tls, rules=ConnectRules(timeout_s=5.0))

    async def get(self, target: str) -> Any:
        """One JSON document.

        Raises:
            ApiRefusedError: an HTTP error.
            ApiUnreachableError: no answer within the time limit.
        """
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                exchange = await self._open(target)
                return jsontext.loads(await collect(exchange, MAX_PAGE_BYTES))
        except (UpstreamError, TimeoutError, jsontext.JSONDecodeError) as error:
            raise ApiUnreachableError(str(error) or "no answer in time") from error

    async def follow(self, target: str, silence_s: float) -> AsyncIterator[Any]:
        """JSON documents of a watch, one per line, until the server ends it.

        Raises:
            ApiRefusedError: an HTTP error at the start.
            ApiUnreachableError: the connection broke, or was silent for `silence_s`.
        """
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                exchange = await self._open(target)
            lines = _Lines(exchange)
            exchange.relay_to(lines)
            try:
                while (line := await asyncio.wait_for(lines.next(), silence_s)) is not None:
                    yield jsontext.loads(line)
            finally:
                exchange.abort()
        except (UpstreamError, TimeoutError, jsontext.JSONDecodeError) as error:
            raise ApiUnreachableError(str(error) or "silent for too long") from error

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    async def _open(self, target: str) -> Exchange:
        headers = [*self._credentials.headers(), (b"Accept", b"application/json"), (b"User-Agent", b"tandem-router")]
        request = encode_request(b"GET", target.encode(), self._endpoint.authority, headers, b"")
        exchange, head = await self._pool.open(self._endpoint, request, head_suffices=True)
        if head.status != 200:
            raise ApiRefusedError(head.status, read_message(await collect(exchange, MAX_LINE_BYTES)))
        return exchange


class _Lines:
    """Splits a body into lines, and stops reading while too many wait."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._error: UpstreamError | None = None
        self._is_ended = False

    async def next(self) -> bytes | None:
        """The next line, None at the end.

        Raises:
            UpstreamError: the body was cut.
        """
        while not self._lines:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        if len(self._lines) == HELD_LINES:
            self._exchange.set_flow(True)
        return self._lines.popleft()

    def on_body(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(line for line in lines if line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._exchange.abort()
            self.on_failure(UpstreamError("a line of the watch is too long"))
        if len(self._lines) >= HELD_LINES:
            self._exchange.set_flow(False)
        self._changed.set()

    def on_end(self) -> None:
        self._is_ended = True
        self._changed.set()

    def on_failure(self, error: UpstreamError) -> None:
        self._error = self._error or error
        self._changed.set()


def build_tls(ca_file: Path) -> ssl.SSLContext:
    """Trust in the cluster's own CA, and in no other.

    Raises:
        ApiMisconfiguredError: the certificate cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ApiMisconfiguredError(
            f"{ca_file} is no CA certificate ({error}): mount the service account, or set --service-account-dir"
        ) from error


def read_message(body: bytes) -> str:
    """The message of a Kubernetes Status, or the beginning of whatever came instead."""
    try:
        return str(jsontext.loads(body)["message"])[:500]
    except (jsontext.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")

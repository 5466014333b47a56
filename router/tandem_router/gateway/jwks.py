"""Fetches issuers' public keys, and fetches them again when a token names a key that nobody has shown."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tandem_router.gateway.config import GatewayConfigError, Issuer
from tandem_router.gateway.gate import Gate
from tandem_router.gateway.signed_tokens import KeySet

LOG = logging.getLogger(__name__)
FETCH_TIMEOUT_S = 10.0
MAX_JWKS_BYTES = 1024 * 1024
HURRY_S = 30.0  # between two fetches that unknown key ids ask for: a flood of forged tokens must not become one of ours
RETRY_S = 15.0  # after a failed fetch

Fetch = Callable[[str], Awaitable[dict[str, Any]]]


class JwksError(Exception):
    """The keys could not be fetched."""


async def fetch_jwks(url: str) -> dict[str, Any]:
    """The document at `url`, at most 1 MiB, without following redirects.

    Raises:
        JwksError: no answer, or not a JSON object.
    """
    import httpx  # only installations with a jwksUrl pay for it (about 12 MB)

    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            httpx.AsyncClient(follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise JwksError(f"{url} answered {answer.status_code}")
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_JWKS_BYTES:
                    raise JwksError(f"{url} is over {MAX_JWKS_BYTES} bytes")
        document = json.loads(body)
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        raise JwksError(f"{url} cannot be read: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise JwksError(f"{url} is not a JSON object")
    return document


class JwksKeeper:
    """Keeps the keys of one gate's issuers fresh. When an issuer cannot be reached, its last keys stay."""

    def __init__(self, gate: Gate, clock: Callable[[], float], fetch: Fetch = fetch_jwks) -> None:
        self._gate = gate
        self._clock = clock
        self._fetch = fetch
        self._due_s = {issuer.issuer: 0.0 for issuer in gate.config.issuers if issuer.jwks_url is not None}
        self._fetched_s: dict[str, float] = {}

    async def refresh(self) -> None:
        """Fetch what is due."""
        due = [issuer for issuer in self._gate.config.issuers if self._due_s.get(issuer.issuer, 1e18) <= self._clock()]
        await asyncio.gather(*(self._refresh(issuer) for issuer in due))

    def hurry(self) -> None:
        """A token named an unknown key: fetch anew, unless that was done a moment ago."""
        now_s = self._clock()
        for name in self._due_s:
            if now_s - self._fetched_s.get(name, -1e18) >= HURRY_S:
                self._due_s[name] = now_s

    async def _refresh(self, issuer: Issuer) -> None:
        assert issuer.jwks_url is not None
        self._fetched_s[issuer.issuer] = self._clock()
        try:
            keys = KeySet(await self._fetch(issuer.jwks_url))
        except (JwksError, GatewayConfigError) as error:
            LOG.warning("keys of issuer %s kept as they were: %s", issuer.issuer, error)
            self._due_s[issuer.issuer] = self._clock() + RETRY_S
            return
        self._gate.tokens.set_keys(issuer.issuer, keys)
        self._due_s[issuer.issuer] = self._clock() + issuer.refresh_seconds

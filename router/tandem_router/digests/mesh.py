"""Tells every peer ten times a second, over kept-open connections of the internal listener."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from tandem_router.digests.messages import DIGESTS_PATH, Digest
from tandem_router.digests.replica import Replica
from tandem_router.errors import BadRequestError
from tandem_router.fleets import Fleet, Worker
from tandem_router.http1.exchange import ConnectError, Endpoint, UpstreamError
from tandem_router.http1.messages import Headers, encode_request
from tandem_router.http1.outbound import UpstreamPool

LOG = logging.getLogger(__name__)
INTERVAL_S = 0.1
TIMEOUT_S = 0.5
MAX_ANSWER_BYTES = 4096


@dataclass
class DigestMesh:
    """Sends and receives digests.

    Attributes:
        bearer: token of the internal listeners; None: there is no key, so nothing is sent.
        ask: reads a worker's state at once.
    """

    replica: Replica
    pool: UpstreamPool
    bearer: Callable[[], str | None]
    ask: Callable[[Fleet, Worker], None]
    _sending: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            while True:
                self.tick(self.pool.loop.time())
                await asyncio.sleep(INTERVAL_S)
        finally:
            for task in self._sending.values():
                task.cancel()

    def tick(self, now_s: float) -> None:
        """One round. A peer that has not answered the last digest is not sent another: the next tells it all."""
        for peer in self.replica.begin_tick(now_s):
            if peer not in self._sending:
                digest = self.replica.digest_for(peer, now_s)
                self._sending[peer] = self.pool.loop.create_task(self._send(peer, digest))
        self.replica.end_tick()

    def receive(self, body: bytes) -> None:
        """A digest came.

        Raises:
            BadRequestError: it is none.
        """
        try:
            digest = Digest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            field_name = ".".join(map(str, first["loc"]))[:200]
            raise BadRequestError(f"Not a digest: {field_name}: {first['msg']}.", code="invalid_digest") from None
        for fleet, worker in self.replica.take(digest, self.pool.loop.time()):
            self.ask(fleet, worker)

    async def _send(self, peer: str, digest: Digest) -> None:
        try:
            await self._post(peer, digest)
        finally:
            del self._sending[peer]

    async def _post(self, peer: str, digest: Digest) -> None:
        bearer = self.bearer()
        if bearer is None:
            return
        endpoint = parse_address(peer)._replace(is_tls=self.pool.tls is not None)
        headers: Headers = [
            (b"Content-Type", b"application/json"),
            (b"Authorization", b"Bearer " + bearer.encode()),
        ]
        body = digest.model_dump_json(exclude_defaults=True).encode()
        request = encode_request(b"POST", DIGESTS_PATH.encode(), endpoint.authority, headers, body)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self.pool.fetch(endpoint, request, MAX_ANSWER_BYTES)
        except ConnectError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                self.replica.membership.note_refused(peer, self.pool.loop.time())
        except (UpstreamError, TimeoutError):
            return
        else:
            self.replica.membership.note_answer(peer)
            if answer.head.status != 200:
                LOG.warning("peer %s refuses digests: HTTP %d", peer, answer.head.status)


def parse_address(text: str) -> Endpoint:
    """`host:port`, with brackets around an IPv6 address.

    Raises:
        ValueError: not an address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is no host:port")
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def format_address(host: str, port: int) -> str:
    """Inverse of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

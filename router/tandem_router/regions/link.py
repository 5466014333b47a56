"""The line to one peer region: two streams of digests, pings, and the requests that were forwarded there.

Two streams meet two of its routers where there are two, so that the end of one is not the silence of a region.
"""

import asyncio
import logging
from urllib.parse import urlsplit

from pydantic import ValidationError

from tandem_router.http1.exchange import Endpoint, Exchange, SilentError, UpstreamError, WorkerLostError
from tandem_router.http1.messages import Headers, ResponseHead, encode_request
from tandem_router.http1.outbound import ConnectRules, UpstreamPool
from tandem_router.regions.credentials import PeerCredentials
from tandem_router.regions.lines import DigestLines, NotThePeerError
from tandem_router.regions.messages import PING_PATH, STREAM_PATH, RegionDigest, speaks_like_us
from tandem_router.regions.peer import Peer

LOG = logging.getLogger(__name__)
STREAMS = ("one", "two")
SILENT_S = 0.15  # two lines missing on every stream: a new one shows whether anybody is there
ONE_SILENT_S = 1.0  # on one stream while the other speaks
PING_S = 0.05
PING_DOWN_S = 0.5
ANSWER_S = 0.12  # beside the way, for what is asked anew: a connection, and one question
WAYS = 3  # there and back, of a question over a new connection with TLS
KEPT_WAYS = 1.5  # over a kept-open one
FIRST_S = 2.0  # for an answer while the way is not known
AGAIN_S = 0.02  # after a stream that had spoken; else the pauses below
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 0.2
REFUSED_S = 2.0  # a peer that does not want us will not change its mind at once
LOST_S = 3.5  # an answer that has begun may outlive a partition of so long
STALL_S = 120.0
LATE_S = 0.15  # our own loop was late: what seems unheard may lie in the socket


class PeerLink:
    """Everything that runs between this router and one peer region."""

    def __init__(self, peer: Peer, own: str, credentials: PeerCredentials, loop: asyncio.AbstractEventLoop) -> None:
        assert peer.spec.url is not None, "a peer that cannot be reached has no link"
        self.peer, self._own, self._credentials, self._loop = peer, own, credentials, loop
        credentials.refresh()
        self.endpoint = parse_url(peer.spec.url)
        self.pool = UpstreamPool(loop, credentials.tls, rules=ConnectRules(timeout_s=2.0))
        self.exchanges: set[Exchange] = set()
        self._streams: dict[str, Exchange] = {}
        self._heard_s: dict[str, float] = {}
        self._looked_s = loop.time()
        self._is_late = False  # our loop, when it was looked at last: it measures nothing but itself
        self._failures = 0  # questions without an answer, one after the other

    @property
    def headers(self) -> Headers:
        """What the peer is shown."""
        return self._credentials.headers

    async def run(self) -> None:
        """Follow the peer until cancelled. Answers that come from there still may end."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in STREAMS:
                    group.create_task(self._follow(name))
                group.create_task(self._keep_pinging())
        finally:
            for exchange in [one for one in self.exchanges if not one.has_begun]:
                exchange.fail(WorkerLostError(f"region {self.peer.name} is not followed any more"))
            self.pool.close()

    def refresh(self) -> None:
        """Take over changed credentials; call every second."""
        if self._credentials.refresh():
            self.pool.tls = self._credentials.tls
            self.pool.close()
        self.pool.close_idle(self._loop.time())

    # --- what is lost -------------------------------------------------------------------------------------------

    def look(self, now_s: float) -> bool:
        """End what is lost; whether the peer's state has changed. Call it every 50 ms or so."""
        self._is_late, self._looked_s = now_s - self._looked_s > LATE_S, now_s
        if self._is_late:
            return False
        self._end_silent(now_s)
        has_changed = self.peer.look(now_s)
        self._end_lost(now_s, is_down=self.peer.state == "down")
        return has_changed

    def _end_silent(self, now_s: float) -> None:
        """Of streams that are all silent one is replaced, which is the test; the other may still speak."""
        quiet = sorted((now_s - self._heard_s[name], name) for name in self._streams)
        if not quiet:
            return
        for_s, name = quiet[-1]
        if quiet[0][0] > SILENT_S or for_s > ONE_SILENT_S:
            self._streams[name].fail(SilentError(f"silent for {for_s:.1f} s"))

    def _end_lost(self, now_s: float, *, is_down: bool) -> None:
        """What has not begun to answer is tried elsewhere at once; what has is given time to go on."""
        for exchange in list(self.exchanges):
            limit_s = (LOST_S if exchange.has_begun else 0.0) if is_down else STALL_S
            is_watched = exchange.has_begun or is_down
            if is_watched and not exchange.is_paused and now_s - exchange.last_byte_s > limit_s:
                exchange.fail(WorkerLostError(f"region {self.peer.name} is lost"))

    # --- streams ------------------------------------------------------------------------------------------------

    async def _follow(self, name: str) -> None:
        """One stream after the other, for ever."""
        delay_s = 0.0
        while True:
            has_spoken = await self._stream(name)
            delay_s = AGAIN_S if has_spoken else min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * delay_s))
            await asyncio.sleep(REFUSED_S if self.peer.fault else delay_s)

    async def _stream(self, name: str) -> bool:
        """One stream to its end; whether it has spoken."""
        began_s = self._loop.time()
        lines = DigestLines(lambda line: self._take(name, line))
        try:
            await self._open_stream(name, lines)
            await lines.ended
        except NotThePeerError as error:
            self._complain(str(error))
            self.peer.health.refuse(self._loop.time())
        except (UpstreamError, TimeoutError):
            if not lines.has_spoken and self._loop.time() - began_s < self._patience_s() + ANSWER_S + LATE_S:
                self._failures += 1
                self.peer.health.refuse(self._loop.time())
        finally:
            self._heard_s.pop(name, None)
            if (exchange := self._streams.pop(name, None)) is not None:
                exchange.abort()
            self.peer.close(name)
        return lines.has_spoken

    async def _open_stream(self, name: str, lines: DigestLines) -> None:
        patience_s = self._patience_s()
        request = self._request(STREAM_PATH)
        async with asyncio.timeout(patience_s):
            exchange, head = await self.pool.open(self.endpoint, request, head_suffices=True, timeout_s=patience_s)
        try:
            require_welcome(head, self.peer.name)
        except (NotThePeerError, UpstreamError):
            exchange.abort()
            raise
        self._streams[name], self._heard_s[name] = exchange, self._loop.time()
        exchange.relay_to(lines)

    def _take(self, name: str, line: bytes) -> bool:
        """A line came over a stream; False ends it.

        Raises:
            NotThePeerError: it is no digest of this peer.
        """
        digest = read_digest(line, self.peer.name, self._own)
        if digest.goaway:
            return False
        self._heard_s[name] = now_s = self._loop.time()
        self.peer.hear(name, digest, now_s)
        return True

    def _patience_s(self, ways: float = WAYS) -> float:
        """How long to wait for an answer: by the way as it was measured, and longer when nobody has answered lately.

        The way may have become longer: with a patience by the old one it would never be measured again.
        """
        if self.peer.rtt_s is None:
            return FIRST_S
        return min(FIRST_S, (ANSWER_S + ways * self.peer.rtt_s) * 2.0 ** max(0, self._failures // 4))

    def _request(self, path: str) -> bytes:
        headers = [*self.headers, (b"x-tandem-origin", self._own.encode())]
        return encode_request(b"GET", path.encode(), self.endpoint.authority, headers, b"")

    def _complain(self, text: str) -> None:
        if text != self.peer.fault:
            LOG.error("region %s is not used: %s", self.peer.name, text)
        self.peer.fault = text

    # --- pings --------------------------------------------------------------------------------------------------

    async def _keep_pinging(self) -> None:
        """Measure the way, and notice when what we send does not arrive although we hear the peer."""
        has_line = False  # the very first answer took longer than the way: it needed a connection
        while True:
            began_s, patience_s = self._loop.time(), self._patience_s(KEPT_WAYS if has_line else WAYS)
            is_answered = await self._ping(patience_s)
            took_s = self._loop.time() - began_s
            if is_answered:
                self._failures = 0
                self.peer.health.answer(self._loop.time())
                if not self._is_late and (has_line or self.peer.rtt_s is not None):
                    self.peer.measure(took_s)
            elif took_s < patience_s + ANSWER_S + LATE_S:
                self._failures += 1
                self.peer.health.miss(self._loop.time())
            pause_s = PING_S if is_answered or not has_line else 0.0  # the second question settles it
            has_line = is_answered
            await asyncio.sleep(PING_DOWN_S if self.peer.state == "down" else pause_s)

    async def _ping(self, patience_s: float) -> bool:
        try:
            async with asyncio.timeout(patience_s):
                answer = await self.pool.fetch(self.endpoint, self._request(PING_PATH), timeout_s=patience_s)
        except (UpstreamError, TimeoutError):
            return False
        return answer.head.status < 500


def parse_url(url: str) -> Endpoint:
    """Where a region's internal listener is; the URL was checked when it was read."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    return Endpoint(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls)


def require_welcome(head: ResponseHead, peer: str) -> None:
    """Raises: NotThePeerError unless the peer streams to us. UpstreamError where it may do so later."""
    if head.status in (401, 403):
        mend = f"the Secret of {peer} must hold a token that its region.tokenSecret lists"
        raise NotThePeerError(f"it refuses our token (HTTP {head.status}): {mend}")
    if head.status == 404:
        raise NotThePeerError("its routers know no regions (HTTP 404): set region.name there, and look at spec.url")
    if head.status != 200:
        raise UpstreamError(f"HTTP {head.status}")


def read_digest(line: bytes, peer: str, own: str) -> RegionDigest:
    """A digest of the region `peer`.

    Raises:
        NotThePeerError: it is none, of another region, or of a release too far away.
    """
    try:
        digest = RegionDigest.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise NotThePeerError(f"what it tells is no digest ({place}: {first['msg']}): look at spec.url") from None
    if not speaks_like_us(digest.v):
        raise NotThePeerError(f"it speaks version {digest.v} of the region protocol: bring both within one release")
    if digest.region != peer:
        told = "this very region" if digest.region == own else repr(digest.region)
        raise NotThePeerError(f"at its url there is {told}: mend spec.url, or name it as its chart's region.name")
    return digest

"""The prefill side of the session protocol: a pure state machine. Events in, actions out, time as an argument.

The shell performs the actions in order and owes one `on_sent` for every StartSend, also after a StopSend or a Close.
That is what makes freeing safe: a lease is pinned from StartSend to on_sent, so no block is overwritten while it is
being read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tandem_worker.kv.compatibility import find_mismatch
from tandem_worker.kv.keys import Signer
from tandem_worker.kv.layout import HeadSlice, plan_consumers
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.messages import (
    PROTOCOL,
    PROTOCOLS_SPOKEN,
    Attached,
    Engine,
    Greeting,
    Hello,
    Message,
    Ping,
    Pong,
    Pull,
    Ready,
    Refuse,
    Reject,
    Release,
    Welcome,
    is_hello_authentic,
    seal_welcome,
)
from tandem_worker.kv.negotiation import Choice, decide_transport
from tandem_worker.kv.params import Ticket, TicketError, read_ticket


@dataclass(frozen=True, slots=True)
class Send:
    connection: int
    message: Message


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection, its control and its data path, after what was sent before."""

    connection: int


@dataclass(frozen=True, slots=True)
class OpenData:
    """Await the peer's data path at the endpoint offered to it, then report on_attached."""

    connection: int
    endpoint: dict[str, str]
    transport: str


@dataclass(frozen=True, slots=True)
class StartSend:
    connection: int
    transfer: int
    blocks: tuple[tuple[int, ...], ...]
    heads: tuple[HeadSlice, ...]
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class StopSend:
    """Make a running send fail at once."""

    connection: int


@dataclass(frozen=True, slots=True)
class Freed:
    """These requests' blocks may be reused."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Something to count, by a bounded reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class FellBack:
    """A session uses another transport than was asked for, by a bounded reason."""

    reason: str


ProviderAction = Send | Close | OpenData | StartSend | StopSend | Freed | Failed | FellBack


@dataclass(frozen=True)
class ProviderLimits:
    handshake_s: float
    silence_s: float
    lease_wait_s: float
    max_sessions: int


@dataclass(slots=True)
class _Peer:
    nonce: str
    endpoint: dict[str, str]
    heard_s: float
    connected_s: float
    engine: Engine | None = None
    chunk_bytes: int = 0
    choice: Choice | None = None
    is_attached: bool = False
    next_pull: Pull | None = None  # came before our own thread had said that the last one was sent


@dataclass(slots=True)
class _Waiting:
    """A pull whose lease has not been registered yet: decode may be faster than prefill's own next step."""

    connection: int
    pull: Pull
    ticket: Ticket
    until_s: float


@dataclass
class Provider:
    """All sessions of one prefill rank, and its leases."""

    me: Engine
    signer: Signer
    leases: LeaseTable
    limits: ProviderLimits
    _peers: dict[int, _Peer] = field(default_factory=dict)
    _waiting: list[_Waiting] = field(default_factory=list)
    _sends: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def session_count(self) -> int:
        return sum(peer.is_attached for peer in self._peers.values())

    @property
    def fallbacks(self) -> set[str]:
        """Why sessions that are open now do not use the transport that was asked for."""
        return {peer.choice.fallback for peer in self._peers.values() if peer.choice and peer.choice.fallback}

    # Events

    def on_connect(self, connection: int, nonce: str, endpoint: dict[str, str], now_s: float) -> list[ProviderAction]:
        """A control connection; `endpoint` is where the transport would take this peer's data."""
        if len(self._peers) >= self.limits.max_sessions:
            refusal = Refuse(reason="too_many_sessions", detail="this rank serves as many peers as it may")
            return [Send(connection, refusal), Close(connection), Failed("too_many_sessions")]
        self._peers[connection] = _Peer(nonce, endpoint, now_s, now_s)
        return [Send(connection, Greeting(protocol=PROTOCOL, nonce=nonce))]

    def on_message(self, connection: int, message: Message, now_s: float) -> list[ProviderAction]:
        peer = self._peers.get(connection)
        if peer is None:
            return []  # it was closed while this message was on its way
        peer.heard_s = now_s
        match message:
            case Hello() if peer.engine is None:
                return self._meet(connection, peer, message)
            case Pull() if peer.is_attached:
                return self._pull(connection, peer, message, now_s)
            case Release() if peer.engine is not None:
                return self._release(peer.engine, message, now_s)
            case Ping() if peer.engine is not None:
                for request_id in message.renew:
                    self.leases.renew(request_id, now_s)
                return [Send(connection, Pong())]
        return self._drop(connection, "protocol_error")

    def on_attached(self, connection: int) -> list[ProviderAction]:
        """The peer's data path is up."""
        peer = self._peers.get(connection)
        if peer is None:
            return []
        peer.is_attached = True
        return [Send(connection, Attached())]

    def on_close(self, connection: int) -> list[ProviderAction]:
        """The control connection is gone. Its leases stay: the peer may come back for them."""
        if self._peers.pop(connection, None) is None:
            return []
        self._waiting = [pull for pull in self._waiting if pull.connection != connection]
        return [StopSend(connection)] if self._is_sending(connection) else []

    def on_sent(self, connection: int, transfer: int, fault: str | None, now_s: float) -> list[ProviderAction]:
        """The transport is through with a StartSend; it reads those blocks no more."""
        request_id = self._sends.pop((connection, transfer))
        actions = _freed(self.leases.unpin(request_id, now_s))
        if fault is not None:
            actions.append(Failed(f"send_{fault}"))
            return actions + self._drop(connection, None)
        peer = self._peers.get(connection)
        if peer is not None and peer.next_pull is not None:
            pull, peer.next_pull = peer.next_pull, None
            actions += self._pull(connection, peer, pull, now_s)
        return actions

    def on_lease(self, request_id: str, blocks: Iterable[Iterable[int]], now_s: float) -> list[ProviderAction]:
        """The engine finished a prefill and keeps its blocks for us."""
        actions = _freed(self.leases.register(request_id, blocks, now_s))
        ripe = [wait for wait in self._waiting if wait.ticket.remote_request_id == request_id]
        self._waiting = [wait for wait in self._waiting if wait not in ripe]
        for wait in ripe:
            actions += self._serve(wait.connection, wait.pull, wait.ticket, now_s)
        return actions

    def on_release_order(self, substring: str, now_s: float) -> list[ProviderAction]:
        """The router, through the admin server: nobody will pull these."""
        return _freed(self.leases.drop_matching(substring, now_s))

    def on_tick(self, now_s: float) -> list[ProviderAction]:
        actions = _freed(expired := self.leases.expire(now_s))
        actions += [Failed("lease_expired") for _ in expired]
        for connection, peer in list(self._peers.items()):
            if reason := self._find_silence(peer, now_s):
                actions += self._drop(connection, reason)
        overdue = [wait for wait in self._waiting if wait.until_s <= now_s]
        self._waiting = [wait for wait in self._waiting if wait.until_s > now_s]
        for wait in overdue:
            actions += _reject(wait.connection, wait.pull, "unknown_lease", "no such lease here")
        return actions

    # Decisions

    def _find_silence(self, peer: _Peer, now_s: float) -> str | None:
        if not peer.is_attached and now_s - peer.connected_s > self.limits.handshake_s:
            return "handshake_timeout"
        return "peer_silent" if now_s - peer.heard_s > self.limits.silence_s else None

    def _meet(self, connection: int, peer: _Peer, hello: Hello) -> list[ProviderAction]:
        if hello.protocol not in PROTOCOLS_SPOKEN:
            spoken = f"this side speaks protocol {sorted(PROTOCOLS_SPOKEN)}"
            return self._refuse(connection, "mismatch_protocol", spoken)
        if not is_hello_authentic(hello, peer.nonce, self.signer):
            return self._refuse(connection, "bad_hello_mac", "the hello is not signed with this fleet's key")
        if mismatch := find_mismatch(self.me, hello.engine):
            return self._refuse(connection, mismatch.reason, mismatch.detail)
        peer.engine = hello.engine
        peer.chunk_bytes = min(self.me.chunk_bytes, hello.engine.chunk_bytes)
        peer.choice = choice = decide_transport(self.me, hello.engine)
        welcome = Welcome(
            engine=self.me, transport=choice.transport, chunk_bytes=peer.chunk_bytes, endpoint=peer.endpoint
        )
        counted: list[ProviderAction] = [FellBack(choice.fallback)] if choice.fallback else []
        signed = seal_welcome(welcome, hello.nonce, self.signer)
        return [OpenData(connection, peer.endpoint, choice.transport), Send(connection, signed), *counted]

    def _refuse(self, connection: int, reason: str, detail: str) -> list[ProviderAction]:
        return [Send(connection, Refuse(reason=reason, detail=detail)), *self._drop(connection, reason)]

    def _drop(self, connection: int, reason: str | None) -> list[ProviderAction]:
        counted: list[ProviderAction] = [Failed(reason)] if reason else []
        if connection not in self._peers:
            return counted
        return [*self.on_close(connection), Close(connection), *counted]

    def _pull(self, connection: int, peer: _Peer, pull: Pull, now_s: float) -> list[ProviderAction]:
        """One transfer at a time per session. The peer may have all bytes of the last one before we know that."""
        if peer.next_pull or any(wait.connection == connection for wait in self._waiting):
            return self._drop(connection, "protocol_error")
        if self._is_sending(connection):
            peer.next_pull = pull
            return []
        try:
            ticket = self._redeem(pull.ticket)
        except TicketError as error:
            return _reject(connection, pull, error.reason, str(error))
        return self._serve(connection, pull, ticket, now_s)

    def _is_sending(self, connection: int) -> bool:
        return any(key[0] == connection for key in self._sends)

    def _redeem(self, fields: dict[str, object]) -> Ticket:
        ticket = read_ticket(fields, self.me.fleet, self.signer)
        if ticket.remote_engine_id != self.me.engine_id:
            raise TicketError("stale_engine", "the ticket is of another engine, or of this one before a restart")
        return ticket

    def _serve(self, connection: int, pull: Pull, ticket: Ticket, now_s: float) -> list[ProviderAction]:
        request_id = ticket.remote_request_id
        lease = self.leases.find(request_id)
        if lease is None:
            if how := self.leases.explain_absence(request_id):
                return _reject(connection, pull, f"lease_{how}", f"the lease has been {how}")
            until_s = now_s + self.limits.lease_wait_s
            self._waiting.append(_Waiting(connection, pull, ticket, until_s))
            return []
        if not lease.covers(pull.blocks):
            return _reject(connection, pull, "forged_blocks", "blocks outside the lease were asked for")
        if not _are_heads_held(self.me, pull.heads):
            return _reject(connection, pull, "forged_heads", "heads were asked for that this rank does not hold")
        return self._start(connection, pull, request_id)

    def _start(self, connection: int, pull: Pull, request_id: str) -> list[ProviderAction]:
        peer = self._peers[connection]
        self.leases.pin(request_id)
        self._sends[connection, pull.transfer] = request_id
        heads = tuple(HeadSlice(first, count) for first, count in pull.heads)
        blocks = tuple(map(tuple, pull.blocks))
        return [
            Send(connection, Ready(transfer=pull.transfer)),
            StartSend(connection, pull.transfer, blocks, heads, peer.chunk_bytes),
        ]

    def _release(self, engine: Engine, release: Release, now_s: float) -> list[ProviderAction]:
        try:
            ticket = self._redeem(release.ticket)
        except TicketError as error:
            return [Failed(error.reason)]
        consumers = self._consumers(engine)
        return _freed(self.leases.release(ticket.remote_request_id, engine.tp_rank, consumers, now_s))

    def _consumers(self, engine: Engine) -> frozenset[int]:
        if engine.tp_size == self.me.tp_size:
            return frozenset({engine.tp_rank})
        heads = self.me.groups[0].kv_heads
        return frozenset(plan_consumers(heads, self.me.tp_size, engine.tp_size, self.me.tp_rank))


def _are_heads_held(me: Engine, wanted: Sequence[tuple[int, int]]) -> bool:
    held = [max(1, group.kv_heads // me.tp_size) for group in me.groups]
    return len(wanted) == len(held) and all(
        first >= 0 and count >= 1 and first + count <= limit for (first, count), limit in zip(wanted, held, strict=True)
    )


def _reject(connection: int, pull: Pull, reason: str, detail: str) -> list[ProviderAction]:
    refusal = Reject(transfer=pull.transfer, reason=reason, detail=detail)
    return [Send(connection, refusal), Failed(reason)]


def _freed(request_ids: Sequence[str]) -> list[ProviderAction]:
    return [Freed(tuple(request_ids))] if request_ids else []

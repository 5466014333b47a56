"""The decode side of the session protocol toward one prefill rank: a pure state machine.

Events in, actions out, time and nonces as arguments. Every job submitted ends in exactly one Finished, whatever the
peer does. The shell owes one `on_received` for every Receive, also after StopReceive: a job is finished only when no
thread writes into its blocks any more, for the engine reuses them at once.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from tandem_worker.kv.circuit import Circuit
from tandem_worker.kv.compatibility import find_mismatch
from tandem_worker.kv.keys import Signer
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
    is_welcome_authentic,
    seal_hello,
)
from tandem_worker.kv.negotiation import decide_transport
from tandem_worker.kv.pull_actions import (
    Attach,
    Connect,
    Disconnect,
    Failed,
    FellBack,
    Finished,
    Job,
    PullerAction,
    Receive,
    Send,
    StopReceive,
)

CANCELLED = "cancelled"


class State(Enum):
    IDLE = auto()
    CONNECTING = auto()
    GREETING = auto()
    HELLO = auto()
    ATTACHING = auto()
    OPEN = auto()
    STOPPING = auto()  # the session is gone; a thread may still write into the active job's blocks


_HANDSHAKE = frozenset({State.CONNECTING, State.GREETING, State.HELLO, State.ATTACHING})


@dataclass(frozen=True)
class PullerLimits:
    handshake_s: float
    ready_s: float
    transfer_s: float
    heartbeat_s: float
    silence_s: float
    idle_close_s: float
    release_s: float


@dataclass(slots=True)
class _Active:
    job: Job
    transfer: int
    ready_by_s: float
    end_by_s: float
    is_receiving: bool = False


@dataclass
class Puller:
    """One decode rank's dealings with one prefill rank of one engine (one start of it)."""

    me: Engine
    peer_engine_id: str
    signer: Signer
    limits: PullerLimits
    circuit: Circuit
    state: State = State.IDLE
    fallback: str | None = None  # why the session does not use the transport that was asked for
    _link: int = 0
    _since_s: float = 0
    _heard_s: float = 0
    _pinged_s: float = 0
    _used_s: float = 0
    _nonce: str = ""
    _chunk_bytes: int = 0
    _retry_at_s: float = 0  # for what is not urgent: renewals and releases
    _transfers: int = 0
    _active: _Active | None = None
    _stop_reason: str = ""
    _queue: dict[str, tuple[Job, float]] = field(default_factory=dict)
    _releases: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    _watched: dict[str, str] = field(default_factory=dict)

    def is_disposable(self, now_s: float) -> bool:
        """Nothing is going on and nothing need be remembered."""
        return self.state is State.IDLE and not self._has_work() and not self.circuit.is_open(now_s)

    # Orders of the connector

    def submit(self, job: Job, now_s: float) -> list[PullerAction]:
        if self.circuit.is_open(now_s):
            return [Finished(job, 0, 0, "circuit_open"), Failed("circuit_open")]
        self._queue[job.key] = (job, now_s + self.limits.transfer_s)
        return self._advance(now_s)

    def cancel(self, key: str, now_s: float) -> list[PullerAction]:
        """The request is gone; give its blocks back soon, and the peer its lease."""
        if key in self._queue:
            job, _ = self._queue.pop(key)
            return [*self._finish(job, 0, CANCELLED, now_s), *self._advance(now_s)]
        if self._active is not None and self._active.job.key == key and self.state is State.OPEN:
            return self._break(CANCELLED, now_s)
        return []

    def release(self, ticket: dict[str, Any], now_s: float) -> list[PullerAction]:
        """Tell the peer that nobody here will pull this ticket."""
        self._releases.append((ticket, now_s + self.limits.release_s))
        return self._advance(now_s)

    def watch(self, key: str, remote_request_id: str, now_s: float) -> list[PullerAction]:
        """Renew this lease while the request waits for room here; also opens the session ahead of the pull."""
        self._watched[key] = remote_request_id
        return self._advance(now_s)

    def unwatch(self, key: str) -> None:
        self._watched.pop(key, None)

    # Events of the shell

    def on_connected(self, link: int, nonce: str) -> list[PullerAction]:
        """`nonce` is fresh and random: it binds the peer's welcome to this connection."""
        if link != self._link or self.state is not State.CONNECTING:
            return [Disconnect(link)]
        self.state, self._nonce = State.GREETING, nonce
        return []

    def on_lost(self, link: int, now_s: float, fault: str | None = None) -> list[PullerAction]:
        """The connection could not be made, or is gone; `fault` is why, when more is known than that."""
        if link != self._link or self.state in (State.IDLE, State.STOPPING):
            return []
        return self._break(fault or ("connect_failed" if self.state is State.CONNECTING else "peer_lost"), now_s)

    def on_message(self, link: int, message: Message, now_s: float) -> list[PullerAction]:
        if link != self._link or self.state in (State.IDLE, State.STOPPING):
            return []
        self._heard_s = now_s
        match message, self.state:
            case Greeting(), State.GREETING:
                return self._greet(message, now_s)
            case Welcome(), State.HELLO:
                return self._accept(message, now_s)
            case Refuse(), _ if self.state in _HANDSHAKE:
                return self._break(f"refused_{message.reason}", now_s)
            case Attached(), State.ATTACHING:
                self.state, self._used_s = State.OPEN, now_s
                return self._advance(now_s)
            case Ready(), State.OPEN if self._is_asked(message.transfer):
                return self._receive()
            case Reject(), State.OPEN if self._is_asked(message.transfer):
                return self._on_reject(message, now_s)
            case Pong(), State.OPEN:
                return []
        return self._break("protocol_error", now_s)

    def on_received(self, link: int, transfer: int, chunks: int, fault: str | None, now_s: float) -> list[PullerAction]:
        """The transport is through with a Receive: `chunks` chunks came, then `fault` or the end."""
        active = self._active
        assert active is not None
        assert (active.transfer, self._link) == (transfer, link)
        self._active = None
        if self.state is State.STOPPING:
            self.state = State.IDLE
            reason = self._stop_reason if fault is not None else None
            return [*self._finish(active.job, chunks, reason, now_s), *self._advance(now_s)]
        ended = self._finish(active.job, chunks, fault, now_s)
        if fault is not None:
            return [*ended, *self._break(fault, now_s, is_counted=False)]
        self.circuit.on_success()
        return [*ended, *self._advance(now_s)]

    def on_tick(self, now_s: float) -> list[PullerAction]:
        self._releases = [entry for entry in self._releases if entry[1] > now_s]
        actions: list[PullerAction] = []
        for job, end_by_s in list(self._queue.values()):
            if end_by_s <= now_s:
                del self._queue[job.key]
                actions += self._finish(job, 0, "queue_timeout", now_s)
        if reason := self._find_overdue(now_s):
            return actions + self._break(reason, now_s)
        if self.state is State.OPEN:
            actions += self._keep_alive(now_s)
        return actions + self._advance(now_s)

    # Decisions

    def _has_work(self) -> bool:
        return bool(self._queue or self._releases or self._watched or self._active)

    def _may_connect(self, now_s: float) -> bool:
        if self.circuit.is_open(now_s):
            return False
        return bool(self._queue) or (self._has_work() and now_s >= self._retry_at_s)

    def _is_asked(self, transfer: int) -> bool:
        active = self._active
        return active is not None and not active.is_receiving and active.transfer == transfer

    def _advance(self, now_s: float) -> list[PullerAction]:
        if self.state is State.IDLE and self._may_connect(now_s):
            self._link += 1
            self.state, self._since_s, self._heard_s = State.CONNECTING, now_s, now_s
            return [Connect(self._link)]
        if self.state is not State.OPEN:
            return []
        if self._has_work():
            self._used_s = now_s
        actions: list[PullerAction] = [Send(self._link, Release(ticket=ticket)) for ticket, _ in self._releases]
        self._releases = []
        if self._queue and self._active is None:
            actions.append(self._ask(now_s))
        return actions

    def _ask(self, now_s: float) -> PullerAction:
        job, _ = self._queue.pop(next(iter(self._queue)))
        self._transfers += 1
        self._active = _Active(job, self._transfers, now_s + self.limits.ready_s, now_s + self.limits.transfer_s)
        heads = [(part.first, part.count) for part in job.remote_heads]
        blocks = [list(ids) for ids in job.remote_blocks]
        return Send(self._link, Pull(transfer=self._transfers, ticket=job.ticket, blocks=blocks, heads=heads))

    def _greet(self, greeting: Greeting, now_s: float) -> list[PullerAction]:
        if greeting.protocol not in PROTOCOLS_SPOKEN:
            return self._break("mismatch_protocol", now_s)
        hello = Hello(protocol=PROTOCOL, nonce=self._nonce, engine=self.me)
        self.state = State.HELLO
        return [Send(self._link, seal_hello(hello, greeting.nonce, self.signer))]

    def _accept(self, welcome: Welcome, now_s: float) -> list[PullerAction]:
        if not is_welcome_authentic(welcome, self._nonce, self.signer):
            return self._break("bad_welcome_mac", now_s)
        if mismatch := find_mismatch(self.me, welcome.engine):
            return self._break(mismatch.reason, now_s)
        if welcome.engine.engine_id != self.peer_engine_id:
            return self._break("stale_engine", now_s)
        choice = decide_transport(self.me, welcome.engine)
        if choice.transport != welcome.transport:
            return self._break("mismatch_transport", now_s)
        self._chunk_bytes, self.fallback = welcome.chunk_bytes, choice.fallback
        self.state = State.ATTACHING
        counted: list[PullerAction] = [FellBack(choice.fallback)] if choice.fallback else []
        return [Attach(self._link, welcome.endpoint, choice.transport), *counted]

    def _receive(self) -> list[PullerAction]:
        assert self._active is not None
        self._active.is_receiving = True
        return [Receive(self._link, self._active.transfer, self._active.job, self._chunk_bytes)]

    def _on_reject(self, reject: Reject, now_s: float) -> list[PullerAction]:
        assert self._active is not None
        job, self._active = self._active.job, None
        return [*self._finish(job, 0, f"rejected_{reject.reason}", now_s), *self._advance(now_s)]

    def _finish(self, job: Job, chunks: int, fault: str | None, now_s: float) -> list[PullerAction]:
        """The one place where a job ends. Whatever happened, the peer may free its blocks."""
        self._releases.append((job.ticket, now_s + self.limits.release_s))
        counted: list[PullerAction] = [Failed(fault)] if fault not in (None, CANCELLED) else []
        return [Finished(job, chunks, self._chunk_bytes, fault), *counted]

    def _find_overdue(self, now_s: float) -> str | None:
        if self.state in _HANDSHAKE:
            return "handshake_timeout" if now_s - self._since_s > self.limits.handshake_s else None
        if self.state is not State.OPEN:
            return None
        if now_s - self._heard_s > self.limits.silence_s:
            return "peer_silent"
        if self._active is None:
            return None
        if not self._active.is_receiving and self._active.ready_by_s <= now_s:
            return "ready_timeout"
        return "transfer_timeout" if self._active.end_by_s <= now_s else None

    def _keep_alive(self, now_s: float) -> list[PullerAction]:
        if not self._has_work() and now_s - self._used_s > self.limits.idle_close_s:
            self.state = State.IDLE
            return [Disconnect(self._link)]
        if now_s - self._pinged_s < self.limits.heartbeat_s:
            return []
        self._pinged_s = now_s
        return [Send(self._link, Ping(renew=sorted(set(self._watched.values()))))]

    def _break(self, reason: str, now_s: float, *, is_counted: bool = True) -> list[PullerAction]:
        """End the session. What was being received fails; what waits is tried again on a new session, unless it was
        the handshake that failed or the circuit has opened."""
        is_handshake_fault = self.state is not State.OPEN
        actions: list[PullerAction] = [Disconnect(self._link)]
        self.state = State.IDLE
        if reason != CANCELLED:
            self.circuit.on_failure(now_s)
            self._retry_at_s = now_s + self.limits.heartbeat_s
        ended: list[PullerAction] = []
        if self._active is not None and self._active.is_receiving:
            self.state, self._stop_reason = State.STOPPING, reason
            ended.append(StopReceive(self._link))
        elif self._active is not None:
            job, self._active = self._active.job, None
            ended += self._finish(job, 0, reason, now_s)
        if is_handshake_fault or self.circuit.is_open(now_s):
            ended += self._fail_queue(reason, now_s)
        if not ended and is_counted and self._has_work():  # else once per job; an idle session may end
            ended.append(Failed(reason))
        return [*actions, *ended] if self.state is State.STOPPING else [*actions, *ended, *self._advance(now_s)]

    def _fail_queue(self, reason: str, now_s: float) -> list[PullerAction]:
        actions: list[PullerAction] = []
        for job, _ in self._queue.values():
            actions += self._finish(job, 0, reason, now_s)
        self._queue.clear()
        return actions

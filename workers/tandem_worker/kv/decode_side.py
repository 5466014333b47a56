"""I/O shell of the decode side: one Puller per prefill rank, and what their pulls add up to per request."""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tandem_api.worker import LOADS_REMEMBERED
from tandem_worker.kv.attachments import dial
from tandem_worker.kv.datapath import DataPath, Moved, Order, Reports
from tandem_worker.kv.guards import Guard
from tandem_worker.kv.link import ControlLink
from tandem_worker.kv.loads import Load, LoadResult
from tandem_worker.kv.messages import Message
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
from tandem_worker.kv.puller import Puller, State
from tandem_worker.kv.recent_loads import RecentLoad, RecentLoads
from tandem_worker.kv.tls import name_tls_fault
from tandem_worker.kv.transport import Edge, Transport
from tandem_worker.kv.wiring import Wiring

_NONCE_BYTES = 16
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One prefill rank of one start of an engine."""

    host: str
    port: int
    engine_id: str


@dataclass(slots=True)
class _Dealings:
    peer: Peer
    puller: Puller
    links: dict[int, ControlLink] = field(default_factory=dict)
    paths: dict[int, DataPath] = field(default_factory=dict)


class DecodeSide:
    """Runs in the KV thread's event loop. `on_loaded` is told of each load's end, exactly once."""

    def __init__(
        self,
        make_puller: Callable[[Peer], Puller],
        wiring: Wiring,
        on_loaded: Callable[[LoadResult], None],
    ) -> None:
        self._make_puller = make_puller
        self._wiring = wiring
        self._counters = wiring.counters
        self._on_loaded = on_loaded
        self._peers: dict[Peer, _Dealings] = {}
        self._loads: dict[str, Load] = {}
        self._recent = RecentLoads(LOADS_REMEMBERED)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def session_count(self) -> int:
        return sum(dealings.puller.state is State.OPEN for dealings in self._peers.values())

    @property
    def fallbacks(self) -> set[str]:
        """Why sessions that are open now do not use the transport that was asked for."""
        pullers = (dealings.puller for dealings in self._peers.values())
        return {puller.fallback for puller in pullers if puller.state is State.OPEN and puller.fallback}

    @property
    def open_circuits(self) -> list[str]:
        now_s = _now_s()
        open_ones = (peer for peer, it in self._peers.items() if it.puller.circuit.is_open(now_s))
        return [f"{peer.host}:{peer.port}" for peer in open_ones]

    def find_load(self, remote_request_id: str) -> RecentLoad | None:
        """What came of a load that has ended, unless it was long ago."""
        return self._recent.find(remote_request_id)

    def load(self, load: Load, pulls: Sequence[tuple[Peer, Job]]) -> None:
        """Begin a load of one or several pulls; `load.open_pulls` is their number."""
        self._loads[load.request_id] = load
        for peer, job in pulls:
            self._tell(peer, partial(Puller.submit, job=job, now_s=_now_s()))

    def cancel(self, request_id: str, peers: Sequence[Peer]) -> None:
        for peer in peers:
            self._tell(peer, lambda puller: puller.cancel(request_id, _now_s()))

    def release(self, ticket: dict[str, Any], peers: Sequence[Peer]) -> None:
        for peer in peers:
            self._tell(peer, lambda puller: puller.release(ticket, _now_s()))

    def watch(self, request_id: str, remote_request_id: str, peers: Sequence[Peer]) -> None:
        for peer in peers:
            self._tell(peer, lambda puller: puller.watch(request_id, remote_request_id, _now_s()))

    def unwatch(self, request_id: str, peers: Sequence[Peer]) -> None:
        for peer in peers:
            if dealings := self._peers.get(peer):
                dealings.puller.unwatch(request_id)

    def tick(self) -> None:
        now_s = _now_s()
        for peer, dealings in list(self._peers.items()):
            self._perform(dealings, dealings.puller.on_tick(now_s))
            if dealings.puller.is_disposable(now_s) and not dealings.paths:
                del self._peers[peer]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for dealings in list(self._peers.values()):
            for path in list(dealings.paths.values()):
                path.close()
                await asyncio.to_thread(path.join, _STOP_S)  # its last reports need this loop
            for link in dealings.links.values():
                link.close()

    def _tell(self, peer: Peer, order: Callable[[Puller], list[PullerAction]]) -> None:
        if peer not in self._peers:
            self._peers[peer] = _Dealings(peer, self._make_puller(peer))
        dealings = self._peers[peer]
        self._perform(dealings, order(dealings.puller))

    def _perform(self, dealings: _Dealings, actions: Sequence[PullerAction]) -> None:
        for action in actions:
            match action:
                case Connect(link):
                    self._spawn(self._converse(dealings, link))
                case Send(link, message):
                    dealings.links[link].send(message)
                case Attach(link, endpoint, transport):
                    self._attach(dealings, link, endpoint, self._wiring.transports[transport])
                case Receive(link, transfer, job, chunk_bytes):
                    order = Order(transfer, job.local_blocks, job.local_heads, chunk_bytes, is_send=False)
                    dealings.paths[link].give(order)
                case StopReceive(link):
                    dealings.paths[link].abort()
                case Disconnect(link):
                    self._disconnect(dealings, link)
                case Finished():
                    self._on_finished(dealings.peer, action)
                case Failed() | FellBack():
                    self._count(action)

    def _count(self, action: Failed | FellBack) -> None:
        tally = self._counters.failures if isinstance(action, Failed) else self._counters.fallbacks
        tally[action.reason] += 1

    def _on_finished(self, peer: Peer, end: Finished) -> None:
        load = self._loads[end.job.key]
        result = load.on_pulled(self._wiring.layout, end.job.local_heads, end.chunk_bytes, end.chunks, end.fault)
        if result is not None:
            del self._loads[end.job.key]
            self._recent.remember(str(end.job.ticket["remote_request_id"]), peer.host, result)
            self._on_loaded(result)

    def _disconnect(self, dealings: _Dealings, link: int) -> None:
        if control := dealings.links.pop(link, None):
            control.close()
        if path := dealings.paths.get(link):
            path.close()  # it is forgotten when its thread has answered all it was given

    async def _converse(self, dealings: _Dealings, link: int) -> None:
        puller = dealings.puller
        try:
            control = await _connect(dealings.peer, self._wiring.guard, puller.limits.handshake_s)
        except ssl.SSLError as error:
            self._perform(dealings, puller.on_lost(link, _now_s(), name_tls_fault(error)))
            return
        except (OSError, TimeoutError, UnicodeError):  # the last: a host name that cannot be one
            self._perform(dealings, puller.on_lost(link, _now_s()))
            return
        dealings.links[link] = control
        self._perform(dealings, puller.on_connected(link, secrets.token_hex(_NONCE_BYTES)))

        def take(message: Message) -> None:
            self._perform(dealings, puller.on_message(link, message, _now_s()))

        fault = await control.pump(take)
        self._perform(dealings, puller.on_lost(link, _now_s(), fault))
        self._disconnect(dealings, link)

    def _attach(self, dealings: _Dealings, link: int, endpoint: dict[str, str], transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        address = (dealings.peer.host, dealings.peer.port)
        timeout_s = dealings.puller.limits.handshake_s

        def open_edge() -> Edge:
            return transport.open_edge(dial(self._wiring.guard, endpoint, address, timeout_s))

        def opened(fault: str | None) -> None:
            if fault is not None:
                loop.call_soon_threadsafe(self._on_attach_failed, dealings, link, fault)

        def moved(result: Moved) -> None:
            loop.call_soon_threadsafe(self._on_moved, dealings, link, result)

        def ended() -> None:
            loop.call_soon_threadsafe(partial(dealings.paths.pop, link, None))

        reports = Reports(opened, moved, ended)
        dealings.paths[link] = DataPath(self._wiring.layout, self._wiring.pace, open_edge, reports)

    def _on_attach_failed(self, dealings: _Dealings, link: int, fault: str) -> None:
        self._perform(dealings, dealings.puller.on_lost(link, _now_s(), fault))
        self._disconnect(dealings, link)

    def _on_moved(self, dealings: _Dealings, link: int, moved: Moved) -> None:
        self._counters.bytes_received += moved.size_bytes
        if moved.fault is None:
            self._counters.transfers += 1
            self._counters.transfer_seconds += moved.seconds
        received = dealings.puller.on_received(link, moved.transfer, moved.chunks, moved.fault, _now_s())
        self._perform(dealings, received)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _connect(peer: Peer, guard: Guard, timeout_s: float) -> ControlLink:
    """Raises OSError, TimeoutError."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(peer.host, peer.port)
    writer.write(guard.control_magic)
    try:
        await guard.secure(writer, timeout_s)
    except BaseException:
        writer.close()
        raise
    return ControlLink(reader, writer)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

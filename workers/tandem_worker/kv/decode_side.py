"""I/O shell of the decode side: one Puller per prefill rank, and what their pulls add up to per request."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tandem_api.worker import LOADS_REMEMBERED
from tandem_worker.kv.counters import Counters
from tandem_worker.kv.datapath import DataPath, Moved, Order, Pace, Reports
from tandem_worker.kv.layout import KvLayout
from tandem_worker.kv.link import ControlLink
from tandem_worker.kv.loads import Load, LoadResult
from tandem_worker.kv.messages import Message
from tandem_worker.kv.puller import (
    Attach,
    Connect,
    Disconnect,
    Failed,
    Finished,
    Job,
    Puller,
    PullerAction,
    Receive,
    Send,
    State,
    StopReceive,
)
from tandem_worker.kv.recent_loads import RecentLoad, RecentLoads
from tandem_worker.kv.tcp import CONTROL_MAGIC
from tandem_worker.kv.transport import Edge, Transport

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
        transport: Transport,
        layout: KvLayout,
        pace: Pace,
        counters: Counters,
        on_loaded: Callable[[LoadResult], None],
    ) -> None:
        self._make_puller = make_puller
        self._transport = transport
        self._layout = layout
        self._pace = pace
        self._counters = counters
        self._on_loaded = on_loaded
        self._peers: dict[Peer, _Dealings] = {}
        self._loads: dict[str, Load] = {}
        self._recent = RecentLoads(LOADS_REMEMBERED)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def session_count(self) -> int:
        return sum(dealings.puller.state is State.OPEN for dealings in self._peers.values())

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
                case Attach(link, endpoint):
                    self._attach(dealings, link, endpoint)
                case Receive(link, transfer, job, chunk_bytes):
                    order = Order(transfer, job.local_blocks, job.local_heads, chunk_bytes, is_send=False)
                    dealings.paths[link].give(order)
                case StopReceive(link):
                    dealings.paths[link].abort()
                case Disconnect(link):
                    self._disconnect(dealings, link)
                case Finished():
                    self._on_finished(dealings.peer, action)
                case Failed(reason):
                    self._counters.failures[reason] += 1

    def _on_finished(self, peer: Peer, end: Finished) -> None:
        load = self._loads[end.job.key]
        result = load.on_pulled(self._layout, end.job.local_heads, end.chunk_bytes, end.chunks, end.fault)
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
            control = await _connect(dealings.peer, puller.limits.handshake_s)
        except (OSError, TimeoutError, UnicodeError):  # the last: a host name that cannot be one
            self._perform(dealings, puller.on_lost(link, _now_s()))
            return
        dealings.links[link] = control
        self._perform(dealings, puller.on_connected(link, secrets.token_hex(_NONCE_BYTES)))

        def take(message: Message) -> None:
            self._perform(dealings, puller.on_message(link, message, _now_s()))

        await control.pump(take)
        self._perform(dealings, puller.on_lost(link, _now_s()))
        self._disconnect(dealings, link)

    def _attach(self, dealings: _Dealings, link: int, endpoint: dict[str, str]) -> None:
        loop = asyncio.get_running_loop()
        address = (dealings.peer.host, dealings.peer.port)
        timeout_s = dealings.puller.limits.handshake_s

        def open_edge() -> Edge:
            return self._transport.open_decode(endpoint, address, timeout_s)

        def opened(fault: str | None) -> None:
            if fault is not None:
                loop.call_soon_threadsafe(self._on_attach_failed, dealings, link)

        def moved(result: Moved) -> None:
            loop.call_soon_threadsafe(self._on_moved, dealings, link, result)

        def ended() -> None:
            loop.call_soon_threadsafe(partial(dealings.paths.pop, link, None))

        reports = Reports(opened, moved, ended)
        dealings.paths[link] = DataPath(self._layout, self._pace, open_edge, reports)

    def _on_attach_failed(self, dealings: _Dealings, link: int) -> None:
        self._perform(dealings, dealings.puller.on_lost(link, _now_s()))
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


async def _connect(peer: Peer, timeout_s: float) -> ControlLink:
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(peer.host, peer.port)
    writer.write(CONTROL_MAGIC)
    return ControlLink(reader, writer)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

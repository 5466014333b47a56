"""The KV thread of a rank: one event loop that owns all sessions; the engine speaks to it through `KvService`."""

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem_worker.kv.circuit import Circuit
from tandem_worker.kv.counters import Counters
from tandem_worker.kv.datapath import Pace
from tandem_worker.kv.decode_side import DecodeSide, Peer
from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.guards import OpenGuard
from tandem_worker.kv.keys import KeyFiles, Signer
from tandem_worker.kv.layout import KvLayout
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.loads import Load, LoadResult
from tandem_worker.kv.local_server import serve_local
from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.messages import Engine
from tandem_worker.kv.params import TicketError, read_ticket
from tandem_worker.kv.prefill_side import PrefillSide
from tandem_worker.kv.provider import Provider, ProviderLimits
from tandem_worker.kv.pull_actions import Job
from tandem_worker.kv.puller import Puller, PullerLimits
from tandem_worker.kv.settings import KvSettings
from tandem_worker.kv.tls import TlsGuard
from tandem_worker.kv.transports import open_transports
from tandem_worker.kv.wiring import Wiring

logger = logging.getLogger(__name__)
_TICK_S = 0.1
_START_TIMEOUT_S = 10
_MIN_SUBSTRING = 8

Memory = HostMemory | DeviceMemory


class KvServiceError(RuntimeError):
    """The KV thread could not start; the message says why."""


@dataclass
class Results:
    """What the KV thread has for the engine's next step."""

    sent: set[str] = field(default_factory=set)
    loaded: list[LoadResult] = field(default_factory=list)


class KvService:
    """Thread-safe: every public method may be called from the engine's thread and returns at once."""

    def __init__(self, engine: Engine, settings: KvSettings, layout: KvLayout, memory: Memory) -> None:
        """Does no I/O until `start`."""
        self._engine = engine
        self._settings = settings
        self._layout = layout
        self._memory = memory
        self._counters = Counters()
        self._lock = threading.Lock()
        self._results = Results()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._fault: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tandem-kv", daemon=True)

    def start(self) -> None:
        """Listen on the rank's port and local socket. Raises KvServiceError."""
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise KvServiceError("the KV thread did not start in time")
        if self._fault is not None:
            raise KvServiceError(f"the KV thread could not start: {self._fault}") from self._fault

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_TIMEOUT_S)

    def register_lease(self, request_id: str, blocks: Sequence[Sequence[int]]) -> None:
        """Prefill finished; keep these blocks (ids per group) until `take_results().sent` names the request."""
        self._post(self._on_lease, request_id, blocks)

    def load(self, load: Load, pulls: Sequence[tuple[Peer, Job]]) -> None:
        """Begin a load; `take_results().loaded` will hold its result, once."""
        self._post(lambda: self._decode.load(load, pulls))

    def cancel(self, request_id: str, peers: Sequence[Peer]) -> None:
        """The request was aborted; its load ends as soon as its blocks are safe."""
        self._post(lambda: self._decode.cancel(request_id, peers))

    def release(self, ticket: dict[str, Any], peers: Sequence[Peer]) -> None:
        """Nobody here will pull this ticket."""
        self._post(lambda: self._decode.release(ticket, peers))

    def watch(self, request_id: str, remote_request_id: str, peers: Sequence[Peer]) -> None:
        """Keep the lease alive while the request waits for room."""
        self._post(lambda: self._decode.watch(request_id, remote_request_id, peers))

    def unwatch(self, request_id: str, peers: Sequence[Peer]) -> None:
        self._post(lambda: self._decode.unwatch(request_id, peers))

    def count(self, failures: dict[str, int], recomputed_tokens: int) -> None:
        """Add what the engine's scheduler saw."""
        self._post(self._count, failures, recomputed_tokens)

    def take_results(self) -> Results:
        """Raises KvServiceError when the KV thread has died: requests would wait for it for ever."""
        if self._fault is not None:
            raise KvServiceError(f"the KV thread ended: {self._fault!r}") from self._fault
        with self._lock:
            results, self._results = self._results, Results()
        return results

    # In the KV thread

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, *arguments)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as fault:  # a thread has nobody to raise to; start() and take_results() raise it
            self._fault = fault
            logger.exception("the KV thread ended")
        finally:
            self._started.set()

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A bug in a callback: a lost action could leave a request waiting for ever, so better to end loudly."""
        loop.default_exception_handler(context)
        if self._fault is None and isinstance(fault := context.get("exception"), Exception):
            self._fault = fault
            self._stop.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_fault)
        signer = KeyFiles(self._settings.keys_dir)
        guard = OpenGuard() if self._settings.tls_dir is None else TlsGuard(self._settings.tls_dir)
        self._transports = transports = open_transports(self._settings, self._layout, self._memory)
        nccl = {"nccl_version": transports.nccl_version, "nccl_missing": transports.nccl_missing}
        self._engine = self._engine.model_copy(update=nccl)
        self._signer: Signer = signer
        wiring = Wiring(guard, transports.by_name, self._layout, self._pace(), self._counters)
        self._prefill = self._make_prefill(signer, wiring)
        self._decode = self._make_decode(signer, wiring)
        rank = self._engine.tp_rank
        with _listen(self._settings.bind_host, self._settings.port + rank) as listener:
            self._prefill.serve(listener)
            async with serve_local(self._settings.local_socket(rank), self._answer):
                self._started.set()
                await self._tick_until_stopped()
        await self._prefill.stop()
        await self._decode.stop()
        for transport in transports.by_name.values():
            transport.stop()

    async def _tick_until_stopped(self) -> None:
        while not self._stop.is_set():
            self._prefill.tick()
            self._decode.tick()
            for transport in self._transports.by_name.values():
                transport.tick()
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def _make_prefill(self, signer: Signer, wiring: Wiring) -> PrefillSide:
        limits = _provider_limits(self._settings)
        leases = LeaseTable(self._settings.lease_s, self._settings.tombstone_s)
        provider = Provider(self._engine, signer, leases, limits)
        return PrefillSide(provider, wiring, self._on_freed)

    def _make_decode(self, signer: Signer, wiring: Wiring) -> DecodeSide:
        settings = self._settings

        def make_puller(peer: Peer) -> Puller:
            circuit = Circuit(settings.circuit_failures, settings.circuit_cooldown_s)
            return Puller(self._engine, peer.engine_id, signer, _puller_limits(settings), circuit)

        return DecodeSide(make_puller, wiring, self._on_loaded)

    def _pace(self) -> Pace:
        settings = self._settings
        corrupted = self._memory if settings.corrupt_for_test else None
        floor = settings.chunk_floor_bytes_per_s
        return Pace(settings.chunk_timeout_s, floor, settings.chunk_delay_s_for_test, corrupted)

    def _on_lease(self, request_id: str, blocks: Sequence[Sequence[int]]) -> None:
        self._prefill.perform(self._prefill.provider.on_lease(request_id, blocks, time.monotonic()))

    def _on_freed(self, request_ids: Sequence[str]) -> None:
        with self._lock:
            self._results.sent.update(request_ids)

    def _on_loaded(self, result: LoadResult) -> None:
        if self._engine.tp_rank == 0:
            self._counters.remote_tokens += result.remote_tokens
            self._counters.recomputed_tokens += result.recomputed_tokens
        with self._lock:
            self._results.loaded.append(result)

    def _count(self, failures: dict[str, int], recomputed_tokens: int) -> None:
        if self._engine.tp_rank == 0:
            self._counters.failures.update(failures)
            self._counters.recomputed_tokens += recomputed_tokens

    # The local socket's requests

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"op": "stats"}:
                return self._stats()
            case {"op": "load", "request_id": str(remote_request_id)}:
                load = self._decode.find_load(remote_request_id)
                return {"load": load.to_dict() if load else None}
            case {"op": "release", "request_id": str(substring)} if len(substring) >= _MIN_SUBSTRING:
                return self._release_order(substring)
            case {"op": "release", "params": dict(params)}:
                return self._release_params(params)
        known = f"stats, load with request_id, or release with request_id (>= {_MIN_SUBSTRING} long) or params"
        return {"error": f"unknown op; {known}"}

    def _stats(self) -> dict[str, Any]:
        leases = self._prefill.provider.leases
        sessions = self._prefill.provider.session_count + self._decode.session_count
        now: dict[str, Any] = {"leases": len(leases), "lease_blocks": leases.block_count, "sessions": sessions}
        now["fallback"] = self._find_fallback()
        for transport in self._transports.by_name.values():
            now |= transport.report()
        return now | self._counters.to_dict() | {"circuits_open": self._decode.open_circuits}

    def _find_fallback(self) -> str | None:
        """Why KV does not move over the transport that was asked for, as far as that is known now."""
        reasons = self._prefill.provider.fallbacks | self._decode.fallbacks
        return self._transports.nccl_missing or min(reasons, default=None)

    def _release_params(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            ticket = read_ticket(params, self._settings.fleet, self._signer)
        except TicketError as error:
            return {"error": str(error), "reason": error.reason}
        return self._release_order(ticket.remote_request_id)

    def _release_order(self, substring: str) -> dict[str, Any]:
        before = len(self._prefill.provider.leases)
        self._prefill.perform(self._prefill.provider.on_release_order(substring, time.monotonic()))
        return {"released": before - len(self._prefill.provider.leases)}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=256)
    listener.setblocking(False)
    return listener


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False  # a name: its IPv4 address


def _provider_limits(settings: KvSettings) -> ProviderLimits:
    handshake_s = settings.connect_timeout_s + settings.handshake_timeout_s
    return ProviderLimits(handshake_s, settings.silence_s, settings.lease_wait_s, settings.max_sessions)


def _puller_limits(settings: KvSettings) -> PullerLimits:
    return PullerLimits(
        handshake_s=settings.connect_timeout_s + settings.handshake_timeout_s,
        ready_s=settings.lease_wait_s + settings.handshake_timeout_s,
        transfer_s=settings.transfer_timeout_s,
        heartbeat_s=settings.heartbeat_s,
        silence_s=settings.silence_s,
        idle_close_s=settings.idle_close_s,
        release_s=settings.lease_s,
    )

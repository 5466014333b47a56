"""I/O shell of the prefill side: the rank's one listener, and the actions of its Provider."""

import asyncio
import secrets
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial

from tandem_worker.kv.attachments import TOKEN_BYTES, Attachments
from tandem_worker.kv.datapath import DataPath, Moved, Order, Reports
from tandem_worker.kv.guards import MAGIC_BYTES, MAGICS
from tandem_worker.kv.link import ControlLink
from tandem_worker.kv.messages import Message, Refuse, encode_frame
from tandem_worker.kv.provider import (
    Close,
    Failed,
    FellBack,
    Freed,
    OpenData,
    Provider,
    ProviderAction,
    Send,
    StartSend,
    StopSend,
)
from tandem_worker.kv.tls import name_tls_fault
from tandem_worker.kv.transport import Edge, Transport
from tandem_worker.kv.wiring import Wiring

_NONCE_BYTES = 16
_STOP_S = 5.0


class PrefillSide:
    """Runs in the KV thread's event loop. `on_freed` is told which requests' blocks may be reused."""

    def __init__(
        self,
        provider: Provider,
        wiring: Wiring,
        on_freed: Callable[[Sequence[str]], None],
    ) -> None:
        self._provider = provider
        self._guard = wiring.guard
        self._attachments = Attachments(wiring.guard)
        self._wiring = wiring
        self._counters = wiring.counters
        self._on_freed = on_freed
        self._links: dict[int, ControlLink] = {}
        self._paths: dict[int, DataPath] = {}
        self._accepted = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def provider(self) -> Provider:
        return self._provider

    def serve(self, listener: socket.socket) -> None:
        """Accept peers until `stop`."""
        self._spawn(self._accept(listener))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for path in list(self._paths.values()):
            path.close()
            await asyncio.to_thread(path.join, _STOP_S)  # its last reports need this loop
        for link in self._links.values():
            link.close()

    def perform(self, actions: Sequence[ProviderAction]) -> None:
        for action in actions:
            self._perform(action)

    def tick(self) -> None:
        self.perform(self._provider.on_tick(_now_s()))

    def _perform(self, action: ProviderAction) -> None:
        match action:
            case Send(connection, message):
                if link := self._links.get(connection):
                    link.send(message)
            case Close(connection):
                self._close(connection)
            case OpenData(connection, endpoint, transport):
                self._open_data(connection, endpoint, self._wiring.transports[transport])
            case StartSend(connection, transfer, blocks, heads, chunk_bytes):
                self._paths[connection].give(Order(transfer, blocks, heads, chunk_bytes, is_send=True))
            case StopSend(connection):
                self._paths[connection].abort()
            case Freed(request_ids):
                self._on_freed(request_ids)
            case Failed(reason):
                self._counters.failures[reason] += 1
            case FellBack(reason):
                self._counters.fallbacks[reason] += 1

    def _close(self, connection: int) -> None:
        if link := self._links.pop(connection, None):
            link.close()
        if path := self._paths.get(connection):
            path.close()  # it is forgotten when its thread has answered all it was given

    def _open_data(self, connection: int, endpoint: dict[str, str], transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self._provider.limits.handshake_s
        self._attachments.expect(endpoint)

        def opened(fault: str | None) -> None:
            loop.call_soon_threadsafe(self._on_opened, connection, fault)

        def moved(result: Moved) -> None:
            loop.call_soon_threadsafe(self._on_moved, connection, result)

        def ended() -> None:
            loop.call_soon_threadsafe(partial(self._paths.pop, connection, None))

        def open_edge() -> Edge:
            return transport.open_edge(self._attachments.await_line(endpoint, timeout_s))

        self._paths[connection] = DataPath(
            self._wiring.layout, self._wiring.pace, open_edge, Reports(opened, moved, ended)
        )

    def _on_opened(self, connection: int, fault: str | None) -> None:
        if fault is None:
            self.perform(self._provider.on_attached(connection))
        elif fault != "attach_timeout":  # which the provider's own deadline for the handshake counts
            self._counters.failures[fault] += 1

    def _on_moved(self, connection: int, moved: Moved) -> None:
        self._counters.bytes_sent += moved.size_bytes
        if moved.fault is None:
            self._counters.transfers += 1
            self._counters.transfer_seconds += moved.seconds
        self.perform(self._provider.on_sent(connection, moved.transfer, moved.fault, _now_s()))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            self._spawn(self._route(connection))

    async def _route(self, connection: socket.socket) -> None:
        """Control and data arrive at one port; the first four bytes say which, and whether TLS follows."""
        guard = self._guard
        try:
            async with asyncio.timeout(self._provider.limits.handshake_s):
                magic = await _receive_exactly(connection, MAGIC_BYTES)
                token = await _receive_exactly(connection, TOKEN_BYTES) if magic == guard.data_magic else b""
        except (OSError, TimeoutError):
            magic = b""
        if magic == guard.data_magic:
            self._attachments.deliver(token, connection)
        elif magic == guard.control_magic:
            await self._converse(connection)
        else:
            await self._turn_away(connection, guard.refusal if magic in MAGICS else "not_our_protocol")

    async def _turn_away(self, connection: socket.socket, reason: str) -> None:
        """A worker that is told otherwise than this one learns why; a stranger learns nothing."""
        self._counters.failures[reason] += 1
        with connection, suppress(OSError):
            if reason == self._guard.refusal:
                detail = "kvTransfer.tls must be the same on both sides"
                await asyncio.get_running_loop().sock_sendall(
                    connection, encode_frame(Refuse(reason=reason, detail=detail))
                )

    async def _converse(self, connection: socket.socket) -> None:
        try:
            streams = await _open_streams(connection, self._guard.server_context(), self._provider.limits.handshake_s)
        except ssl.SSLError as error:
            self._counters.failures[name_tls_fault(error)] += 1
            return
        except OSError:  # it left again
            if self._guard.server_context() is not None:
                self._counters.failures["tls_failed"] += 1
            return
        number = self._accepted = self._accepted + 1
        link = self._links[number] = ControlLink(*streams)
        nonce = secrets.token_hex(_NONCE_BYTES)
        self.perform(self._provider.on_connect(number, nonce, self._attachments.offer(), _now_s()))

        def take(message: Message) -> None:
            self.perform(self._provider.on_message(number, message, _now_s()))

        await link.pump(take)
        self.perform(self._provider.on_close(number))
        self._close(number)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _open_streams(
    connection: socket.socket, context: ssl.SSLContext | None, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over an accepted connection, after the TLS handshake where there is one. Raises OSError."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    handshake_s = timeout_s if context else None
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, connection, ssl=context, ssl_handshake_timeout=handshake_s
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _receive_exactly(connection: socket.socket, size_bytes: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size_bytes:
        part = await loop.sock_recv(connection, size_bytes - len(data))
        if not part:
            raise ConnectionResetError("the peer left before it said what it wants")
        data += part
    return data


def _now_s() -> float:
    return asyncio.get_running_loop().time()

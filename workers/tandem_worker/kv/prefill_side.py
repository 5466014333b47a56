"""I/O shell of the prefill side: the rank's one listener, and the actions of its Provider."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from tandem_worker.kv.counters import Counters
from tandem_worker.kv.datapath import DataPath, Moved, Order, Pace, Reports
from tandem_worker.kv.layout import KvLayout
from tandem_worker.kv.link import ControlLink
from tandem_worker.kv.messages import Message
from tandem_worker.kv.provider import (
    Close,
    Failed,
    Freed,
    OpenData,
    Provider,
    ProviderAction,
    Send,
    StartSend,
    StopSend,
)
from tandem_worker.kv.tcp import CONTROL_MAGIC, DATA_MAGIC, TOKEN_BYTES
from tandem_worker.kv.transport import Edge, Transport

_NONCE_BYTES = 16
_STOP_S = 5.0


class PrefillSide:
    """Runs in the KV thread's event loop. `on_freed` is told which requests' blocks may be reused."""

    def __init__(
        self,
        provider: Provider,
        transport: Transport,
        layout: KvLayout,
        pace: Pace,
        counters: Counters,
        on_freed: Callable[[Sequence[str]], None],
    ) -> None:
        self._provider = provider
        self._transport = transport
        self._layout = layout
        self._pace = pace
        self._counters = counters
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
            case OpenData(connection, endpoint):
                self._open_data(connection, endpoint)
            case StartSend(connection, transfer, blocks, heads, chunk_bytes):
                self._paths[connection].give(Order(transfer, blocks, heads, chunk_bytes, is_send=True))
            case StopSend(connection):
                self._paths[connection].abort()
            case Freed(request_ids):
                self._on_freed(request_ids)
            case Failed(reason):
                self._counters.failures[reason] += 1

    def _close(self, connection: int) -> None:
        if link := self._links.pop(connection, None):
            link.close()
        if path := self._paths.get(connection):
            path.close()  # it is forgotten when its thread has answered all it was given

    def _open_data(self, connection: int, endpoint: dict[str, str]) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self._provider.limits.handshake_s
        self._transport.expect(endpoint)

        def opened(fault: str | None) -> None:
            loop.call_soon_threadsafe(self._on_opened, connection, fault)

        def moved(result: Moved) -> None:
            loop.call_soon_threadsafe(self._on_moved, connection, result)

        def ended() -> None:
            loop.call_soon_threadsafe(partial(self._paths.pop, connection, None))

        def open_edge() -> Edge:
            return self._transport.open_prefill(endpoint, timeout_s)

        self._paths[connection] = DataPath(self._layout, self._pace, open_edge, Reports(opened, moved, ended))

    def _on_opened(self, connection: int, fault: str | None) -> None:
        if fault is None:
            self.perform(self._provider.on_attached(connection))
        # otherwise the provider's handshake deadline ends the session

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
        """Control and data arrive at one port; the first four bytes say which."""
        try:
            async with asyncio.timeout(self._provider.limits.handshake_s):
                magic = await _receive_exactly(connection, len(CONTROL_MAGIC))
                token = await _receive_exactly(connection, TOKEN_BYTES) if magic == DATA_MAGIC else b""
        except (OSError, TimeoutError):
            magic = b""
        if magic == DATA_MAGIC:
            self._transport.deliver(token, connection)
        elif magic == CONTROL_MAGIC:
            await self._converse(connection)
        else:
            self._counters.failures["not_our_protocol"] += 1
            connection.close()

    async def _converse(self, connection: socket.socket) -> None:
        try:
            streams = await asyncio.open_connection(sock=connection)
        except OSError:
            return  # it left again
        number = self._accepted = self._accepted + 1
        link = self._links[number] = ControlLink(*streams)
        nonce = secrets.token_hex(_NONCE_BYTES)
        self.perform(self._provider.on_connect(number, nonce, self._transport.offer(), _now_s()))

        def take(message: Message) -> None:
            self.perform(self._provider.on_message(number, message, _now_s()))

        await link.pump(take)
        self.perform(self._provider.on_close(number))
        self._close(number)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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

"""The `tcp` transport: scatter/gather sockets straight from and into KV memory, no staging copy."""

import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence

from tandem_worker.kv.layout import Piece
from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.transport import ChunkLabel, Edge, TransportError

CONTROL_MAGIC = b"TKVC"
DATA_MAGIC = b"TKVD"
TOKEN_BYTES = 32
# magic, transfer, chunk, bytes of payload
_LABEL = struct.Struct("!4sQIQ")
_LABEL_MAGIC = b"TKV1"
_MAX_BUFFERS = 1024  # IOV_MAX of Linux


class TcpEdge:
    """One connected data socket. Kernel timeouts rather than Python's, so that one call moves a whole chunk."""

    def __init__(self, connection: socket.socket, memory: HostMemory) -> None:
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._memory = memory

    def send(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        header = _LABEL.pack(_LABEL_MAGIC, label.transfer, label.index, label.size_bytes)
        self._move([memoryview(header), *self._memory.views(pieces)], timeout_s, is_send=True)

    def receive(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        header = bytearray(_LABEL.size)
        self._move([memoryview(header)], timeout_s, is_send=False)
        expected = (_LABEL_MAGIC, label.transfer, label.index, label.size_bytes)
        if _LABEL.unpack(header) != expected:
            raise TransportError("out_of_step", "the data stream is not at the chunk that was agreed on")
        self._move(self._memory.views(pieces), timeout_s, is_send=False)

    def abort(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it was closed, or never connected: there is nothing to wake

    def close(self) -> None:
        self._socket.close()

    def _move(self, buffers: list[memoryview], timeout_s: float, *, is_send: bool) -> None:
        deadline_s = time.monotonic() + timeout_s
        while buffers:
            self._arm(deadline_s - time.monotonic(), is_send=is_send)
            moved = self._call(buffers[:_MAX_BUFFERS], is_send=is_send)
            if moved == 0:
                raise TransportError("peer_eof", "the peer closed the data connection")
            buffers = _skip(buffers, moved)

    def _arm(self, remaining_s: float, *, is_send: bool) -> None:
        if remaining_s <= 0:
            raise TransportError("chunk_timeout", "a chunk did not move within its deadline")
        timeval = struct.pack("ll", int(remaining_s), max(1, int(remaining_s % 1 * 1e6)))
        option = socket.SO_SNDTIMEO if is_send else socket.SO_RCVTIMEO
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, option, timeval)
        except OSError as error:
            raise TransportError("aborted", "the data connection was closed") from error

    def _call(self, buffers: list[memoryview], *, is_send: bool) -> int:
        try:
            if is_send:
                return self._socket.sendmsg(buffers)
            return self._socket.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]
        except BlockingIOError as error:
            raise TransportError("chunk_timeout", "a chunk did not move within its deadline") from error
        except OSError as error:
            raise TransportError("connection_lost", f"the data connection broke: {error.strerror}") from error


def _skip(buffers: list[memoryview], moved: int) -> list[memoryview]:
    """The buffers without their first `moved` bytes."""
    index = 0
    while index < len(buffers) and moved >= len(buffers[index]):
        moved -= len(buffers[index])
        index += 1
    rest = buffers[index:]
    if moved:
        rest[0] = rest[0][moved:]
    return rest


class TcpTransport:
    """Data connections arrive at the same listener as control, and name the session by a one-time token."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._arrived = threading.Condition()
        self._connections: dict[str, socket.socket | None] = {}

    def offer(self) -> dict[str, str]:
        return {"token": secrets.token_hex(TOKEN_BYTES // 2)}

    def expect(self, endpoint: dict[str, str]) -> None:
        with self._arrived:
            self._connections[endpoint["token"]] = None

    def open_prefill(self, endpoint: dict[str, str], timeout_s: float) -> Edge:
        token = endpoint["token"]
        with self._arrived:
            self._arrived.wait_for(lambda: self._connections[token] is not None, timeout_s)
            connection = self._connections.pop(token)
        if connection is None:
            raise TransportError("attach_timeout", "the peer made no data connection")
        return TcpEdge(connection, self._memory)

    def open_decode(self, endpoint: dict[str, str], address: tuple[str, int], timeout_s: float) -> Edge:
        token = endpoint.get("token", "").encode()
        if len(token) != TOKEN_BYTES:
            raise TransportError("bad_endpoint", "the peer offered no tcp endpoint")
        try:
            connection = socket.create_connection(address, timeout_s)
            connection.sendall(DATA_MAGIC + token)
        except OSError as error:
            raise TransportError("attach_failed", f"no data connection to the peer: {error}") from error
        return TcpEdge(connection, self._memory)

    def deliver(self, token: bytes, connection: socket.socket) -> None:
        with self._arrived:
            for known, arrived in self._connections.items():
                if arrived is None and hmac.compare_digest(known.encode(), token):
                    self._connections[known] = connection
                    self._arrived.notify_all()
                    return
        connection.close()

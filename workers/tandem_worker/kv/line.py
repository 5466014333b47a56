"""A data connection: exact runs of bytes with deadlines, and an abort that another thread may call."""

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Protocol

from tandem_worker.kv.transport import TransportError

_MAX_BUFFERS = 1024  # IOV_MAX of Linux


class Line(Protocol):
    """One thread uses it; any thread may abort it. Deadlines are of `time.monotonic()`."""

    def send(self, buffers: Sequence[memoryview], deadline_s: float) -> None:
        """All of `buffers`, in order. Raises TransportError."""

    def receive(self, buffers: Sequence[memoryview], deadline_s: float) -> None:
        """Fill `buffers`. Raises TransportError; then they hold garbage."""

    def is_ended(self) -> bool:
        """Whether the peer has closed it, or it was aborted. Takes nothing that was sent."""

    def abort(self) -> None:
        """Make a running and every later operation fail at once. Idempotent."""

    def close(self) -> None:
        """Called once, by the thread that used it."""


class PlainLine:
    """A TCP socket with the kernel's timeouts rather than Python's, so that one call moves a whole chunk."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    def send(self, buffers: Sequence[memoryview], deadline_s: float) -> None:
        self._move(list(buffers), deadline_s, is_send=True)

    def receive(self, buffers: Sequence[memoryview], deadline_s: float) -> None:
        self._move(list(buffers), deadline_s, is_send=False)

    def is_ended(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def abort(self) -> None:
        try:
            # Not SSLSocket's own: that one forgets its TLS state, and a reader would go on with cipher text.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return  # it was closed, or never connected: there is nothing to wake

    def close(self) -> None:
        self._socket.close()

    def _move(self, buffers: list[memoryview], deadline_s: float, *, is_send: bool) -> None:
        while buffers:
            if (remaining_s := deadline_s - time.monotonic()) <= 0:
                raise _overdue()
            moved = self._try(buffers[:_MAX_BUFFERS], remaining_s, is_send=is_send)
            if moved == 0:
                raise TransportError("peer_eof", "the peer closed the data connection")
            buffers = _skip(buffers, moved)

    def _try(self, buffers: list[memoryview], remaining_s: float, *, is_send: bool) -> int:
        try:
            return self._send_some(buffers, remaining_s) if is_send else self._receive_some(buffers, remaining_s)
        except (BlockingIOError, TimeoutError) as error:
            raise _overdue() from error
        except OSError as error:
            raise TransportError("connection_lost", f"the data connection broke: {error.strerror}") from error

    def _send_some(self, buffers: list[memoryview], remaining_s: float) -> int:
        self._arm(socket.SO_SNDTIMEO, remaining_s)
        return self._socket.sendmsg(buffers)

    def _receive_some(self, buffers: list[memoryview], remaining_s: float) -> int:
        self._arm(socket.SO_RCVTIMEO, remaining_s)
        return self._socket.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]

    def _arm(self, option: int, remaining_s: float) -> None:
        timeval = struct.pack("ll", int(remaining_s), max(1, int(remaining_s % 1 * 1e6)))
        self._socket.setsockopt(socket.SOL_SOCKET, option, timeval)


class TlsLine(PlainLine):
    """The same over TLS, which knows neither scatter/gather nor the kernel's timeouts."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(connection)
        self._tls = connection

    def is_ended(self) -> bool:
        raise NotImplementedError("TLS cannot be looked into without taking what is there")

    def _send_some(self, buffers: list[memoryview], remaining_s: float) -> int:
        self._tls.settimeout(remaining_s)
        return self._tls.send(buffers[0])

    def _receive_some(self, buffers: list[memoryview], remaining_s: float) -> int:
        self._tls.settimeout(remaining_s)
        return self._tls.recv_into(buffers[0])


def _overdue() -> TransportError:
    return TransportError("chunk_timeout", "a chunk did not move within its deadline")


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

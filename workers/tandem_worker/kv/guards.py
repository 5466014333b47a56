"""What a connection passes before anything of KV is said on it. Without TLS: nothing."""

import asyncio
import socket
import ssl
from typing import Protocol

from tandem_worker.kv.line import Line, PlainLine

MAGIC_BYTES = 4
PLAIN_CONTROL, PLAIN_DATA = b"TKVC", b"TKVD"
TLS_CONTROL, TLS_DATA = b"TKSC", b"TKSD"
MAGICS = frozenset({PLAIN_CONTROL, PLAIN_DATA, TLS_CONTROL, TLS_DATA})


class Guard(Protocol):
    """The magics are said in clear before it: they tell an accepting side what is to come."""

    control_magic: bytes
    data_magic: bytes
    refusal: str  # what a peer is told, and it is counted as, that came with the other guard's magic

    def admit(self, connection: socket.socket, timeout_s: float) -> Line:
        """The accepting side of a data connection. Raises TransportError; then the connection is closed."""

    def enter(self, connection: socket.socket, timeout_s: float) -> Line:
        """The dialing side of a data connection. Raises TransportError; then the connection is closed."""

    def server_context(self) -> ssl.SSLContext | None:
        """For control connections that are accepted."""

    async def secure(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        """A control connection that was dialed. Raises OSError."""


class OpenGuard:
    """Lets everybody in: who may do what is for the session's keys to say."""

    control_magic, data_magic = PLAIN_CONTROL, PLAIN_DATA
    refusal = "tls_not_configured"

    def admit(self, connection: socket.socket, timeout_s: float) -> Line:
        return PlainLine(connection)

    def enter(self, connection: socket.socket, timeout_s: float) -> Line:
        return PlainLine(connection)

    def server_context(self) -> ssl.SSLContext | None:
        return None

    async def secure(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        """Nothing to do."""

"""Data connections: they arrive at the same listener as control, and name their session by a one-time token."""

import hmac
import secrets
import socket
import threading

from tandem_worker.kv.guards import Guard
from tandem_worker.kv.line import Line
from tandem_worker.kv.transport import TransportError

TOKEN_BYTES = 32


class Attachments:
    """The prefill side's: who is expected, and who has come. Thread-safe."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._arrived = threading.Condition()
        self._connections: dict[str, socket.socket | None] = {}

    def offer(self) -> dict[str, str]:
        """Where one new session's data are to go. Never the same twice."""
        return {"token": secrets.token_hex(TOKEN_BYTES // 2)}

    def expect(self, endpoint: dict[str, str]) -> None:
        """From now on the peer may come; `await_line` of the same endpoint follows."""
        with self._arrived:
            self._connections[endpoint["token"]] = None

    def await_line(self, endpoint: dict[str, str], timeout_s: float) -> Line:
        """Await the peer at an endpoint that was offered. Blocks. Raises TransportError."""
        token = endpoint["token"]
        with self._arrived:
            self._arrived.wait_for(lambda: self._connections[token] is not None, timeout_s)
            connection = self._connections.pop(token)
        if connection is None:
            raise TransportError("attach_timeout", "the peer made no data connection")
        return self._guard.admit(connection, timeout_s)

    def deliver(self, token: bytes, connection: socket.socket) -> None:
        """A data connection that a peer made to our listener; it is ours from here on."""
        with self._arrived:
            for known, arrived in self._connections.items():
                if arrived is None and hmac.compare_digest(known.encode(), token):
                    self._connections[known] = connection
                    self._arrived.notify_all()
                    return
        connection.close()


def dial(guard: Guard, endpoint: dict[str, str], address: tuple[str, int], timeout_s: float) -> Line:
    """Decode: reach the endpoint that the peer at `address` offered. Blocks. Raises TransportError."""
    token = endpoint.get("token", "").encode()
    if len(token) != TOKEN_BYTES:
        raise TransportError("bad_endpoint", "the peer offered no endpoint for data")
    try:
        connection = socket.create_connection(address, timeout_s)
        connection.sendall(guard.data_magic + token)
    except OSError as error:
        raise TransportError("attach_failed", f"no data connection to the peer: {error}") from error
    return guard.enter(connection, timeout_s)

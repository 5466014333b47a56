"""The line between the two ends of a measurement: JSON values over one loopback connection."""

import json
import socket
from typing import Any


class Peer:
    """The other end."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = connection.makefile("rwb")

    def say(self, value: Any) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()

    def hear(self) -> Any:
        """None when the other end has left."""
        line = self._file.readline()
        return json.loads(line) if line else None

"""How bytes move: the one interface that every transport fills. A transport knows chunks, not requests or leases."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem_worker.kv.layout import Piece


class TransportError(Exception):
    """Bytes did not move. `reason` is a bounded name under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChunkLabel:
    """Travels with the bytes, so that a stream out of step is noticed instead of delivered."""

    transfer: int
    index: int
    size_bytes: int


class Edge(Protocol):
    """The data path of one session. One thread uses it; any thread may abort it."""

    def send(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        """Send the chunk that lies at `pieces`. Raises TransportError."""

    def receive(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        """Fill `pieces` with the chunk of that label. Raises TransportError; then the pieces hold garbage."""

    def abort(self) -> None:
        """Make a running and every later operation fail at once. Idempotent."""

    def close(self) -> None:
        """Give back what the edge holds. Called once, by the thread that used it."""


class Transport(Protocol):
    """Makes edges. `offer` and both `open_*` form one handshake, its offer carried by the control channel."""

    def offer(self) -> dict[str, str]:
        """Prefill: where one new session's data are to go. Never the same twice."""

    def expect(self, endpoint: dict[str, str]) -> None:
        """Prefill: from now on the peer may come; `open_prefill` of the same endpoint follows. Does not block."""

    def open_prefill(self, endpoint: dict[str, str], timeout_s: float) -> Edge:
        """Prefill: await the peer at an endpoint that was offered. Blocks. Raises TransportError."""

    def open_decode(self, endpoint: dict[str, str], address: tuple[str, int], timeout_s: float) -> Edge:
        """Decode: reach the endpoint that the peer at `address` offered. Blocks. Raises TransportError."""

    def deliver(self, token: bytes, connection: socket.socket) -> None:
        """Prefill: a data connection that a peer made to our listener; the transport owns it from here on."""

"""How bytes move: the one interface that every transport fills. A transport knows chunks, not requests or leases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tandem_worker.kv.layout import Piece

if TYPE_CHECKING:
    from tandem_worker.kv.line import Line


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
        """Send the chunk that lies at `pieces`; they may still be read until `settle`. Raises TransportError."""

    def receive(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        """Take the chunk of that label; it lies at `pieces` after `settle`. Raises TransportError."""

    def settle(self, timeout_s: float) -> None:
        """Wait until all chunks that were moved are where they belong. Also after a failed send or receive.

        Raises TransportError; then none of them may be relied upon.
        """

    def abort(self) -> None:
        """Make a running and every later operation fail at once. Idempotent."""

    def close(self) -> None:
        """Give back what the edge holds. Called once, by the thread that used it."""


class Transport(Protocol):
    """Makes edges, one per session, out of the session's data connection."""

    def open_edge(self, line: "Line") -> Edge:
        """Called by the thread that will use the edge. The edge owns `line`, also when this raises TransportError."""

    def tick(self) -> None:
        """Give back what has long been idle. Called every so often by the KV thread; returns at once."""

    def report(self) -> dict[str, Any]:
        """What the rank's local socket says of it; `stuck` holds why only a restart helps, when that is so."""

    def stop(self) -> None:
        """Called once, after every edge was closed."""

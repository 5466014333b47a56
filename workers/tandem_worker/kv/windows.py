"""KV memory as buffers that sockets read and write: in place where it is host memory, else through pinned memory."""

from collections.abc import Sequence
from typing import Protocol

from tandem_worker.kv.layout import Piece
from tandem_worker.kv.memory import HostMemory


class Window(Protocol):
    """One thread uses it. Chunks pass one after the other."""

    def outgoing(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of `pieces`, valid until the next call. Raises MemoryRangeError, TransportError."""

    def incoming(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """Where to put the bytes of `pieces`. Raises MemoryRangeError, TransportError."""

    def deliver(self, pieces: Sequence[Piece]) -> None:
        """What was put into `incoming` goes where it belongs. Raises TransportError."""

    def close(self) -> None:
        """Give back what it holds."""


class HostWindow:
    """Host memory needs no copy."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory

    def outgoing(self, pieces: Sequence[Piece]) -> list[memoryview]:
        return self._memory.views(pieces)

    def incoming(self, pieces: Sequence[Piece]) -> list[memoryview]:
        return self._memory.views(pieces)

    def deliver(self, pieces: Sequence[Piece]) -> None:
        """It is there already."""

    def close(self) -> None:
        """It holds nothing."""

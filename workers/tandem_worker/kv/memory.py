"""The engine's KV memory: which addresses are part of it, and, on the host, its bytes in place."""

import ctypes
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Protocol

from tandem_worker.kv.layout import Piece


class MemoryRangeError(ValueError):
    """An address outside the registered memory. The layout is wrong; nothing was touched."""


class KvMemory(Protocol):
    """What every kind of it can do."""

    def erase(self, pieces: Sequence[Piece]) -> None:
        """Overwrite with zeros: how tests prove that what arrives is what is used. Raises MemoryRangeError."""


class Ranges:
    """Which addresses are KV memory."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: (address, size in bytes); overlapping and adjacent ones are merged."""
        self.merged: list[tuple[int, int]] = []
        for start, size in sorted(ranges):
            if self.merged and start <= sum(self.merged[-1]):
                first, length = self.merged[-1]
                self.merged[-1] = (first, max(length, start + size - first))
            else:
                self.merged.append((start, size))
        self._starts = [start for start, _ in self.merged]

    def find(self, piece: Piece) -> tuple[int, int]:
        """(index in `merged`, offset in it) of bytes that lie in one range. Raises MemoryRangeError."""
        index = bisect_right(self._starts, piece.address) - 1
        if index >= 0:
            offset = piece.address - self._starts[index]
            if offset + piece.size_bytes <= self.merged[index][1]:
                return index, offset
        raise MemoryRangeError(f"{piece.size_bytes} bytes at {piece.address:#x} are not KV memory")


class HostMemory:
    """Registered ranges of host memory. The owner of the memory must outlive this object."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: (address, size in bytes); overlapping ranges count once."""
        self._ranges = Ranges(ranges)
        self._views = [_view_memory(start, size) for start, size in self._ranges.merged]

    def views(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """One writable view per piece. Raises MemoryRangeError."""
        return [self._view(piece) for piece in pieces]

    def erase(self, pieces: Sequence[Piece]) -> None:
        for view in self.views(pieces):
            view[:] = bytes(len(view))

    def _view(self, piece: Piece) -> memoryview:
        index, offset = self._ranges.find(piece)
        return self._views[index][offset : offset + piece.size_bytes]


def _view_memory(address: int, size_bytes: int) -> memoryview:
    return memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")

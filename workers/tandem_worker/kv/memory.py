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


class HostMemory:
    """Registered ranges of host memory. The owner of the memory must outlive this object."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: (address, size in bytes); overlapping ranges count once."""
        merged = _merge_ranges(ranges)
        self._starts = [start for start, _ in merged]
        self._views = [_view_memory(start, end - start) for start, end in merged]

    def views(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """One writable view per piece. Raises MemoryRangeError."""
        return [self._view(piece) for piece in pieces]

    def erase(self, pieces: Sequence[Piece]) -> None:
        for view in self.views(pieces):
            view[:] = bytes(len(view))

    def _view(self, piece: Piece) -> memoryview:
        index = bisect_right(self._starts, piece.address) - 1
        if index >= 0:
            start = piece.address - self._starts[index]
            view = self._views[index][start : start + piece.size_bytes]
            if len(view) == piece.size_bytes:
                return view
        raise MemoryRangeError(f"{piece.size_bytes} bytes at {piece.address:#x} are not KV memory")


def _merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], start + size))
        else:
            merged.append((start, start + size))
    return merged


def _view_memory(address: int, size_bytes: int) -> memoryview:
    return memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")

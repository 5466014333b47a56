"""The engine's KV memory as bytes that sockets can read and write in place."""

import ctypes
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from tandem_worker.kv.layout import Piece


class MemoryRangeError(ValueError):
    """An address outside the registered memory. The layout is wrong; nothing was touched."""


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

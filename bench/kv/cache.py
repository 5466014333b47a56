"""A KV cache of Llama-3-8B shape in host memory."""

import ctypes
import mmap
import random

from bench.kv.shape import BLOCKS, KV_HEADS, LAYERS, PAGE_BYTES

from tandem_worker.kv.layout import Group, KvLayout, Region
from tandem_worker.kv.memory import HostMemory


class Cache:
    """Per-layer layout (LBHNC): a layer's blocks lie side by side, one block's layers far apart."""

    def __init__(self) -> None:
        self.size_bytes = LAYERS * BLOCKS * PAGE_BYTES
        self.bytes = mmap.mmap(-1, self.size_bytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self.bytes[:] = bytes(self.size_bytes)  # touch every page now, not while the clock runs
        self.memory = HostMemory([(self.address, self.size_bytes)])
        self.layout = KvLayout((Group(tuple(map(self._region, range(LAYERS)))),))

    def _region(self, layer: int) -> Region:
        start = self.address + layer * BLOCKS * PAGE_BYTES
        return Region(start, BLOCKS, PAGE_BYTES, PAGE_BYTES, PAGE_BYTES, 1, KV_HEADS)

    def fill(self) -> None:
        """Bytes that both ends can make, so that the decode end can check what came."""
        for layer in range(LAYERS):
            start = layer * BLOCKS * PAGE_BYTES
            self.bytes[start : start + BLOCKS * PAGE_BYTES] = _layer_bytes(layer)

    def clear(self) -> None:
        self.bytes[:] = bytes(self.size_bytes)

    def count_wrong_pages(self, sent: list[int], received: list[int]) -> int:
        """Pages of `received` that are not what `fill` put into `sent`."""
        wrong = 0
        for layer in range(LAYERS):
            expected = _layer_bytes(layer)
            for there, here in zip(sent, received, strict=True):
                start = (layer * BLOCKS + here) * PAGE_BYTES
                page = self.bytes[start : start + PAGE_BYTES]
                wrong += page != expected[there * PAGE_BYTES : (there + 1) * PAGE_BYTES]
        return wrong


def _layer_bytes(layer: int) -> bytes:
    return random.Random(layer).randbytes(BLOCKS * PAGE_BYTES)

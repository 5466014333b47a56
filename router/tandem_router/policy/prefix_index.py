"""Which worker has probably cached which prompt prefix, from what the router itself has sent there.

Prompts are cut into blocks of text, each hashed together with all before it, so that one hash stands for a whole
prefix. No tokenizer: a block is 256 bytes, some 64 tokens.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import xxhash

BLOCK_BYTES = 256


def hash_blocks(text: bytes, seed: int = 0) -> list[int]:
    """Chained 64-bit hashes of the whole blocks of `text`; `seed` keeps apart what may never share."""
    digest = xxhash.xxh3_64_intdigest
    hashes = []
    for start in range(0, len(text) - BLOCK_BYTES + 1, BLOCK_BYTES):
        seed = digest(text[start : start + BLOCK_BYTES], seed)
        hashes.append(seed)
    return hashes


def seed_of(name: str) -> int:
    """Seed that keeps the prompts of one owner apart from those of all others."""
    return xxhash.xxh3_64_intdigest(name.encode())


class PrefixIndex:
    """Bounded map from block hash to the set of workers (bits of an integer) that hold it, least recently used out."""

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._blocks: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def hits(self, hashes: Sequence[int], workers: Iterable[int]) -> dict[int, int]:
        """For each of `workers` (bit masks), how many leading blocks it holds; workers with none are left out."""
        left = 0
        for bit in workers:
            left |= bit
        depth: dict[int, int] = {}
        for count, block in enumerate(hashes):
            still = left & self._blocks.get(block, 0)
            if still != left:
                _settle(depth, left & ~still, count)
                left = still
            if not left:
                return depth
        _settle(depth, left, len(hashes))
        return depth

    def insert(self, hashes: Sequence[int], worker: int) -> list[int]:
        """`worker` (a bit mask) now holds these blocks. Returns those of which that was not known."""
        blocks = self._blocks
        new = []
        for block in hashes:
            held = blocks.get(block, 0)
            if not held & worker:
                new.append(block)
                blocks[block] = held | worker
            blocks.move_to_end(block)
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)
        return new

    def forget(self, worker: int) -> None:
        """`worker` (a bit mask) holds nothing any more: it restarted or is gone."""
        for block, holders in list(self._blocks.items()):
            if holders & worker:
                if rest := holders & ~worker:
                    self._blocks[block] = rest
                else:
                    del self._blocks[block]


def _settle(depth: dict[int, int], mask: int, count: int) -> None:
    while mask and count:
        bit = mask & -mask
        depth[bit] = count
        mask ^= bit

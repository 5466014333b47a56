"""Which prompt blocks are in the cache: least recently used goes first. Pure."""

from collections.abc import Sequence


class PrefixCache:
    """At most `capacity_blocks` block hashes."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._blocks: dict[bytes, None] = {}  # oldest first

    def count_hits(self, hashes: Sequence[bytes]) -> int:
        """Leading blocks that are cached."""
        return next((i for i, block in enumerate(hashes) if block not in self._blocks), len(hashes))

    def insert(self, hashes: Sequence[bytes]) -> None:
        """Mark blocks as just used. The end of a chain ages first, because it is worthless without its beginning."""
        for block in reversed(hashes):
            self._blocks.pop(block, None)
            self._blocks[block] = None
        while len(self._blocks) > self._capacity:
            del self._blocks[next(iter(self._blocks))]

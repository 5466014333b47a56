"""Prefix caches of regions, and what a router remembers of what it sent where."""

from collections import OrderedDict
from collections.abc import Sequence

from tandem_simulator.prefix_cache import BLOCK_TOKENS


class BlockCache:
    """Leading runs of blocks, least recently used out."""

    def __init__(self, capacity_tokens: int | None) -> None:
        self._limit = None if capacity_tokens is None else capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def hit_tokens(self, ids: Sequence[int]) -> int:
        """Tokens of the longest leading run that is here."""
        run = next((length for length, block in enumerate(ids) if block not in self._blocks), len(ids))
        return run * BLOCK_TOKENS

    def remember(self, ids: Sequence[int]) -> None:
        """These are here from now on."""
        for block in ids:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while self._limit is not None and len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)

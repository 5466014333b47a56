"""Which part of each prompt is already in the fleet's KV cache: leading-run match of 512-token blocks, LRU."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from tandem_simulator.traffic.model import Ints, Trace

BLOCK_TOKENS = 512


class BlockCache:
    """Leading runs of 512-token blocks, least recently used out. `capacity_tokens` None: infinite."""

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

    def clear(self) -> None:
        """All is lost."""
        self._blocks.clear()


def cached_prefix_tokens(trace: Trace, capacity_tokens: int | None, flushes_s: Sequence[float] = ()) -> Ints:
    """Tokens of each prompt that need no prefill.

    Args:
        capacity_tokens: size of the cache, fleet-wide; None: infinite.
        flushes_s: moments at which all is lost.

    A prompt is in the cache from its arrival: a follow-up rarely comes before its parent's prefill is done. One token
    at least is always computed, as in every engine.
    """
    hits = np.zeros(len(trace), dtype=np.int64)
    if trace.blocks is None:
        return hits
    cache = BlockCache(capacity_tokens)
    pending = sorted(flushes_s, reverse=True)
    for number, ids in enumerate(trace.blocks):
        while pending and trace.arrival_s[number] >= pending[-1]:
            cache.clear()
            pending.pop()
        hits[number] = cache.hit_tokens(ids)
        cache.remember(ids)
    return np.minimum(hits, trace.input_tokens - 1)

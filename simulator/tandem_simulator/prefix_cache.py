"""Which part of each prompt is already in the fleet's KV cache: leading-run match of 512-token blocks, LRU."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from tandem_simulator.traffic.model import Ints, Trace

BLOCK_TOKENS = 512


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
    cache: OrderedDict[int, None] = OrderedDict()
    limit = None if capacity_tokens is None else capacity_tokens // BLOCK_TOKENS
    pending = sorted(flushes_s, reverse=True)
    for number, ids in enumerate(trace.blocks):
        while pending and trace.arrival_s[number] >= pending[-1]:
            cache.clear()
            pending.pop()
        hits[number] = _leading_run(cache, ids) * BLOCK_TOKENS
        _remember(cache, ids, limit)
    return np.minimum(hits, trace.input_tokens - 1)


def _leading_run(cache: OrderedDict[int, None], ids: Sequence[int]) -> int:
    for length, block in enumerate(ids):
        if block not in cache:
            return length
    return len(ids)


def _remember(cache: OrderedDict[int, None], ids: Sequence[int], limit: int | None) -> None:
    for block in ids:
        cache[block] = None
        cache.move_to_end(block)
    while limit is not None and len(cache) > limit:
        cache.popitem(last=False)

"""The request that is moved: 128 MiB of KV of Llama-3-8B shape in scattered blocks."""

import random

LAYERS, KV_HEADS, HEAD_DIM, BLOCK_TOKENS, BF16_BYTES = 32, 8, 128, 16, 2
PAGE_BYTES = 2 * BLOCK_TOKENS * KV_HEADS * HEAD_DIM * BF16_BYTES  # K and V of one block in one layer: 64 KiB
BLOCKS = 128  # in the cache; a request takes every second one
REQUEST_BLOCKS = BLOCKS // 2
REQUEST_BYTES = REQUEST_BLOCKS * LAYERS * PAGE_BYTES  # 128 MiB


def scatter_blocks(seed: int) -> list[int]:
    """Block ids of a request in its order: no two are neighbours, as in an engine that has run for a while."""
    ids = list(range(seed % 2, BLOCKS, 2))
    random.Random(seed).shuffle(ids)
    return ids

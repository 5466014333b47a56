"""torch.distributed over gloo: each chunk is gathered into one of two staging buffers, sent, and scattered."""

from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from bench.kv.cache import Cache
from bench.kv.peer import Peer
from bench.kv.shape import BLOCKS, LAYERS, PAGE_BYTES

IS_SCATTERED = True
_WORD_BYTES = 8  # copied as 64-bit words: the bytes have no meaning here


class Prefill:
    def __init__(self, cache: Cache, blocks: list[int], chunk_bytes: int, peer: Peer) -> None:
        store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
        peer.say(store.port)
        dist.init_process_group("gloo", store=store, rank=0, world_size=2)
        self._staged = _Staged(cache, blocks, chunk_bytes)

    def prepare(self) -> None:
        """Nothing to do."""

    def send(self) -> None:
        under_way: list[Any] = [None, None]
        for number, blocks in enumerate(self._staged.chunks):
            if under_way[number % 2]:
                under_way[number % 2].wait()
            buffer = self._staged.buffer(number, blocks)
            torch.index_select(self._staged.cache, 1, blocks, out=buffer)
            under_way[number % 2] = dist.isend(buffer, 1)
        for work in filter(None, under_way):
            work.wait()

    def close(self) -> None:
        _leave()


class Decode:
    def __init__(self, cache: Cache, sent: list[int], received: list[int], chunk_bytes: int, peer: Peer) -> None:
        store = dist.TCPStore("127.0.0.1", peer.hear(), 2, is_master=False)
        dist.init_process_group("gloo", store=store, rank=1, world_size=2)
        self._staged = _Staged(cache, received, chunk_bytes)

    def receive(self) -> None:
        staged = self._staged
        coming = [self._begin(number) for number in range(min(2, len(staged.chunks)))]
        for number, blocks in enumerate(staged.chunks):
            coming[number % 2].wait()
            staged.cache.index_copy_(1, blocks, staged.buffer(number, blocks))
            if number + 2 < len(staged.chunks):
                coming[number % 2] = self._begin(number + 2)

    def _begin(self, number: int) -> Any:
        return dist.irecv(self._staged.buffer(number, self._staged.chunks[number]), 0)

    def close(self) -> None:
        _leave()


class _Staged:
    """The cache as words [layers, blocks, page], and two buffers of one chunk."""

    def __init__(self, cache: Cache, blocks: list[int], chunk_bytes: int) -> None:
        torch.set_num_threads(1)
        words = PAGE_BYTES // _WORD_BYTES
        self.cache = torch.frombuffer(cache.bytes, dtype=torch.int64).view(LAYERS, BLOCKS, words)
        step = chunk_bytes // (LAYERS * PAGE_BYTES)
        self.chunks = [torch.tensor(blocks[first : first + step]) for first in range(0, len(blocks), step)]
        self._buffers = [torch.zeros(LAYERS, step, words, dtype=torch.int64) for _ in range(2)]

    def buffer(self, number: int, blocks: torch.Tensor) -> torch.Tensor:
        return self._buffers[number % 2][:, : len(blocks)]


def _leave() -> None:
    with suppress(RuntimeError):  # the other end may have left first
        dist.destroy_process_group()

"""Offloading for vLLM's CPU build, which has none: its own specs, with copies from host memory to host memory.

What it is for: the fields of `kvCache.offload` do on a laptop and in CI what they do on a GPU.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class HostWorker(OffloadingWorker):  # type: ignore[misc]  # no vLLM where types are checked
    """Copies at once: on a CPU nothing is won by letting the engine step on meanwhile.

    Raises:
        ValueError: chunks of several blocks were asked for, which nothing here configures.
    """

    def __init__(self, caches: CanonicalKVCaches, blocks_per_chunk: int, chunks: int, region: Any | None) -> None:
        if blocks_per_chunk != 1:
            raise ValueError(f"blocks_per_chunk is {blocks_per_chunk}; offloading on CPU takes 1")
        self._groups = caches.group_data_refs
        self._mine = [_as_rows(cache) for cache in caches.tensors]
        self._theirs = [_make_rows(row_bytes.shape[1], chunks, region) for row_bytes in self._mine]
        self._region = region
        self._done: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, src_spec.block_ids, dst_spec.block_ids, is_store=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, dst_spec, dst_spec.block_ids, src_spec.block_ids, is_store=False)

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is ever under way."""

    def shutdown(self) -> None:
        self._theirs.clear()
        if self._region is not None:
            self._region.cleanup()

    def _copy(self, job_id: int, spec: Any, blocks: Any, chunks: Any, *, is_store: bool) -> bool:
        started_s, size_bytes = time.monotonic(), 0
        for tensor, first, last in self._parts(spec):
            mine, theirs = self._mine[tensor], self._theirs[tensor]
            here, there = _to_index(blocks[first:last]), _to_index(chunks[first:last])
            if is_store:
                theirs[there] = mine[here]
            else:
                mine[here] = theirs[there]
            size_bytes += mine.shape[1] * (last - first)
        self._done.append(TransferResult(job_id, True, size_bytes, time.monotonic() - started_s))
        return True

    def _parts(self, spec: Any) -> Iterator[tuple[int, int, int]]:
        """(tensor, first, last) of each group's span in the list of blocks, for each tensor that the group lies in."""
        first = 0
        for refs, size in zip(self._groups, spec.group_sizes, strict=True):
            for tensor in sorted({ref.tensor_idx for ref in refs}):
                yield tensor, first, first + size
            first += size


class HostOffloadingSpec(CPUOffloadingSpec):  # type: ignore[misc]  # as above
    """Host memory only."""

    _worker: OffloadingWorker | None

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._worker is None:
            self._worker = HostWorker(kv_caches, self.blocks_per_chunk, self.num_chunks, None)
        return self._worker


class HostTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]  # as above
    """Host memory, and below it what `secondary_tiers` names."""

    _worker: OffloadingWorker | None

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = HostWorker(kv_caches, self.blocks_per_chunk, self.num_chunks, region)
        return self._worker


def _as_rows(cache: Any) -> torch.Tensor:
    """(blocks, bytes of a block), the very memory of the engine's cache."""
    rows: torch.Tensor = cache.tensor.view(torch.int8).view((-1, cache.page_size_bytes))
    return rows


def _make_rows(row_bytes: int, chunks: int, region: Any | None) -> torch.Tensor:
    if region is None:
        return torch.zeros((chunks, row_bytes), dtype=torch.int8)
    view: torch.Tensor = region.create_next_worker_view(row_bytes)
    return view


def _to_index(blocks: Any) -> torch.Tensor:
    return torch.as_tensor(blocks, dtype=torch.long)

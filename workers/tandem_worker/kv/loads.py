"""What a decode rank is loading: one request's pulls, from one or several prefill ranks, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem_worker.kv.layout import HeadSlice, KvLayout, missing_positions, plan_chunks

Blocks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """`missing_blocks` are local ids of one-group engines; engines of several groups recompute the whole request."""

    request_id: str
    missing_blocks: frozenset[int]
    must_recompute_all: bool
    remote_tokens: int
    recomputed_tokens: int
    bytes_received: int = 0


@dataclass(slots=True)
class Load:
    """`tokens` are to come from the peer, after `local_tokens` that the local prefix cache already had."""

    request_id: str
    local_blocks: Blocks
    local_tokens: int
    tokens: int
    block_size: int
    open_pulls: int
    _missing: set[tuple[int, int]] = field(default_factory=set)
    _bytes_received: int = 0

    def on_pulled(
        self, layout: KvLayout, heads: Sequence[HeadSlice], chunk_bytes: int, chunks: int, fault: str | None
    ) -> LoadResult | None:
        """One pull ended after `chunks` chunks; the result when it was the last."""
        planned = plan_chunks(layout, self.local_blocks, heads, max(1, chunk_bytes))
        self._bytes_received += sum(chunk.size_bytes for chunk in planned[:chunks])
        if fault is not None:
            self._missing.update(missing_positions(planned, chunks))
        self.open_pulls -= 1
        return self._conclude() if self.open_pulls == 0 else None

    def _conclude(self) -> LoadResult:
        if not self._missing:
            return LoadResult(self.request_id, frozenset(), False, self.tokens, 0, self._bytes_received)
        if len(self.local_blocks) > 1:
            recomputed = self.local_tokens + self.tokens
            return LoadResult(self.request_id, frozenset(), True, 0, recomputed, self._bytes_received)
        first = min(position for _, position in self._missing)
        came = min(first * self.block_size, self.tokens)
        ids = self.local_blocks[0]
        missing = frozenset(ids[position] for _, position in self._missing)
        return LoadResult(self.request_id, missing, False, came, self.tokens - came, self._bytes_received)

"""Which bytes of which blocks go where. Pure arithmetic over addresses; it touches no memory.

A *page* is what one layer keeps of one block: `heads` x `head_bytes`, heads outermost. A *chunk* is some whole blocks
over all layers of one cache group, so that losing a chunk loses whole blocks and nothing else. Both peers derive the
same byte stream from the same plan, each over its own addresses; adjacent pages merge on either side independently.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class LayoutError(ValueError):
    """A request for bytes that the registered KV caches do not have."""


@dataclass(frozen=True, slots=True)
class Region:
    """One layer's KV cache on this rank. A block holds `pages_per_block` kernel pages, usually one."""

    base_address: int
    num_blocks: int
    block_stride_bytes: int
    page_stride_bytes: int
    page_bytes: int
    pages_per_block: int
    heads: int

    @property
    def head_bytes(self) -> int:
        return self.page_bytes // self.heads

    @property
    def form(self) -> tuple[int, ...]:
        """All but where it lies."""
        return self.block_stride_bytes, self.page_stride_bytes, self.page_bytes, self.pages_per_block, self.heads


@dataclass(frozen=True, slots=True)
class HeadSlice:
    """Heads `[first, first + count)` of a rank's pages."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Group:
    """The layers whose blocks are allocated together; all regions have the same number of blocks."""

    regions: tuple[Region, ...]

    @property
    def all_heads(self) -> HeadSlice:
        return HeadSlice(0, self.regions[0].heads)

    def block_bytes(self, heads: HeadSlice) -> int:
        return sum(region.head_bytes * heads.count * region.pages_per_block for region in self.regions)


@dataclass(frozen=True, slots=True)
class KvLayout:
    """All cache groups of a rank. `block_outermost`: one block's layers are neighbours in memory (BL… layouts)."""

    groups: tuple[Group, ...]
    block_outermost: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of transfer and of loss: `blocks` are ids of `group`, `first` their position in the request's list."""

    index: int
    group: int
    first: int
    blocks: tuple[int, ...]
    size_bytes: int


class Piece(NamedTuple):
    """A contiguous run of bytes. A tuple, for a transfer makes thousands."""

    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where a decode rank finds `heads` heads: in prefill rank `rank`, from `remote.first`, to `local.first`."""

    rank: int
    remote: HeadSlice
    local: HeadSlice


def plan_chunks(
    layout: KvLayout, block_ids: Sequence[Sequence[int]], heads: Sequence[HeadSlice], chunk_bytes: int
) -> list[Chunk]:
    """Cut a request's blocks (ids per group, in request order; heads per group) into chunks of `chunk_bytes` or less.

    A block larger than `chunk_bytes` is a chunk of its own.
    Raises LayoutError when the groups do not match, or an id or a head is outside the cache.
    """
    if not len(block_ids) == len(heads) == len(layout.groups):
        raise LayoutError(f"{len(block_ids)} cache groups were named; this engine has {len(layout.groups)}")
    chunks: list[Chunk] = []
    for number, (group, ids, part_of) in enumerate(zip(layout.groups, block_ids, heads, strict=True)):
        _check_bounds(group, ids, part_of)
        block_bytes = group.block_bytes(part_of)
        step = max(1, chunk_bytes // block_bytes)
        for first in range(0, len(ids), step):
            part = tuple(ids[first : first + step])
            chunks.append(Chunk(len(chunks), number, first, part, len(part) * block_bytes))
    return chunks


def _check_bounds(group: Group, ids: Sequence[int], heads: HeadSlice) -> None:
    blocks = min(region.num_blocks for region in group.regions)
    held = min(region.heads for region in group.regions)
    if not (heads.first >= 0 and heads.count >= 1 and heads.first + heads.count <= held):
        raise LayoutError(f"heads {heads.first}+{heads.count} are outside the {held} that this rank holds")
    for block in ids:
        if not 0 <= block < blocks:
            raise LayoutError(f"block {block} is outside the cache of {blocks} blocks")


def chunk_pieces(layout: KvLayout, chunk: Chunk, heads: Sequence[HeadSlice]) -> list[Piece]:
    """The chunk's bytes in wire order, neighbouring blocks of a layer (or layers of a block) merged."""
    regions, part = layout.groups[chunk.group].regions, heads[chunk.group]
    if layout.block_outermost:
        return list(_merge(_pages_by_block(regions, chunk.blocks, part)))
    pieces: list[Piece] = []
    runs_by_form: dict[tuple[int, ...], list[Piece]] = {}
    for region in regions:  # layers of one form differ in their base alone: merge once, for pages come in thousands
        if region.form not in runs_by_form:
            pages = (page for block in chunk.blocks for page in _pages(region, block, part))
            runs_by_form[region.form] = list(_merge(pages))
        base = region.base_address
        pieces += [Piece(base + offset, size) for offset, size in runs_by_form[region.form]]
    return pieces


def _pages_by_block(regions: Sequence[Region], blocks: Iterable[int], heads: HeadSlice) -> Iterator[tuple[int, int]]:
    for block in blocks:
        for region in regions:
            for offset, size in _pages(region, block, heads):
                yield region.base_address + offset, size


def _pages(region: Region, block: int, heads: HeadSlice) -> Iterator[tuple[int, int]]:
    """(offset from the region's base, bytes) of each page of a block."""
    start = block * region.block_stride_bytes + heads.first * region.head_bytes
    for page in range(region.pages_per_block):
        yield start + page * region.page_stride_bytes, heads.count * region.head_bytes


def _merge(pieces: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    address, size = 0, 0
    for start, length in pieces:
        if size and address + size == start:
            size += length
            continue
        if size:
            yield Piece(address, size)
        address, size = start, length
    if size:
        yield Piece(address, size)


def is_tp_supported(total_heads: int, tp_size: int) -> bool:
    """Heads are split evenly, or each is replicated evenly."""
    return total_heads % tp_size == 0 or tp_size % total_heads == 0


def held_heads(total_heads: int, tp_size: int, rank: int) -> HeadSlice:
    """The model's heads that `rank` holds (vLLM's rule: replicate when there are more ranks than heads)."""
    if tp_size >= total_heads:
        return HeadSlice(rank * total_heads // tp_size, 1)
    count = total_heads // tp_size
    return HeadSlice(rank * count, count)


def plan_sources(total_heads: int, prefill_tp: int, decode_tp: int, decode_rank: int) -> tuple[Source, ...]:
    """The prefill ranks, and their heads, that together fill one decode rank's pages."""
    mine = held_heads(total_heads, decode_tp, decode_rank)
    sources: list[Source] = []
    for offset in range(mine.count):
        head = mine.first + offset
        rank = _owner(total_heads, prefill_tp, head, decode_rank)
        remote = head - held_heads(total_heads, prefill_tp, rank).first
        last = sources[-1] if sources else None
        if last is not None and last.rank == rank:
            grown = last.remote.count + 1
            sources[-1] = Source(rank, HeadSlice(last.remote.first, grown), HeadSlice(last.local.first, grown))
        else:
            sources.append(Source(rank, HeadSlice(remote, 1), HeadSlice(offset, 1)))
    return tuple(sources)


def _owner(total_heads: int, prefill_tp: int, head: int, decode_rank: int) -> int:
    if prefill_tp <= total_heads:
        return head // (total_heads // prefill_tp)
    replicas = prefill_tp // total_heads
    return head * replicas + decode_rank % replicas  # decode ranks spread over the replicas


def plan_consumers(total_heads: int, prefill_tp: int, decode_tp: int, prefill_rank: int) -> tuple[int, ...]:
    """The decode ranks that must release `prefill_rank`; a rank nobody reads from still has one."""
    readers = tuple(
        rank
        for rank in range(decode_tp)
        if any(source.rank == prefill_rank for source in plan_sources(total_heads, prefill_tp, decode_tp, rank))
    )
    return readers or (prefill_rank * decode_tp // prefill_tp,)


def plan_edges(total_heads: int, prefill_tp: int, decode_tp: int, decode_rank: int) -> tuple[int, ...]:
    """The prefill ranks that `decode_rank` talks to: those it reads, and those it alone must release."""
    return tuple(
        rank for rank in range(prefill_tp) if decode_rank in plan_consumers(total_heads, prefill_tp, decode_tp, rank)
    )


def missing_positions(chunks: Sequence[Chunk], received: int) -> list[tuple[int, int]]:
    """(group, position in the request's block list) of every block that was in no received chunk."""
    return [(chunk.group, chunk.first + offset) for chunk in chunks[received:] for offset in range(len(chunk.blocks))]

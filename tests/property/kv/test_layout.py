"""Every byte lands once, where it belongs, for any block ids, layers, page shapes and tensor-parallel pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.kv.layout import (
    Group,
    HeadSlice,
    KvLayout,
    Region,
    chunk_pieces,
    held_heads,
    missing_positions,
    plan_chunks,
    plan_consumers,
    plan_edges,
    plan_sources,
)

Blocks = tuple[tuple[int, ...], ...]
TP_PAIRS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).map(
    lambda powers: (1 << powers[0], 1 << powers[1], 1 << powers[2])
)


@dataclass(frozen=True)
class Shape:
    """One engine's caches: `groups` are (layers, head bytes); all groups have `heads` heads on this rank."""

    groups: tuple[tuple[int, int], ...]
    num_blocks: int
    pages_per_block: int
    block_outermost: bool


SHAPES = st.builds(
    Shape,
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=3).map(tuple),
    num_blocks=st.integers(1, 12),
    pages_per_block=st.integers(1, 3),
    block_outermost=st.booleans(),
)


def build_layout(shape: Shape, heads: int) -> tuple[KvLayout, int]:
    """The layout, and how many bytes of memory it spans, with a gap between groups."""
    address = 7
    groups: list[Group] = []
    for layers, head_bytes in shape.groups:
        page = heads * head_bytes
        block = page * shape.pages_per_block
        regions: list[Region] = []
        for layer in range(layers):
            if shape.block_outermost:  # BLHNC: one block's layers lie side by side
                base, stride = address + layer * block, block * layers
            else:
                base, stride = address + layer * block * shape.num_blocks, block
            regions.append(Region(base, shape.num_blocks, stride, page, page, shape.pages_per_block, heads))
        groups.append(Group(tuple(regions)))
        address += block * layers * shape.num_blocks + 3
    return KvLayout(tuple(groups), shape.block_outermost), address


def draw_blocks(data: st.DataObject, shape: Shape) -> tuple[Blocks, Blocks]:
    """The same number of blocks per group for both peers, any distinct ids in any order."""
    remote: list[tuple[int, ...]] = []
    local: list[tuple[int, ...]] = []
    for _ in shape.groups:
        count = data.draw(st.integers(0, shape.num_blocks))
        ids = st.permutations(range(shape.num_blocks)).map(lambda order, count=count: tuple(order[:count]))
        remote.append(data.draw(ids))
        local.append(data.draw(ids))
    return tuple(remote), tuple(local)


def address_of(region: Region, block: int, page: int, head: int, byte: int) -> int:
    """The definition, byte by byte, that the plans are held against."""
    start = region.base_address + block * region.block_stride_bytes + page * region.page_stride_bytes
    return start + head * region.head_bytes + byte


def marks(layout: KvLayout, blocks: Blocks, heads: HeadSlice) -> Iterator[tuple[int, int]]:
    """(address, value) of every byte of these blocks; the value tells position, page and the model's head."""
    for group, ids in zip(layout.groups, blocks, strict=True):
        for region, (position, block) in product(group.regions, enumerate(ids)):
            for page, head, byte in product(
                range(region.pages_per_block), range(heads.count), range(region.head_bytes)
            ):
                mark = 1 + (position * 31 + page * 7 + heads.first + head) % 255
                yield address_of(region, block, page, head, byte), mark


def copy(source: bytes, target: bytearray, writes: list[int], *transfer: object) -> None:
    """Stream chunks from `source` into `target`, counting writes per byte."""
    sender, receiver, remote, local, remote_heads, local_heads, chunk_bytes = transfer
    out = plan_chunks(sender, remote, remote_heads, chunk_bytes)
    into = plan_chunks(receiver, local, local_heads, chunk_bytes)
    assert [chunk.size_bytes for chunk in out] == [chunk.size_bytes for chunk in into]
    for there, here in zip(out, into, strict=True):
        stream = b"".join(
            source[p.address : p.address + p.size_bytes] for p in chunk_pieces(sender, there, remote_heads)
        )
        assert len(stream) == there.size_bytes
        for piece in chunk_pieces(receiver, here, local_heads):
            target[piece.address : piece.address + piece.size_bytes] = stream[: piece.size_bytes]
            for address in range(piece.address, piece.address + piece.size_bytes):
                writes[address] += 1
            stream = stream[piece.size_bytes :]
        assert not stream


@given(SHAPES, st.integers(1, 4), st.integers(1, 200), st.data())
def test_equal_ranks_copy_exactly_the_named_blocks(
    shape: Shape, heads: int, chunk_bytes: int, data: st.DataObject
) -> None:
    layout, size = build_layout(shape, heads)
    remote, local = draw_blocks(data, shape)
    source = bytes(data.draw(st.binary(min_size=size, max_size=size)))
    target, writes = bytearray(size), [0] * size
    whole = tuple(group.all_heads for group in layout.groups)

    copy(source, target, writes, layout, layout, remote, local, whole, whole, chunk_bytes)

    expected, touched = bytearray(size), [0] * size
    for group, theirs, ours in zip(layout.groups, remote, local, strict=True):
        for region in group.regions:
            for there, here in zip(theirs, ours, strict=True):
                for page in range(region.pages_per_block):
                    start = address_of(region, here, page, 0, 0)
                    origin = address_of(region, there, page, 0, 0)
                    expected[start : start + region.page_bytes] = source[origin : origin + region.page_bytes]
                    for address in range(start, start + region.page_bytes):
                        touched[address] += 1
    assert target == expected
    assert writes == touched
    assert max(writes, default=0) <= 1


@given(SHAPES, TP_PAIRS, st.integers(1, 100), st.data())
def test_unequal_ranks_fill_every_head_of_every_block_once(
    shape: Shape, pair: tuple[int, int, int], chunk_bytes: int, data: st.DataObject
) -> None:
    total_heads, prefill_tp, decode_tp = pair
    decode_rank = data.draw(st.integers(0, decode_tp - 1))
    sender, sent_size = build_layout(shape, held_heads(total_heads, prefill_tp, 0).count)
    receiver, size = build_layout(shape, held_heads(total_heads, decode_tp, 0).count)
    remote, local = draw_blocks(data, shape)
    target, writes = bytearray(size), [0] * size
    for source in plan_sources(total_heads, prefill_tp, decode_tp, decode_rank):
        memory = bytearray(sent_size)
        for address, mark in marks(sender, remote, held_heads(total_heads, prefill_tp, source.rank)):
            memory[address] = mark
        groups = len(shape.groups)
        slices = (source.remote,) * groups, (source.local,) * groups
        copy(bytes(memory), target, writes, sender, receiver, remote, local, *slices, chunk_bytes)

    expected = dict(marks(receiver, local, held_heads(total_heads, decode_tp, decode_rank)))
    assert {address: target[address] for address in expected} == expected
    assert [writes[address] for address in expected] == [1] * len(expected)
    assert sum(writes) == len(expected)


@given(TP_PAIRS)
def test_every_prefill_rank_is_released_by_exactly_the_ranks_that_talk_to_it(pair: tuple[int, int, int]) -> None:
    total_heads, prefill_tp, decode_tp = pair
    for rank in range(prefill_tp):
        consumers = plan_consumers(total_heads, prefill_tp, decode_tp, rank)
        edges = [other for other in range(decode_tp) if rank in plan_edges(total_heads, prefill_tp, decode_tp, other)]
        assert list(consumers) == edges
        assert consumers
    for rank in range(decode_tp):
        read = {source.rank for source in plan_sources(total_heads, prefill_tp, decode_tp, rank)}
        assert read <= set(plan_edges(total_heads, prefill_tp, decode_tp, rank))


@given(SHAPES, st.integers(1, 300), st.data())
def test_what_is_missing_after_some_chunks_is_what_was_in_none_of_them(
    shape: Shape, chunk_bytes: int, data: st.DataObject
) -> None:
    layout, _ = build_layout(shape, heads=2)
    blocks, _ = draw_blocks(data, shape)
    chunks = plan_chunks(layout, blocks, tuple(group.all_heads for group in layout.groups), chunk_bytes)
    received = data.draw(st.integers(0, len(chunks)))
    came = {(chunk.group, chunk.first + offset) for chunk in chunks[:received] for offset in range(len(chunk.blocks))}
    everything = {(group, position) for group, ids in enumerate(blocks) for position in range(len(ids))}
    assert came | set(missing_positions(chunks, received)) == everything
    assert not came & set(missing_positions(chunks, received))

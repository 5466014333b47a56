"""The worker's half over real ranks: equal and unequal tensor parallelism, each head where it belongs."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from integration.kv.vllm_engine import find_free_port
from unit.kv.rank import ADDRESS, HEADS, LAYERS, PAGE_BYTES, TOKENS, Rank, running_rank

from tandem_worker.kv.messages import GroupShape
from tandem_worker.kv.orders import LoadOrder, StepOrders
from tandem_worker.kv.params import Ticket
from tandem_worker.kv.worker_side import WorkerSide

REMOTE, LOCAL = (7, 3), (1, 9)
TOTAL_HEADS = 4


def find_port_pair() -> int:
    """Two neighbouring free ports: a rank listens at the worker's port plus its number."""
    for _ in range(100):
        port = find_free_port(ADDRESS)
        try:
            with socket.create_server((ADDRESS, port + 1)):
                return port
        except OSError:
            continue
    raise AssertionError("no two neighbouring ports are free")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start_ranks(stack: ExitStack, directory: Path, name: str, tp_size: int) -> list[Rank]:
    """A worker of `tp_size` ranks with TOTAL_HEADS heads in all; ranks of one worker share an engine id."""
    heads = TOTAL_HEADS // tp_size
    shape = GroupShape(layers=["l0", "l1"], page_tokens=TOKENS, head_bytes_per_token=1, kv_heads=TOTAL_HEADS)
    port = find_port_pair()
    ranks = []
    for rank in range(tp_size):
        engine: dict[str, Any] = {"engine_id": name, "groups": [shape], "tp_size": tp_size, "tp_rank": rank}
        ranks.append(stack.enter_context(running_rank(directory, name, engine, heads=heads, port=port)))
    return ranks


def head_bytes(rank: Rank, block: int, head: int) -> bytes:
    """One head of one block in every layer, by its number on this rank."""
    size = PAGE_BYTES // HEADS
    page = rank.heads * size
    data = rank.block(block)
    return b"".join(data[layer * page + head * size : layer * page + (head + 1) * size] for layer in range(LAYERS))


@pytest.mark.parametrize(("prefill_tp", "decode_tp"), [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_every_decode_rank_gets_its_heads_and_every_prefill_rank_its_blocks_back(
    stack: ExitStack, tmp_path: Path, prefill_tp: int, decode_tp: int
) -> None:
    prefill = start_ranks(stack, tmp_path, "prefill", prefill_tp)
    decode = start_ranks(stack, tmp_path, "decode", decode_tp)
    fields = prefill[0].ticket("r1", list(REMOTE), tp_size=prefill_tp)
    order = LoadOrder("mine", Ticket.model_validate(fields), (REMOTE,), (LOCAL,), 0, 2 * TOKENS)
    sides = [WorkerSide(rank.engine, rank.layout, rank.service) for rank in decode]
    for rank in prefill:
        WorkerSide(rank.engine, rank.layout, rank.service).perform(StepOrders(leases=[("r1", (REMOTE,))]))

    for side in sides:
        side.perform(StepOrders(loads=[order]))

    for rank in decode:
        assert rank.await_load().missing_blocks == frozenset()
    for rank in prefill:
        assert rank.await_freed() == {"r1"}
    for there, here in zip(REMOTE, LOCAL, strict=True):
        for head in range(TOTAL_HEADS):
            source, target = divmod(head, TOTAL_HEADS // prefill_tp), divmod(head, TOTAL_HEADS // decode_tp)
            expected = head_bytes(prefill[source[0]], there, source[1])
            assert head_bytes(decode[target[0]], here, target[1]) == expected


def test_results_are_told_in_vllms_terms(stack: ExitStack, tmp_path: Path) -> None:
    (decode,) = start_ranks(stack, tmp_path, "decode", 1)
    (prefill,) = start_ranks(stack, tmp_path, "prefill", 1)
    ticket = Ticket.model_validate(prefill.ticket("never-leased", list(REMOTE)))
    side = WorkerSide(decode.engine, decode.layout, decode.service)
    side.perform(StepOrders(loads=[LoadOrder("mine", ticket, (REMOTE,), (LOCAL,), 0, 2 * TOKENS)]))
    side.perform(StepOrders(failures={"malformed": 2}, recomputed_tokens=5))

    results = decode.await_results(side)

    assert (results.received, results.failed, results.sent) == ({"mine"}, set(), set())
    assert side.take_missing_blocks() == set(LOCAL)
    assert side.take_missing_blocks() == set()

"""KV over the nccl transport between ranks of this process: what arrives, what is kept, what is given back."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from unit.kv.nccl.conftest import LOCAL, REMOTE, gpu_rank, load, wait_until
from unit.kv.nccl.fake import Ledger
from unit.kv.rank import BLOCK_BYTES, BLOCKS, Rank

from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.local import fetch_stats


async def test_blocks_arrive_where_they_belong_over_one_communicator(
    ledger: Ledger, prefill: Rank, decode: Rank
) -> None:
    untouched = decode.block(5)

    assert load(prefill, decode) == set()

    assert decode.block(5) == untouched
    assert prefill.await_freed() == {"r1"}
    sent, received = await fetch_stats(prefill.socket), await fetch_stats(decode.socket)
    assert sent["bytes_sent"] == received["bytes_received"] == BLOCK_BYTES * len(REMOTE)
    assert (sent["communicators"], received["communicators"]) == (1, 1)
    assert sent["communicator_bytes"] == 52 << 20
    assert (sent["failures"], received["failures"], sent["fallback"], received["fallback"]) == ({}, {}, None, None)
    assert load(prefill, decode, "r2") == set()
    assert ledger.communicators == 2  # one per side: the second request used what the first had opened


@pytest.mark.parametrize(
    "faults",
    [
        {"FAKE_CUDA_COPY_US": "3000"},
        {"FAKE_NCCL_LAZY_MS": "30"},
        {"FAKE_NCCL_INIT_MS": "300"},
        {"FAKE_NCCL_NO_MEM": "1"},
    ],
    ids=["copies that take long", "operations enqueued later", "a slow start", "no memory that can be registered"],
)
def test_what_is_slow_or_missing_changes_no_byte(
    ledger: Ledger, prefill: Rank, decode: Rank, faults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in faults.items():
        monkeypatch.setenv(name, value)

    assert load(prefill, decode) == set()
    assert load(prefill, decode, "r2") == set()


def test_a_load_is_reported_when_its_bytes_are_where_they_belong_and_not_before(
    ledger: Ledger, prefill: Rank, decode: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill.service.register_lease("r1", [REMOTE])
    monkeypatch.setenv("FAKE_CUDA_COPY_US", "50000")
    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

    assert decode.await_load(20).missing_blocks == frozenset()

    assert ledger.pending_copies == 0


def test_a_stop_gives_everything_back(tmp_path: Path, ledger: Ledger) -> None:
    communicators, allocations, streams, events = ledger.held
    with gpu_rank(tmp_path, "prefill") as prefill, gpu_rank(tmp_path, "decode") as decode:
        assert load(prefill, decode) == set()
        assert ledger.held > (communicators + 1, allocations + 1, streams + 1, events + 1)

    marks = 2  # each side's event in the engine's stream lives as long as the KV memory
    wait_until(lambda: ledger.held == (communicators, allocations, streams, events + marks))


async def test_two_prefill_and_two_decode_ranks_crosswise_never_wait_for_one_another_in_a_circle(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Each pair has a session, and at most one kernel of a device is in flight: the ledger counts violations."""
    with ExitStack() as stack:
        ranks = {
            name: stack.enter_context(gpu_rank(tmp_path, name, nccl_slots=2))
            for name in ("prefill", "prefill-2", "decode", "decode-2")
        }
        prefills, decodes = [ranks["prefill"], ranks["prefill-2"]], [ranks["decode"], ranks["decode-2"]]
        blocks = list(range(16))
        for number in range(4):
            for source in prefills:
                for sink in decodes:
                    key = f"{source.settings.engine_id}-{sink.settings.engine_id}-{number}"
                    source.service.register_lease(key, [blocks])
                    sink.pull(source.peer, source.ticket(key, blocks), blocks)
        for sink in decodes:
            assert all(not result.missing_blocks for result in sink.await_loads(2 * 4, 30))
        for source in prefills:
            assert (await fetch_stats(source.socket))["failures"] == {}


def test_no_kernel_is_posted_before_its_peer_is_there(tmp_path: Path, ledger: Ledger) -> None:
    """Prefill takes long over every chunk, and decode has long been asked to receive it."""
    with (
        gpu_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.5) as prefill,
        gpu_rank(tmp_path, "decode") as decode,
    ):
        before_ms = ledger.longest_lonely_ms

        assert load(prefill, decode) == set()

        assert ledger.longest_lonely_ms <= max(before_ms, 400)


async def test_an_idle_communicator_is_given_up_and_made_anew(tmp_path: Path, ledger: Ledger) -> None:
    with (
        gpu_rank(tmp_path, "prefill", nccl_idle_s=0.3) as prefill,
        gpu_rank(tmp_path, "decode") as decode,  # keeps its own, which is of no use any more
    ):
        assert load(prefill, decode) == set()
        wait_until(lambda: ledger.communicators == 1)
        assert (await fetch_stats(prefill.socket))["communicators"] == 0

        assert load(prefill, decode, "r2") == set()

        wait_until(lambda: ledger.communicators in (1, 2))
        assert (await fetch_stats(decode.socket))["failures"] == {}


async def test_a_communicator_that_decode_gave_up_is_replaced_by_prefill(tmp_path: Path, ledger: Ledger) -> None:
    with gpu_rank(tmp_path, "prefill") as prefill, gpu_rank(tmp_path, "decode", nccl_idle_s=0.3) as decode:
        assert load(prefill, decode) == set()
        wait_until(lambda: ledger.communicators == 1)

        assert load(prefill, decode, "r2") == set()

        stats = await fetch_stats(prefill.socket), await fetch_stats(decode.socket)
        assert [one["failures"] for one in stats] == [{}, {}]


async def test_with_room_for_one_communicator_the_least_used_goes_and_nothing_fails(
    tmp_path: Path, ledger: Ledger
) -> None:
    with (
        gpu_rank(tmp_path, "prefill") as first,
        gpu_rank(tmp_path, "prefill-2") as second,
        gpu_rank(tmp_path, "decode", nccl_max_communicators=1) as decode,
    ):
        for number, source in enumerate([first, second, first, second]):
            assert load(source, decode, f"r{number}") == set()
            assert (await fetch_stats(decode.socket))["communicators"] == 1
        assert (await fetch_stats(decode.socket))["failures"] == {}


def test_a_cancelled_load_ends_at_once_and_gives_the_gpu_back(tmp_path: Path, ledger: Ledger) -> None:
    with (
        gpu_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.3) as prefill,
        gpu_rank(tmp_path, "decode") as decode,
    ):
        prefill.service.register_lease("r1", [REMOTE])
        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
        wait_until(lambda: ledger.kernels_done > 2)

        decode.service.cancel("r1", [prefill.peer])

        decode.await_load(5)
        assert prefill.await_freed(5) == {"r1"}
        wait_until(lambda: ledger.communicators == 0)
        assert load(prefill, decode, "r2") == set()


def test_destroyed_kv_is_seen_to_be_destroyed(tmp_path: Path, ledger: Ledger) -> None:
    with gpu_rank(tmp_path, "prefill") as prefill, gpu_rank(tmp_path, "decode", corrupt_for_test=True) as decode:
        prefill.service.register_lease("r1", [REMOTE])

        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load(10).missing_blocks == frozenset()
        assert all(decode.block(here) == bytes(BLOCK_BYTES) for here in LOCAL)


def test_blocks_are_not_written_before_the_engine_has_left_them(
    ledger: Ledger, prefill: Rank, decode: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was enqueued ahead still writes to blocks that have been granted to somebody else meanwhile."""
    memory, page = decode.memory, decode.layout.groups[0].regions[0]
    assert isinstance(memory, DeviceMemory)
    assert load(prefill, decode) == set()
    monkeypatch.setenv("FAKE_CUDA_COPY_US", "2000")
    memory.cuda.use_device(memory.device)
    engine, step_done = memory.cuda.make_stream(), memory.cuda.make_event()
    of_block = page.base_address + LOCAL[0] * page.page_bytes
    memory.cuda.copy([(of_block, page.base_address, 64)] * 300, engine)  # a step that takes most of a second
    memory.mark(engine)
    memory.cuda.record(step_done, engine)

    prefill.service.register_lease("r2", [REMOTE])
    decode.pull(prefill.peer, prefill.ticket("r2", REMOTE), LOCAL)
    decode.await_load(20)

    wait_until(lambda: memory.cuda.is_done(step_done))
    assert prefill.block(REMOTE[0]) == decode.block(LOCAL[0])
    memory.cuda.destroy_stream(engine)
    memory.cuda.destroy_event(step_done)


def test_a_request_of_all_blocks_passes_through_few_buffers(tmp_path: Path, ledger: Ledger) -> None:
    everything = list(range(BLOCKS))
    with (
        gpu_rank(tmp_path, "prefill", nccl_slots=2) as prefill,
        gpu_rank(tmp_path, "decode", nccl_slots=2) as decode,
    ):
        prefill.service.register_lease("r1", [everything])

        decode.pull(prefill.peer, prefill.ticket("r1", everything), everything[::-1])

        assert decode.await_load(20).missing_blocks == frozenset()
        assert all(prefill.block(block) == decode.block(BLOCKS - 1 - block) for block in everything)

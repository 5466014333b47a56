"""What goes wrong inside NCCL on one side: blocks are missing, never wrong; the GPU is free again, or is given up."""

import asyncio
import time
from pathlib import Path

import pytest
from unit.kv.nccl.conftest import LOCAL, REMOTE, gpu_rank, load, wait_until
from unit.kv.nccl.fake import Ledger

from tandem_worker.kv.local import fetch_stats


async def test_a_communicator_that_does_not_come_up_costs_one_deadline_and_is_tried_again(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NCCL_INIT_MS", "60000")
    with (
        gpu_rank(tmp_path, "prefill", nccl_open_timeout_s=0.5) as prefill,
        gpu_rank(tmp_path, "decode", nccl_open_timeout_s=0.5) as decode,
    ):
        started_s = time.monotonic()
        assert load(prefill, decode) == set(LOCAL)
        assert time.monotonic() - started_s < 10
        failures = (await fetch_stats(decode.socket))["failures"]
        assert failures.keys() <= {"nccl_open_timeout", "peer_eof", "peer_lost", "aborted"}, failures
        wait_until(lambda: ledger.communicators == 0)

        monkeypatch.delenv("FAKE_NCCL_INIT_MS")
        assert load(prefill, decode, "r2") == set()


async def test_an_abort_that_hangs_fails_the_health_check_and_no_request(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers that its kernel may still write to are never used again."""
    with (
        gpu_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.3) as prefill,
        gpu_rank(tmp_path, "decode", nccl_patience_s=0.5) as decode,
    ):
        assert (await fetch_stats(decode.socket))["stuck"] is None
        prefill.service.register_lease("r1", [REMOTE])
        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
        before = ledger.kernels_done
        wait_until(lambda: ledger.kernels_done > before + 2)
        monkeypatch.setenv("FAKE_NCCL_ABORT", "hang")

        decode.service.cancel("r1", [prefill.peer])

        decode.await_load(5)
        await asyncio.sleep(0.7)
        assert (await fetch_stats(decode.socket))["stuck"] == "the abort of a communicator does not return"
        monkeypatch.delenv("FAKE_NCCL_ABORT")
        wait_until(lambda: ledger.communicators == 0)
        assert (await fetch_stats(decode.socket))["stuck"] is None


async def test_a_call_that_hangs_fails_the_health_check_and_the_transfer(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the buffer that the peer's kernel would write to comes back only when that kernel is known to have ended."""
    with (
        gpu_rank(tmp_path, "prefill", nccl_patience_s=0.5) as prefill,
        gpu_rank(tmp_path, "decode", chunk_timeout_s=3) as decode,
    ):
        assert load(prefill, decode) == set()
        all_free = (await fetch_stats(decode.socket))["staging_free"]
        monkeypatch.setenv("FAKE_NCCL_SEND", "hang")
        monkeypatch.setenv("FAKE_NCCL_ABORT", "hang")

        assert load(prefill, decode, "r2") == set(LOCAL)

        assert (await fetch_stats(decode.socket))["staging_free"] == all_free - 1
        assert (await fetch_stats(prefill.socket))["stuck"] == "a call of libnccl does not return"
        assert "send_nccl_stuck" in (await fetch_stats(prefill.socket))["failures"]
        monkeypatch.delenv("FAKE_NCCL_SEND")
        monkeypatch.delenv("FAKE_NCCL_ABORT")
        wait_until(lambda: ledger.communicators == 0)
        await asyncio.sleep(0.1)
        assert (await fetch_stats(decode.socket))["staging_free"] == all_free


async def test_when_every_communicator_is_in_use_the_next_one_is_refused_in_bounded_time(
    tmp_path: Path, ledger: Ledger
) -> None:
    with (
        gpu_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.5) as busy,
        gpu_rank(tmp_path, "prefill-2") as second,
        gpu_rank(tmp_path, "decode", nccl_max_communicators=1, nccl_open_timeout_s=0.3) as decode,
    ):
        before = ledger.kernels_done
        busy.service.register_lease("long", [REMOTE])
        decode.pull(busy.peer, busy.ticket("long", REMOTE), LOCAL)
        wait_until(lambda: ledger.kernels_done > before + 2)
        second.service.register_lease("other", [REMOTE])

        decode.pull(second.peer, second.ticket("other", REMOTE), [11, 12, 13, 14])

        ends = {end.request_id: end.missing_blocks for end in decode.await_loads(2, 20)}
        assert ends == {"long": frozenset(), "other": frozenset({11, 12, 13, 14})}
        assert (await fetch_stats(decode.socket))["failures"] == {"nccl_edges_full": 1}

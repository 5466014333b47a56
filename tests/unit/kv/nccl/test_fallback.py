"""Where nccl was asked for and cannot be, KV moves over tcp, and everybody can see why."""

from pathlib import Path

import pytest
from unit.kv.nccl.conftest import DEVICES, gpu_rank, load
from unit.kv.nccl.fake import Ledger
from unit.kv.rank import running_rank

from tandem_worker.kv.local import fetch_stats


async def assert_fallback(prefill: Path, decode: Path, prefill_reason: str, decode_reason: str) -> None:
    """Both sides count the reason from where they stand."""
    for socket, reason in ((prefill, prefill_reason), (decode, decode_reason)):
        stats = await fetch_stats(socket)
        assert (stats["fallback"], stats["fallbacks"], stats["failures"]) == (reason, {reason: 1}, {})


async def test_two_versions_of_nccl_do_not_meet(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu_rank(tmp_path, "prefill") as prefill:
        monkeypatch.setenv("FAKE_NCCL_VERSION", "22908")
        with gpu_rank(tmp_path, "decode") as decode:
            assert load(prefill, decode) == set()

            await assert_fallback(prefill.socket, decode.socket, *["nccl_versions_differ"] * 2)
    assert ledger.communicators == 0


async def test_one_side_without_libnccl_is_enough(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu_rank(tmp_path, "prefill") as prefill:
        monkeypatch.setenv("VLLM_NCCL_SO_PATH", "/nowhere/libnccl.so.2")
        with gpu_rank(tmp_path, "decode") as decode:
            assert load(prefill, decode) == set()

            await assert_fallback(prefill.socket, decode.socket, "peer_libnccl_missing", "libnccl_missing")


async def test_an_nccl_that_is_too_old_is_as_good_as_none(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NCCL_VERSION", "21700")
    with gpu_rank(tmp_path, "prefill") as prefill:
        assert (await fetch_stats(prefill.socket))["fallback"] == "libnccl_missing"


async def test_one_side_with_kv_in_host_memory_is_enough(tmp_path: Path, ledger: Ledger) -> None:
    with (
        gpu_rank(tmp_path, "prefill") as prefill,
        running_rank(tmp_path, "decode", transport="nccl", handshake_timeout_s=5.0, chunk_timeout_s=5.0) as decode,
    ):
        assert load(prefill, decode) == set()

        await assert_fallback(prefill.socket, decode.socket, "peer_kv_in_host_memory", "kv_in_host_memory")


async def test_a_worker_that_cannot_use_nccl_says_so_before_it_has_met_anybody(tmp_path: Path) -> None:
    with running_rank(tmp_path, "decode", transport="nccl") as decode:
        assert (await fetch_stats(decode.socket))["fallback"] == "kv_in_host_memory"


async def test_tcp_that_was_asked_for_is_no_fallback_and_moves_kv_between_gpus(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_COPY_US", "500")
    kernels, communicators = ledger.kernels_done, ledger.communicators
    settings = {"transport": "tcp", "chunk_timeout_s": 5.0}
    with (
        running_rank(tmp_path, "prefill", device=DEVICES["prefill"], **settings) as prefill,
        running_rank(tmp_path, "decode", device=DEVICES["decode"], **settings) as decode,
    ):
        assert load(prefill, decode) == set()

        stats = await fetch_stats(decode.socket)
    assert (stats["fallback"], stats["fallbacks"], stats["failures"]) == (None, {}, {})
    assert (ledger.kernels_done, ledger.communicators) == (kernels, communicators)

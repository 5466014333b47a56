"""A process dies in the middle of a chunk's kernel. NCCL tells nobody; the lines between the workers do."""

import hashlib
import signal
import time
from pathlib import Path

import pytest
from unit.kv.nccl.children import Child, running_child
from unit.kv.nccl.conftest import LOCAL, REMOTE, gpu_rank, wait_until
from unit.kv.nccl.fake import Ledger
from unit.kv.rank import BLOCK_BYTES, Rank

from tandem_worker.kv.local import fetch_stats


def pull_from(child: Child, decode: Rank, request_id: str) -> set[int]:
    """Returns the blocks that did not come, and holds the others against their source."""
    digests = child.digests(REMOTE)
    decode.pull(child.peer, child.lease(request_id, REMOTE), LOCAL)
    missing = set(decode.await_load(30).missing_blocks)
    assert_copied(digests, decode, missing)
    return missing


def assert_copied(digests: list[str], decode: Rank, missing: set[int]) -> None:
    came = [(digest, here) for digest, here in zip(digests, LOCAL, strict=True) if here not in missing]
    assert all(hashlib.sha256(decode.block(here)).hexdigest() == digest for digest, here in came)


@pytest.mark.parametrize(
    "death",
    [
        pytest.param("silent", id="as over NVLink"),
        pytest.param("error", id="as over a network", marks=pytest.mark.long),
    ],
)
async def test_prefill_killed_amid_a_kernel_costs_the_missing_blocks_and_a_restart_is_met_anew(
    tmp_path: Path, ledger: Ledger, decode: Rank, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NCCL_DEATH", death)
    with running_child(tmp_path, "prefill", chunk_delay_s_for_test=0.3) as prefill:
        before, digests = ledger.kernels_done, prefill.digests(REMOTE)
        decode.pull(prefill.peer, prefill.lease("r1", REMOTE), LOCAL)
        wait_until(lambda: ledger.kernels_done >= before + 2, 30)  # the warm-up, and a chunk
        killed_s = time.monotonic()
        prefill.process.kill()

        missing = set(decode.await_load(30).missing_blocks)

        assert time.monotonic() - killed_s < 4  # of a deadline of 5 s per chunk
        assert 1 <= len(missing) < len(LOCAL)
        assert_copied(digests, decode, missing)
    wait_until(lambda: ledger.communicators == 0)
    assert (await fetch_stats(decode.socket))["stuck"] is None
    with running_child(tmp_path, "prefill") as prefill:
        assert pull_from(prefill, decode, "r2") == set()


async def test_decode_killed_amid_a_kernel_leaves_prefill_with_its_gpu_and_its_blocks(
    tmp_path: Path, ledger: Ledger
) -> None:
    with gpu_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.2, lease_s=2) as prefill:
        with running_child(tmp_path, "decode") as decode:
            prefill.service.register_lease("r1", [REMOTE])
            before = ledger.kernels_done
            decode.begin_pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
            wait_until(lambda: ledger.kernels_done >= before + 2, 30)
        assert prefill.await_freed(10) == {"r1"}  # when the lease expires: its consumer is dead
        wait_until(lambda: ledger.communicators == 0)
        assert (await fetch_stats(prefill.socket))["sessions"] == 0

        with running_child(tmp_path, "decode") as decode:
            prefill.service.register_lease("r2", [REMOTE])
            decode.begin_pull(prefill.peer, prefill.ticket("r2", REMOTE), LOCAL)
            assert decode.hear() == {"missing": []}
        assert (await fetch_stats(prefill.socket))["bytes_sent"] >= 4 * BLOCK_BYTES


@pytest.mark.long
async def test_a_peer_that_stands_still_amid_a_chunk_is_given_up_at_the_deadline(
    tmp_path: Path, ledger: Ledger
) -> None:
    with (
        gpu_rank(tmp_path, "decode", chunk_timeout_s=1.0) as decode,
        running_child(tmp_path, "prefill", chunk_delay_s_for_test=0.3) as prefill,
    ):
        before = ledger.kernels_done
        decode.pull(prefill.peer, prefill.lease("r1", REMOTE), LOCAL)
        wait_until(lambda: ledger.kernels_done >= before + 2, 30)
        prefill.process.send_signal(signal.SIGSTOP)

        missing = set(decode.await_load(30).missing_blocks)
        prefill.process.send_signal(signal.SIGCONT)

        assert missing
        wait_until(lambda: ledger.communicators == 0)
        failures = set((await fetch_stats(decode.socket))["failures"])
        assert failures & {"chunk_timeout", "peer_silent"}
        assert pull_from(prefill, decode, "r2") == set()

"""KV over the real libnccl, between two processes on one GPU: what arrives, who dies, what is given back, how fast."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from gpu.conftest import StartRank
from unit.kv.nccl.children import Child
from unit.kv.nccl.conftest import LOCAL, REMOTE, wait_until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

RESULTS = Path(__file__).parents[2] / "bench" / "results"
LLAMA_8B = {"layers": 32, "blocks": 256, "page_bytes": 16 * 8 * 128 * 2 * 2}  # 16 tokens, 8 heads, K and V, bf16
REQUEST_BLOCKS = 64
REPEATS = 9


def pull(prefill: Child, decode: Child, request_id: str) -> list[int]:
    """Pull REMOTE into LOCAL; returns what did not come, and holds the rest against its source."""
    decode.begin_pull(prefill.peer, prefill.lease(request_id, REMOTE), LOCAL)
    missing: list[int] = decode.hear()["missing"]
    pairs = zip(prefill.digests(REMOTE), decode.digests(LOCAL), LOCAL, strict=True)
    assert all(theirs == ours for theirs, ours, here in pairs if here not in missing)
    return missing


def test_blocks_arrive_where_they_belong_over_one_communicator(start_rank: StartRank) -> None:
    prefill, decode = start_rank("prefill"), start_rank("decode")

    assert pull(prefill, decode, "r1") == []
    assert pull(prefill, decode, "r2") == []

    for stats in (prefill.stats(), decode.stats()):
        assert (stats["communicators"], stats["failures"], stats["fallback"], stats["stuck"]) == (1, {}, None, None)
    assert prefill.stats()["leases"] == 0


def test_destroyed_kv_is_seen_to_be_destroyed(start_rank: StartRank) -> None:
    prefill, decode = start_rank("prefill"), start_rank("decode", corrupt_for_test=True)
    decode.begin_pull(prefill.peer, prefill.lease("r1", REMOTE), LOCAL)
    assert decode.hear()["missing"] == []
    assert not set(prefill.digests(REMOTE)) & set(decode.digests(LOCAL))


def test_an_idle_communicator_is_given_up_and_made_anew(start_rank: StartRank) -> None:
    prefill, decode = start_rank("prefill", nccl_idle_s=1.0), start_rank("decode", nccl_idle_s=1.0)
    assert pull(prefill, decode, "r1") == []
    wait_until(lambda: not prefill.stats()["communicators"] and not decode.stats()["communicators"], 30)

    assert pull(prefill, decode, "r2") == []

    assert (prefill.stats()["stuck"], decode.stats()["stuck"]) == (None, None)


def test_prefill_killed_amid_a_transfer_costs_the_missing_blocks_and_a_restart_is_met_anew(
    start_rank: StartRank,
) -> None:
    prefill, decode = start_rank("prefill", chunk_delay_s_for_test=1.0), start_rank("decode")
    digests = begin_slowly(prefill, decode)
    killed_s = time.monotonic()
    prefill.kill()

    missing = decode.hear()["missing"]

    assert time.monotonic() - killed_s < 4  # of a deadline of 5 s per chunk
    assert 1 <= len(missing) < len(LOCAL)
    pairs = zip(digests, decode.digests(LOCAL), LOCAL, strict=True)
    assert all(theirs == ours for theirs, ours, here in pairs if here not in missing)
    wait_until(lambda: decode.stats()["communicators"] == 0, 20)
    assert decode.stats()["stuck"] is None
    assert pull(start_rank("prefill"), decode, "r2") == []


def test_decode_killed_amid_a_transfer_leaves_prefill_with_its_gpu_and_its_blocks(start_rank: StartRank) -> None:
    prefill, decode = start_rank("prefill", chunk_delay_s_for_test=1.0, lease_s=3), start_rank("decode")
    begin_slowly(prefill, decode)
    decode.kill()

    wait_until(lambda: prefill.stats()["leases"] == 0 and prefill.stats()["communicators"] == 0, 30)

    assert prefill.stats()["stuck"] is None
    assert pull(prefill, start_rank("decode"), "r2") == []


def begin_slowly(prefill: Child, decode: Child) -> list[str]:
    """Returns the digests of what is sent, when the first of four chunks, a second each, is under way."""
    digests = prefill.digests(REMOTE)
    decode.begin_pull(prefill.peer, prefill.lease("r1", REMOTE), LOCAL)
    wait_until(lambda: prefill.stats()["communicators"] == 1, 90)
    time.sleep(1.5)
    return digests


def test_how_fast_128_mib_of_scattered_blocks_move_is_written_down(start_rank: StartRank) -> None:
    settings: dict[str, Any] = {"shape": LLAMA_8B, "chunk_bytes": 32 << 20}
    prefill, decode = start_rank("prefill", **settings), start_rank("decode", **settings)
    scattered = [(37 * number) % LLAMA_8B["blocks"] for number in range(REQUEST_BLOCKS)]
    rates = [measure(prefill, decode, f"r{number}", scattered) for number in range(REPEATS + 1)][1:]
    stats = decode.stats()
    document = {
        "gb_per_s": round(statistics.median(rates), 2),
        "gb_per_s_all": [round(rate, 2) for rate in rates],
        "bytes": REQUEST_BLOCKS * LLAMA_8B["layers"] * LLAMA_8B["page_bytes"],
        "communicator_bytes": stats["communicator_bytes"],
        "where": "two processes on one device; gather and scatter included",
    }
    (RESULTS / "kv-nccl.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))
    assert stats["failures"] == {}


def measure(prefill: Child, decode: Child, request_id: str, blocks: list[int]) -> float:
    """GB/s of one transfer, as the decode rank's own clock has it."""
    before = decode.stats()
    decode.begin_pull(prefill.peer, prefill.lease(request_id, blocks), blocks[::-1])
    assert decode.hear()["missing"] == []
    after = decode.stats()
    seconds = after["transfer_seconds"] - before["transfer_seconds"]
    return float((after["bytes_received"] - before["bytes_received"]) / seconds / 1e9)

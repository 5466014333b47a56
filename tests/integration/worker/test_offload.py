"""`engine.kvCache.offload` with real vLLM on CPU: what the engine's cache had no room for comes back, and is right.

The caches are so small that a few prompts push one another out.
"""

import json
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from integration.worker.conftest import CODE, Start, WorkerProcess
from integration.worker.test_vllm_worker import PREFILL, text_of, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

BLOCK_TOKENS, BLOCK_BYTES = 32, 32 * 4096  # of the tiny model in float32, in which equality is exact
SMALL = {
    "dtype": "float32",
    "max_model_len": 512,
    "kv_cache_memory_bytes": 26 * BLOCK_BYTES,
    "prefix_caching": True,
    "extra_args": ["--seed=0"],
}
PROMPT_TOKENS = 400
PROMPTS = [[random.Random(seed).randrange(5, 900) for _ in range(PROMPT_TOKENS)] for seed in range(6)]


def read_bytes(worker: WorkerProcess, metric: str) -> float:
    """A counter of vLLM's, by the end of its name; 0 while it has never counted."""
    text = worker.client.get(worker.admin("/metrics")).text
    return sum(map(float, re.findall(rf"^vllm:kv_offload_{metric}_total\{{.*\}} (\S+)", text, re.MULTILINE)))


def ask_all(worker: WorkerProcess, rounds: int) -> list[list[str]]:
    return [[text_of(worker.complete(prompt)) for prompt in PROMPTS] for _ in range(rounds)]


@pytest.mark.parametrize(
    ("module", "is_safe"),
    [
        ("tandem_worker.kv_offload.connector", True),
        ("vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector", False),  # if this fails, drop our fence
    ],
)
def test_what_is_about_to_be_stored_is_copied_before_another_connector_overwrites_it(
    worker_python: str, tmp_path: Path, module: str, *, is_safe: bool
) -> None:
    told = _drive_scheduler(worker_python, tmp_path, module)
    assert told["pending"], "no store was pending on blocks that the load was given"
    assert (set(map(int, told["pending"])) <= set(told["flushed"])) is is_safe


def _drive_scheduler(python: str, folder: Path, module: str) -> dict[str, Any]:
    (folder / "keys").mkdir()
    (folder / "keys" / "kv.key").write_text("a" * 43)
    environment = {**os.environ, "PYTHONPATH": CODE, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    model, probe = str(folder / "model"), str(Path(__file__).with_name("offload_probe.py"))
    make = [python, "-m", "tandem_worker.tiny_model", model]
    subprocess.run(make, check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    command = [python, probe, model, module, str(folder / "keys")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("disk", [False, True])
def test_what_was_pushed_out_comes_back_the_same(start_worker: Start, tmp_path: Path, *, disk: bool) -> None:
    """With a disk, host memory is too small for all of it as well."""
    memory_blocks = 16 if disk else 200
    offload = {"memory_bytes": memory_blocks * BLOCK_BYTES}
    if disk:
        offload |= {"disk_dir": str(tmp_path / "kv"), "disk_bytes": 1 << 30}
    plain, offloading = start_worker("mixed", **SMALL), start_worker("mixed", kv_offload=offload, **SMALL)
    for worker in (plain, offloading):
        worker.wait_ready()
    (truth,) = ask_all(plain, 1)
    assert ask_all(offloading, 3) == [truth] * 3
    assert read_bytes(offloading, "load_bytes") > 0
    assert (read_bytes(offloading, "tiering_read_bytes") > 0) is disk
    if disk:
        assert list((tmp_path / "kv").rglob("*.bin"))
    for worker in (plain, offloading):
        worker.stop()


def test_a_pair_that_offloads_hands_over_and_says_what_one_worker_says(start_worker: Start) -> None:
    """Both connectors in one engine. The second and third round come from host memory, on either side."""
    offload = {"memory_bytes": 200 * BLOCK_BYTES}
    mixed = start_worker("mixed", **SMALL)
    prefill, decode = (start_worker(role, kv_offload=offload, **SMALL) for role in ("prefill", "decode"))
    for worker in (mixed, prefill, decode):
        worker.wait_ready()
    (truth,) = ask_all(mixed, 1)
    for number in range(3):
        texts = []
        for prompt in PROMPTS:
            ticket = prefill.complete(prompt, max_tokens=1, **PREFILL)["kv_transfer_params"]
            texts.append(text_of(decode.complete(prompt, kv_transfer_params=ticket)))
        assert texts == truth, f"round {number}"
    assert ask_all(decode, 1) == [truth], "without a ticket: from host memory, where a pulled prompt was kept"
    state = decode.state()
    assert (state["kv"]["failures"], state["kv"]["recomputed_tokens"]) == (0, 0)
    assert state["kv"]["remote_tokens"] >= PROMPT_TOKENS * len(PROMPTS)
    for worker in (prefill, decode):
        assert read_bytes(worker, "load_bytes") > 0
        assert wait_until(lambda worker=worker: worker.state()["leases"] == 0 == worker.state()["kv_usage"])
    _kill_amid_requests(prefill, decode, truth)


def _kill_amid_requests(prefill: WorkerProcess, decode: WorkerProcess, truth: list[str]) -> None:
    """A failed load beside the offloading connector: what does not come is computed, or comes from host memory."""
    tickets = [prefill.complete(prompt, max_tokens=1, **PREFILL)["kv_transfer_params"] for prompt in PROMPTS[:1]]
    prefill.process.kill()
    prefill.process.wait()
    answers = [decode.complete(PROMPTS[0], kv_transfer_params=ticket) for ticket in tickets]
    assert list(map(text_of, answers)) == truth[:1]
    assert decode.state()["kv"]["failures"] > 0
    assert wait_until(lambda: decode.state()["kv_usage"] == 0)

"""Real vLLM on CUDA: a decode engine with KV over NCCL says what one engine says alone."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.kv.vllm_engine import (
    PROMPT_LENGTHS,
    Engine,
    complete_disaggregated,
    make_tiny_model,
    start_engine,
    text_of,
)

pytestmark = [pytest.mark.gpu, pytest.mark.vllm, pytest.mark.timeout(1800)]

_HAS_CUDA = "import torch, vllm; assert torch.cuda.is_available() and 'cpu' not in vllm.__version__"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """A plain engine, a prefill and a decode engine, and a decode engine that destroys what it gets, on device 0."""
    python = os.environ.get("TANDEM_WORKER_PYTHON")
    if not python or subprocess.run([python, "-c", _HAS_CUDA], capture_output=True, timeout=300).returncode:
        pytest.skip("TANDEM_WORKER_PYTHON names no vLLM for CUDA that finds a device")
    os.environ |= {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_SOCKET_IFNAME": "lo"}
    model = make_tiny_model(python, tmp_path_factory.mktemp("tiny") / "model")
    roles = {"plain": None, "prefill": "prefill", "decode": "decode", "corrupting": "decode"}
    started: dict[str, Engine] = {}
    for number, (name, role) in enumerate(roles.items(), 1):
        settings = {} if role is None else {"transport": "nccl", "corrupt_for_test": name == "corrupting"}
        folder: Path = tmp_path_factory.mktemp(name)
        started[name] = start_engine(python, model, folder, f"127.0.99.{number}", role, dtype="bfloat16", **settings)
    try:
        for engine in started.values():
            engine.wait_ready()
        yield started
    finally:
        for engine in started.values():
            engine.stop()


def test_twelve_prompts_give_the_tokens_of_a_single_engine_with_all_their_kv_over_nccl(
    engines: dict[str, Engine],
) -> None:
    prompts = [_make_prompt(length) for length in PROMPT_LENGTHS]
    alone = [text_of(engines["plain"].complete(prompt)) for prompt in prompts]
    decode = engines["decode"]

    together = [text_of(complete_disaggregated(engines["prefill"], decode, prompt)) for prompt in prompts]

    stats = decode.stats()
    assert together == alone
    assert (stats["fallback"], stats["failures"], stats["recomputed_tokens"]) == (None, {}, 0)
    assert stats["remote_tokens"] == sum(PROMPT_LENGTHS)
    assert stats["communicators"] == 1
    assert engines["prefill"].stats()["leases"] == 0


def test_destroyed_kv_changes_the_tokens(engines: dict[str, Engine]) -> None:
    prompts = [_make_prompt(length) for length in PROMPT_LENGTHS]
    alone = [text_of(engines["plain"].complete(prompt)) for prompt in prompts]

    wrong = [text_of(complete_disaggregated(engines["prefill"], engines["corrupting"], each)) for each in prompts]

    assert sum(left == right for left, right in zip(alone, wrong, strict=True)) <= 1


def _make_prompt(tokens: int) -> list[int]:
    rng = random.Random(tokens)
    return [rng.randrange(5, 900) for _ in range(tokens)]

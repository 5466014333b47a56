"""Typed optimisations on real vLLM, each through a worker: what it does, and that it changes no answer."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.worker.conftest import CODE, Start, WorkerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

NGRAM = {"method": "ngram", "tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
DRAFT = {"method": "draft_model", "tokens": 3, "draft": {"source": "synthetic://tiny-llama"}}
PREFILL = {"kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}
PROMPT = "the river does not hurry and yet it reaches the sea in the morning boats go out with the tide " * 6


@dataclass
class Fleet:
    """Workers of one model: `plain` is what the others are held to."""

    plain: WorkerProcess
    guessing: WorkerProcess
    prefill: WorkerProcess
    decode: WorkerProcess


@pytest.fixture(scope="module")
def adapter(worker_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LoRA adapter on a volume."""
    directory = tmp_path_factory.mktemp("claim") / "chat"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": CODE}
    script = str(Path(__file__).with_name("tiny_adapter.py"))
    subprocess.run([worker_python, script, str(directory)], env=environment, check=True, timeout=240)
    return {"name": "team/chat", "source": "pvc://adapters/chat", "path": str(directory)}


@pytest.fixture(scope="module")
def plain(start_worker: Start, adapter: dict[str, str]) -> WorkerProcess:
    """Started, and ready by the time that somebody waits for it."""
    return start_worker("mixed", dtype="float32", adapters=[adapter])


@pytest.fixture(scope="module")
def fleet(start_worker: Start, plain: WorkerProcess, adapter: dict[str, str]) -> Fleet:
    common = {"dtype": "float32", "adapters": [adapter]}  # on the tiny model bfloat16 noise alone changes words
    fleet = Fleet(
        plain,
        start_worker("mixed", dtype="float32", speculative=NGRAM, prefix_caching=False),
        start_worker("prefill", speculative=NGRAM, **common),
        start_worker("decode", speculative=NGRAM, **common),
    )
    for worker in (fleet.plain, fleet.guessing, fleet.prefill, fleet.decode):
        worker.wait_ready()
    return fleet


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def read_metric(worker: WorkerProcess, name: str) -> float:
    text = worker.client.get(worker.engine("/metrics")).text
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def hand_over(fleet: Fleet, prompt: str, **more: Any) -> dict[str, Any]:
    first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL, **more)
    return fleet.decode.complete(prompt, kv_transfer_params=first["kv_transfer_params"], **more)


def cached_tokens(answer: dict[str, Any]) -> int:
    return int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def test_ngrams_are_guessed_and_checked_and_change_no_word(fleet: Fleet) -> None:
    assert text_of(fleet.guessing.complete(PROMPT)) == text_of(fleet.plain.complete(PROMPT))
    assert read_metric(fleet.guessing, "vllm:spec_decode_num_draft_tokens_total") > 0
    assert read_metric(fleet.plain, "vllm:spec_decode_num_draft_tokens_total") == 0


def test_without_prefix_caching_no_prompt_is_remembered(fleet: Fleet) -> None:
    for worker, remembers in ((fleet.plain, True), (fleet.guessing, False)):
        worker.complete(PROMPT)
        assert (cached_tokens(worker.complete(PROMPT)) > 0) == remembers


def test_an_adapter_answers_under_its_own_name(fleet: Fleet) -> None:
    listed = {model["id"] for model in fleet.plain.client.get(fleet.plain.engine("/v1/models")).json()["data"]}
    assert listed == {"tiny", "team/chat"}
    base, adapted = fleet.plain.complete(PROMPT), fleet.plain.complete(PROMPT, model="team/chat")
    assert text_of(base) != text_of(adapted)
    assert text_of(fleet.plain.complete(PROMPT)) == text_of(base)


@pytest.mark.parametrize("model", ["tiny", "team/chat"])
def test_kv_of_model_and_adapter_is_handed_over_beside_speculation(fleet: Fleet, model: str) -> None:
    prompt = f"{model} {PROMPT}"
    remote = fleet.decode.state()["kv"]["remote_tokens"]
    together = hand_over(fleet, prompt, model=model)
    assert text_of(together) == text_of(fleet.plain.complete(prompt, model=model))
    assert fleet.decode.state()["kv"]["remote_tokens"] > remote
    assert read_metric(fleet.decode, "vllm:spec_decode_num_draft_tokens_total") > 0
    assert read_metric(fleet.prefill, "vllm:spec_decode_num_draft_tokens_total") == 0


def test_a_draft_model_guesses_and_changes_no_word(plain: WorkerProcess, start_worker: Start) -> None:
    worker = start_worker("mixed", dtype="float32", speculative=DRAFT)
    for one in (plain, worker):
        one.wait_ready()
    assert text_of(worker.complete(PROMPT)) == text_of(plain.complete(PROMPT))
    assert read_metric(worker, "vllm:spec_decode_num_accepted_tokens_total") > 0

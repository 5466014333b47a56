"""Workers with real vLLM, started as in production: the two-step flow, the drain, the ends."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.worker.conftest import Start, WorkerProcess

from tandem_api.worker import WorkerState

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

TEXT = "the river does not hurry and yet it reaches the sea in the morning boats go out with the tide"
PREFILL = {"kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}
LENGTHS = (3, 40, 200, 800)


@dataclass
class Fleet:
    """One worker of each role, with the tiny model that each made by itself."""

    prefill: WorkerProcess
    decode: WorkerProcess
    mixed: WorkerProcess


@pytest.fixture(scope="module")
def fleet(start_worker: Start) -> Fleet:
    """All start at once, for start-up is what takes time."""
    fleet = Fleet(start_worker("prefill"), start_worker("decode"), start_worker("mixed"))
    for worker in (fleet.prefill, fleet.decode, fleet.mixed):
        print(f"ready after {worker.wait_ready():.1f} s, three workers starting together")
    return fleet


def make_prompt(words: int, seed: int = 0) -> str:
    rng = random.Random(f"{words} {seed}")
    return " ".join(rng.choice(TEXT.split()) for _ in range(words))


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def test_prefill_and_decode_together_say_what_a_mixed_worker_says(fleet: Fleet) -> None:
    prompts = [make_prompt(words) for words in LENGTHS]
    alone = [text_of(fleet.mixed.complete(prompt)) for prompt in prompts]
    before = WorkerState.model_validate(fleet.decode.state())
    together, prompt_tokens = [], 0
    for prompt in prompts:
        first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
        prompt_tokens += first["usage"]["prompt_tokens"]
        together.append(text_of(fleet.decode.complete(prompt, kv_transfer_params=first["kv_transfer_params"])))
    after = WorkerState.model_validate(fleet.decode.state())
    assert together == alone
    assert after.kv.remote_tokens - before.kv.remote_tokens == prompt_tokens
    assert after.kv.failures == before.kv.failures
    assert after.kv.bytes_received > before.kv.bytes_received
    assert fleet.prefill.state()["leases"] == 0


def test_the_state_is_small_and_says_what_the_worker_is(fleet: Fleet) -> None:
    answer = httpx.get(fleet.prefill.admin("/tandem/v1/state"))
    assert len(answer.content) <= 1024
    state = WorkerState.model_validate_json(answer.content)
    assert (state.role, state.fleet, state.ready, state.slots) == ("prefill", "default/chat", True, 8)


def test_the_engine_reports_its_load_under_the_names_that_the_state_is_read_from(fleet: Fleet) -> None:
    from tandem_worker.engine_api import KV_USAGE_METRIC, RUNNING_METRIC, WAITING_METRIC

    metrics = fleet.mixed.client.get(fleet.mixed.engine("/metrics")).text
    for name in (RUNNING_METRIC, WAITING_METRIC, KV_USAGE_METRIC):
        assert re.search(rf"^{name}\{{.*\}} \d", metrics, re.MULTILINE)
    with fleet.mixed.client.stream("POST", fleet.mixed.engine("/v1/completions"), json=_long_body()) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert wait_until(lambda: fleet.mixed.state()["running"] == 1)
    assert wait_until(lambda: fleet.mixed.state()["running"] == 0)


def test_only_the_fleets_key_reaches_the_engine(fleet: Fleet) -> None:
    assert httpx.get(fleet.mixed.engine("/health")).status_code == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/tandem/v1/inflight"):
        assert httpx.get(fleet.mixed.engine(path)).status_code == 401
    answer = httpx.post(fleet.mixed.engine("/v1/completions"), json={}, headers={"authorization": "Bearer x"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "unauthorized")


def test_a_lease_that_nobody_pulls_is_released_on_order(fleet: Fleet) -> None:
    first = fleet.prefill.complete(make_prompt(50, seed=1), max_tokens=1, **PREFILL)
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 1)
    body = {"kv_transfer_params": first["kv_transfer_params"]}
    assert httpx.post(fleet.prefill.admin("/tandem/v1/leases:release"), json=body).status_code == 401
    answer = fleet.prefill.client.post(fleet.prefill.admin("/tandem/v1/leases:release"), json=body)
    assert answer.json() == {"released": 1}
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 0)


def test_a_drain_with_an_open_stream_loses_no_token_and_ends_with_0(fleet: Fleet) -> None:
    worker, outcome = fleet.mixed, {}

    def read_stream() -> None:
        with worker.client.stream("POST", worker.engine("/v1/completions"), json=_long_body()) as stream:
            outcome["text"] = "".join(stream.iter_text())

    reader = threading.Thread(target=read_stream)
    reader.start()
    family = find_family(worker)
    assert wait_until(lambda: worker.state()["running"] == 1)
    worker.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: not worker.is_ready(), within_s=1)
    assert text_of(worker.complete("raced in", max_tokens=2))
    time.sleep(3.5)
    late = worker.client.post(worker.engine("/v1/completions"), json=_long_body())
    assert (late.status_code, late.headers["x-tandem-error"]) == (503, "draining")
    reader.join(60)
    assert '"finish_reason":"length"' in outcome["text"]
    assert outcome["text"].endswith("data: [DONE]\n\n")
    assert worker.process.wait(30) == 0, worker.read_log()
    assert wait_until(lambda: not find_alive(family))


def test_nothing_outlives_a_worker_that_is_killed(fleet: Fleet) -> None:
    family = find_family(fleet.decode)
    assert any("EngineCore" in name for name in family.values())
    fleet.decode.process.kill()
    fleet.decode.process.wait()
    assert wait_until(lambda: not find_alive(family)), find_alive(family)


def test_an_engine_core_that_dies_ends_the_worker_with_a_reason(fleet: Fleet) -> None:
    family = find_family(fleet.prefill)
    os.kill(next(pid for pid, name in family.items() if "EngineCore" in name), signal.SIGKILL)
    assert fleet.prefill.process.wait(30) != 0
    assert fleet.prefill.termination.startswith("WorkerCrashing: ")
    assert wait_until(lambda: not find_alive(family))


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"source": "hf://tandem-tests/no-such-model"}, "ModelUnavailable: "),
        ({"extra_args": ["--frobnicate"]}, "InvalidSpec: .*frobnicate"),
        ({"block_size": 7}, "InvalidSpec: .*block"),
    ],
)
def test_an_engine_that_cannot_start_says_why(start_worker: Start, engine: dict[str, Any], message: str) -> None:
    worker = start_worker("mixed", **engine)
    assert worker.process.wait(240) != 0
    assert re.match(message, worker.termination), worker.read_log()


def _long_body() -> dict[str, Any]:
    return {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 2500, "stream": True, "ignore_eos": True}


def wait_until(condition: Any, within_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.05)
    return False


def find_family(worker: WorkerProcess) -> dict[int, str]:
    """pid → command of a worker's process and all its descendants."""
    parents = {pid: (parent, name) for pid, parent, name in _list_processes()}
    family = {worker.process.pid: "supervisor"}
    while new := {pid: name for pid, (parent, name) in parents.items() if parent in family and pid not in family}:
        family |= new
    return family


def find_alive(family: dict[int, str]) -> dict[int, str]:
    """Those of a family that still run."""
    return {pid: name for pid, _, name in _list_processes() if pid in family and name}


def _list_processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, command); the command of a zombie is empty."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # gone
        yield int(directory.name), parent, command

"""`kvTransfer.connector: nixl` with real vLLM on CPU: the same answers, the same contract, seen from outside."""

import json
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.router.fleet_site import ROOT, UID, RouterProcess
from integration.worker.conftest import CODE, Start, WorkerProcess
from integration.worker.test_vllm_worker import LENGTHS, PREFILL, make_prompt, text_of, wait_until

from tandem_api.worker import WorkerState
from tandem_core.keys import ROUTER_KEY_FILE, derive_router_key, encode_key

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]


@dataclass
class Fleet:
    """A pair that hands over by NIXL, and one worker that knows the truth."""

    prefill: WorkerProcess
    decode: WorkerProcess
    mixed: WorkerProcess


@pytest.fixture(scope="module")
def fleet(worker_python: str, start_worker: Start) -> Fleet:
    look = [worker_python, "-c", "import nixl"]
    if subprocess.run(look, env={"PYTHONPATH": CODE}, capture_output=True, check=False).returncode:
        pytest.skip("NIXL is not installed: `make test-long` puts it beside vLLM and sets TANDEM_NIXL_DIR")
    fleet = Fleet(
        start_worker("prefill", connector="nixl"), start_worker("decode", connector="nixl"), start_worker("mixed")
    )
    for worker in (fleet.prefill, fleet.decode, fleet.mixed):
        worker.wait_ready()
    return fleet


def test_prefill_and_decode_over_nixl_say_what_a_mixed_worker_says(fleet: Fleet) -> None:
    prompts = [make_prompt(words) for words in LENGTHS]
    alone = [text_of(fleet.mixed.complete(prompt)) for prompt in prompts]
    together, prompt_tokens, last = [], 0, ""
    for prompt in prompts:
        first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
        prompt_tokens += first["usage"]["prompt_tokens"]
        last = first["kv_transfer_params"]["remote_request_id"]
        together.append(text_of(fleet.decode.complete(prompt, kv_transfer_params=first["kv_transfer_params"])))
    state = WorkerState.model_validate(fleet.decode.state())
    assert together == alone
    assert state.kv.remote_tokens == prompt_tokens
    assert (state.kv.failures, state.kv.recomputed_tokens) == (0, 0)
    assert state.kv.bytes_received > 0
    load = fleet.decode.client.get(fleet.decode.admin("/tandem/v1/state"), params={"load": last}).json()["load"]
    assert load["prefill"] == fleet.prefill.address
    assert load["remote_tokens"] > 0 < load["bytes_received"]
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 0)


def test_the_router_hands_over_by_nixl_as_by_any_connector(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / ROUTER_KEY_FILE).write_text(encode_key(derive_router_key(ROOT)))
    pair = (("prefill", fleet.prefill), ("decode", fleet.decode))
    workers = [{"name": role, "role": role, "address": one.address, "kvRevision": "r1"} for role, one in pair]
    file = tmp_path / "fleets.json"
    file.write_text(json.dumps({"fleets": [{"name": "chat", "servedName": "tiny", "uid": UID, "workers": workers}]}))
    router = RouterProcess(tmp_path, file, "--min-remote-tokens", "1")
    before = fleet.decode.state()["kv"]
    try:
        router.wait_for_workers(2)
        prompts = [make_prompt(words, seed=7) for words in (50, 300)]
        for prompt in prompts:
            body = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0}
            answer = httpx.post(f"{router.url}/v1/completions", json=body, timeout=120)
            assert answer.status_code == 200, answer.text
            assert text_of(answer.json()) == text_of(fleet.mixed.complete(prompt))
        assert 'reason="remote"' in router.read_metrics()
    finally:
        router.stop()
    assert fleet.decode.state()["kv"]["transfers"] - before["transfers"] == len(prompts)
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 0)


def test_a_lease_that_nobody_pulls_is_released_on_order_or_by_one_token(fleet: Fleet) -> None:
    for seed, release in enumerate((_release_by_order, _release_by_one_token)):
        prompt = make_prompt(60, seed=seed)
        first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
        assert wait_until(lambda: fleet.prefill.state()["leases"] == 1)
        release(fleet, prompt, first["kv_transfer_params"])
        assert wait_until(lambda: fleet.prefill.state()["leases"] == 0 == fleet.prefill.state()["kv_usage"])


def _release_by_order(fleet: Fleet, _: str, ticket: dict[str, Any]) -> None:
    body = {"kv_transfer_params": ticket}
    answer = fleet.prefill.client.post(fleet.prefill.admin("/tandem/v1/leases:release"), json=body)
    assert answer.json() == {"released": 1}


def _release_by_one_token(fleet: Fleet, prompt: str, ticket: dict[str, Any]) -> None:
    fleet.decode.complete(prompt, max_tokens=1, kv_transfer_params=ticket)


def test_a_prompt_that_the_decode_worker_has_already_frees_the_lease(fleet: Fleet) -> None:
    """vLLM's prefix cache holds whole blocks only: two of 32 tokens here, and nothing is left to pull."""
    prompt = [7 + number for number in range(64)]
    fleet.decode.complete(prompt, max_tokens=1)
    first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
    fleet.decode.complete(prompt, max_tokens=1, kv_transfer_params=first["kv_transfer_params"])
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 0)


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("bad_signature", {"mac": "0" * 64}),
        ("foreign_fleet", {"fleet": "other/fleet"}),
        ("malformed", {"remote_num_tokens": "many"}),
    ],
)
def test_a_forged_ticket_is_never_dialled_and_costs_a_recompute(
    fleet: Fleet, reason: str, forge: dict[str, Any]
) -> None:
    prompt = f"{reason} {make_prompt(70)}"
    first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
    before = fleet.decode.state()["kv"]
    answer = fleet.decode.complete(prompt, kv_transfer_params=first["kv_transfer_params"] | forge)
    after = fleet.decode.state()["kv"]
    _release_by_order(fleet, prompt, first["kv_transfer_params"])
    assert text_of(answer) == text_of(fleet.mixed.complete(prompt))
    assert after["recomputed_tokens"] - before["recomputed_tokens"] == first["usage"]["prompt_tokens"]
    assert after["bytes_received"] == before["bytes_received"]
    assert f'kv_failures_total{{reason="{reason}"' in fleet.decode.client.get(fleet.decode.admin("/metrics")).text


def test_a_ticket_of_another_prompt_is_not_redeemed_and_its_lease_ends(fleet: Fleet) -> None:
    first = fleet.prefill.complete(make_prompt(80, seed=1), max_tokens=1, **PREFILL)
    other = make_prompt(80, seed=2)
    answer = fleet.decode.complete(other, kv_transfer_params=first["kv_transfer_params"])
    assert text_of(answer) == text_of(fleet.mixed.complete(other))
    assert wait_until(lambda: fleet.prefill.state()["leases"] == 0)


def test_a_client_that_leaves_on_either_leg_pins_nothing(fleet: Fleet) -> None:
    prompt = make_prompt(400, seed=3)
    first = fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)
    for worker, more in ((fleet.decode, {"kv_transfer_params": first["kv_transfer_params"]}), (fleet.prefill, PREFILL)):
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 900, "ignore_eos": True, **more}
        with suppress(httpx.ReadTimeout):
            worker.client.post(worker.engine("/v1/completions"), json=body, timeout=httpx.Timeout(5, read=0.2))
    for worker in (fleet.prefill, fleet.decode):
        assert wait_until(lambda worker=worker: _is_idle(worker), within_s=20), worker.state()


def _is_idle(worker: WorkerProcess) -> bool:
    state = worker.state()
    return bool(state["leases"] == state["running"] == state["kv_usage"] == 0)


def test_a_prefill_worker_that_is_killed_costs_a_recompute_and_then_opens_the_circuit(fleet: Fleet) -> None:
    prompts = [make_prompt(90, seed=seed) for seed in range(4)]
    tickets = [fleet.prefill.complete(prompt, max_tokens=1, **PREFILL)["kv_transfer_params"] for prompt in prompts]
    before = fleet.decode.state()["kv"]["recomputed_tokens"]
    fleet.prefill.process.send_signal(signal.SIGKILL)
    fleet.prefill.process.wait()
    for prompt, ticket in zip(prompts, tickets, strict=True):
        started_s = time.monotonic()
        answer = fleet.decode.complete(prompt, kv_transfer_params=ticket)
        print(f"answered {time.monotonic() - started_s:.2f} s after the prefill worker was gone")
        assert text_of(answer) == text_of(fleet.mixed.complete(prompt))
    state = fleet.decode.state()
    assert state["kv"]["recomputed_tokens"] > before
    assert state["circuits_open"] == [fleet.prefill.address]
    assert 'kv_failures_total{reason="circuit_open"' in fleet.decode.client.get(fleet.decode.admin("/metrics")).text

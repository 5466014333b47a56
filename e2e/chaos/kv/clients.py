"""Clients that go away, on either leg."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from integration.kv.vllm_engine import Engine, prefill

from chaos.kv.stage import Outcome, Stage

_TOKENS = 1400
_BACK_WITHIN_S = 1.0


def leave_during_prefill(stage: Stage) -> Outcome:
    """The router cancels the first leg, and orders the lease free in case it has begun."""
    name = f"chaos-{stage.rng.getrandbits(64):016x}"
    order = {"do_remote_decode": True, "do_remote_prefill": False}
    _ask_and_leave(stage.prefill, stage.make_prompt(_TOKENS), order, 0.05, {"X-Request-Id": name})
    stage.prefill.ask({"op": "release", "request_id": name})
    return _await_freedom(stage, [stage.prefill])


def leave_during_transfer(stage: Stage) -> Outcome:
    """The second leg is cancelled while blocks are arriving."""
    prompt = stage.make_prompt(_TOKENS)
    ticket = prefill(stage.victim, prompt)
    _ask_and_leave(stage.decode, prompt, ticket, 0.9)
    return _await_freedom(stage, [stage.victim, stage.decode])


def leave_during_decode(stage: Stage) -> Outcome:
    """All KV is here, tokens are being made."""
    prompt = stage.make_prompt(200)
    ticket = prefill(stage.prefill, prompt)
    before = stage.decode.stats()["transfers"]
    _ask_and_leave(stage.decode, prompt, ticket, 0.5, max_tokens=1500)
    outcome = _await_freedom(stage, [stage.prefill, stage.decode])
    if stage.decode.stats()["transfers"] == before:
        outcome.misses.append("the client left before the KV was here")
    return outcome


def _ask_and_leave(
    engine: Engine,
    prompt: list[int],
    params: dict[str, Any],
    after_s: float,
    headers: dict[str, str] | None = None,
    max_tokens: int = 400,
) -> None:
    body = {
        "model": "m", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
        "kv_transfer_params": params,
    }  # fmt: skip
    with suppress(httpx.ReadTimeout):
        engine.client.post("/v1/completions", json=body, headers=headers, timeout=httpx.Timeout(5, read=after_s))


def _await_freedom(stage: Stage, engines: list[Engine]) -> Outcome:
    before = stage.decode.stats()["failures"]
    took_s = _wait(lambda: all(engine.stats()["leases"] == 0 for engine in engines))
    outcome = Outcome(f"leases free after {took_s * 1e3:.0f} ms", took_s)
    if took_s > _BACK_WITHIN_S:
        outcome.misses.append(f"leases outlived their client by more than {_BACK_WITHIN_S:g} s")
    if stage.decode.stats()["failures"] != before:
        outcome.misses.append("a cancelled request was counted as a failure")
    return outcome


def _wait(is_so: Callable[[], bool]) -> float:
    started_s = time.monotonic()
    while not is_so() and time.monotonic() - started_s < 10 * _BACK_WITHIN_S:
        time.sleep(0.005)
    return time.monotonic() - started_s

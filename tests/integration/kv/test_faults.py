"""Real engines, killed and abandoned: answers stay right, waits stay short, leases come back."""

import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from integration.kv.vllm_engine import Engine, Fleet, prefill, text_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MakePrompt = Callable[[int], list[int]]


def wait_for(is_so: Callable[[], bool], timeout_s: float) -> float:
    """Returns how long it took; fails when it takes longer."""
    started_s = time.monotonic()
    while not is_so():
        waited_s = time.monotonic() - started_s
        assert waited_s < timeout_s, f"not so after {waited_s:.1f} s"
        time.sleep(0.01)
    return time.monotonic() - started_s


def send_and_leave(decode: Engine, prompt: list[int], ticket: dict[str, object], after_s: float) -> None:
    """A client that closes its connection `after_s` after it asked."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 40, "temperature": 0, "kv_transfer_params": ticket}
    with pytest.raises(httpx.ReadTimeout):
        decode.client.post("/v1/completions", json=body, timeout=httpx.Timeout(5, read=after_s))


def test_a_client_that_leaves_during_the_transfer_frees_both_engines_within_a_second(
    fleet: Fleet, slow_prefill: Engine, make_prompt: MakePrompt
) -> None:
    prompt = make_prompt(1400)
    ticket = prefill(slow_prefill, prompt)
    wait_for(lambda: slow_prefill.stats()["leases"] == 1, 2)
    before = fleet.decode.stats()["failures"]

    send_and_leave(fleet.decode, prompt, ticket, after_s=0.7)

    assert wait_for(lambda: slow_prefill.stats()["leases"] == 0, 2) < 1
    assert fleet.decode.stats()["failures"] == before, "a cancelled request is no failure"
    follow_up = make_prompt(100)
    alone = text_of(fleet.plain.complete(follow_up))
    answer = fleet.decode.complete(follow_up, kv_transfer_params=prefill(slow_prefill, follow_up))
    assert text_of(answer) == alone


def test_a_released_lease_is_free_at_once_and_its_ticket_is_refused(fleet: Fleet, make_prompt: MakePrompt) -> None:
    prompt = make_prompt(300)
    alone = text_of(fleet.plain.complete(prompt))
    ticket = prefill(fleet.prefill, prompt)
    transport_id = str(ticket["remote_request_id"])[5:40]
    wait_for(lambda: fleet.prefill.stats()["leases"] == 1, 2)  # known to its ranks one engine step after the answer

    assert fleet.prefill.ask({"op": "release", "request_id": transport_id}) == {"released": 1}

    assert fleet.prefill.stats()["leases"] == 0
    assert text_of(fleet.decode.complete(prompt, kv_transfer_params=ticket)) == alone
    assert fleet.decode.stats()["failures"]["rejected_lease_released"] == 1


def test_a_release_that_comes_before_the_prefill_is_remembered(fleet: Fleet, make_prompt: MakePrompt) -> None:
    transport_id = "tombstone-0123456789"
    assert fleet.prefill.ask({"op": "release", "request_id": transport_id}) == {"released": 0}

    headers = {"X-Request-Id": transport_id}
    order = {"do_remote_decode": True, "do_remote_prefill": False}
    body = {"model": "m", "prompt": make_prompt(300), "max_tokens": 1, "kv_transfer_params": order}
    params = fleet.prefill.client.post("/v1/completions", json=body, headers=headers).json()["kv_transfer_params"]

    assert transport_id in params["remote_request_id"]
    wait_for(lambda: fleet.prefill.stats()["leases"] == 0, 1)


def test_prefill_that_stops_mid_transfer_is_given_up_and_used_again_when_it_goes_on(
    fleet: Fleet, slow_prefill: Engine, make_prompt: MakePrompt
) -> None:
    prompt, follow_up = make_prompt(1400), make_prompt(100)
    alone = [text_of(fleet.plain.complete(each)) for each in (prompt, follow_up)]
    ticket = prefill(slow_prefill, prompt)
    threading.Timer(1.0, slow_prefill.kill, [signal.SIGSTOP]).start()

    started_s = time.monotonic()
    answer = text_of(fleet.decode.complete(prompt, kv_transfer_params=ticket))
    took_s = time.monotonic() - started_s
    slow_prefill.kill(signal.SIGCONT)

    before = fleet.decode.stats()["remote_tokens"]
    later = text_of(fleet.decode.complete(follow_up, kv_transfer_params=prefill(slow_prefill, follow_up)))
    assert [answer, later] == alone
    assert took_s < 10
    assert fleet.decode.stats()["remote_tokens"] - before == len(follow_up)


def test_prefill_killed_mid_transfer_costs_only_the_missing_blocks_and_later_tickets_a_recompute(
    fleet: Fleet, slow_prefill: Engine, make_prompt: MakePrompt
) -> None:
    prompt, other = make_prompt(1400), make_prompt(1000)
    alone = [text_of(fleet.plain.complete(each)) for each in (prompt, other)]
    tickets = [prefill(slow_prefill, each) for each in (prompt, other)]
    before = fleet.decode.stats()
    threading.Timer(1.0, slow_prefill.kill).start()

    started_s = time.monotonic()
    cut_short = text_of(fleet.decode.complete(prompt, kv_transfer_params=tickets[0]))
    midway = fleet.decode.stats()
    never_begun = text_of(fleet.decode.complete(other, kv_transfer_params=tickets[1]))
    took_s = time.monotonic() - started_s

    after = fleet.decode.stats()
    remote = midway["remote_tokens"] - before["remote_tokens"]
    assert [cut_short, never_begun] == alone
    assert took_s < 10
    assert 0 < remote < len(prompt)
    assert midway["recomputed_tokens"] - before["recomputed_tokens"] == len(prompt) - remote
    assert after["recomputed_tokens"] - midway["recomputed_tokens"] == len(other)

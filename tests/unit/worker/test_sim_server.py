"""The sim engine over HTTP: the surface that a router needs, the hand-over, the faults."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from unit.worker.conftest import MakeSettings, Run
from unit.worker.parts import BEARER, Worker

from tandem_api.worker import EngineConfig, KVTransferConfig, Role
from tandem_worker.admin import STATE_PATH

PROMPT = "The river does not hurry, and yet it reaches the sea. " * 8
BODY = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 6}
PREFILL = {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}

Ask = Any


@pytest.fixture
async def mixed(make_settings: MakeSettings, run_worker: Run) -> Worker:
    return await run_worker(make_settings())


@pytest.fixture
def ask(session: aiohttp.ClientSession) -> Ask:
    """POSTs JSON to an engine; returns (status, body)."""

    async def post(worker: Worker, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post(worker.engine + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    return post


async def test_a_completion_has_the_fields_that_the_router_counts_by(mixed: Worker, ask: Ask) -> None:
    status, answer = await ask(mixed, "/v1/completions", BODY)
    assert status == 200
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (12, usage["prompt_tokens"] + 12)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    _, again = await ask(mixed, "/v1/completions", BODY)
    assert again["choices"][0]["text"] == answer["choices"][0]["text"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_a_stream_says_the_same_as_a_whole_answer(
    mixed: Worker, ask: Ask, session: aiohttp.ClientSession
) -> None:
    _, whole = await ask(mixed, "/v1/chat/completions", CHAT)
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    async with session.post(mixed.engine + "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in (await answer.text()).split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 6
    text = "".join(event["choices"][0]["delta"]["content"] for event in events[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 6 + ["length"]


async def test_models_are_listed(mixed: Worker, session: aiohttp.ClientSession) -> None:
    async with session.get(mixed.engine + "/v1/models") as answer:
        assert [card["id"] for card in (await answer.json())["data"]] == ["tiny"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[]", 400, None),
        ({}, 400, "model"),
        ({"model": "other", "prompt": "x"}, 404, "model"),
        ({"model": "tiny"}, 400, "prompt"),
        ({"model": "tiny", "prompt": "x", "n": 2}, 400, "n"),
        ({"model": "tiny", "prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "tiny", "prompt": "x", "max_tokens": 10**9}, 400, "max_tokens"),
    ],
)
async def test_a_bad_request_is_answered_in_openais_shape(
    mixed: Worker, ask: Ask, body: Any, status: int, param: str | None
) -> None:
    found, answer = await ask(mixed, "/v1/completions", body)
    assert found == status
    assert (answer["error"]["code"], answer["error"]["param"]) == (status, param)


@pytest.mark.parametrize("connector", ["tcp", "nixl"])
async def test_prefill_and_decode_together_say_what_a_mixed_worker_says(
    make_settings: MakeSettings, run_worker: Run, ask: Ask, mixed: Worker, connector: Any
) -> None:
    transfer = KVTransferConfig(connector=connector, lease_s=5)
    prefill, decode = [
        await run_worker(make_settings(role, kv_transfer=transfer)) for role in (Role.PREFILL, Role.DECODE)
    ]
    _, first = await ask(prefill, "/v1/completions", BODY | PREFILL)
    assert (await _state(prefill))["leases"] == 1
    ticket = first["kv_transfer_params"]
    assert (ticket.get("transfer_mode") == "pull") is (connector == "nixl")
    _, answer = await ask(decode, "/v1/completions", BODY | {"kv_transfer_params": ticket})
    _, alone = await ask(mixed, "/v1/completions", BODY)
    assert answer["choices"][0]["text"] == alone["choices"][0]["text"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    state = await _state(decode)
    assert state["kv"]["remote_tokens"] == answer["usage"]["prompt_tokens"]
    assert state["kv"]["bytes_received"] == (await _state(prefill))["kv"]["bytes_sent"] > 0
    assert (await _state(prefill))["leases"] == 0
    load = (await _state(decode, load=ticket["remote_request_id"]))["load"]
    assert load["prefill"] == prefill.settings.pod_ip
    assert (load["remote_tokens"], load["bytes_received"]) == (
        state["kv"]["remote_tokens"],
        state["kv"]["bytes_received"],
    )
    assert (await _state(decode, load="of-nobody"))["load"] is None


async def test_a_ticket_that_is_forged_foreign_reused_or_for_another_prompt_is_counted_and_recomputed(
    make_settings: MakeSettings, run_worker: Run, ask: Ask
) -> None:
    prefill, decode = await run_worker(make_settings(Role.PREFILL)), await run_worker(make_settings(Role.DECODE))

    async def issue() -> dict[str, Any]:
        ticket: dict[str, Any] = (await ask(prefill, "/v1/completions", BODY | PREFILL))[1]["kv_transfer_params"]
        return ticket

    used = await issue()
    await ask(decode, "/v1/completions", BODY | {"kv_transfer_params": used})
    faults = {
        "no_lease": BODY | {"kv_transfer_params": used},
        "bad_signature": BODY | {"kv_transfer_params": await issue() | {"remote_port": 1}},
        "foreign_fleet": BODY | {"kv_transfer_params": await issue() | {"fleet": "other/fleet"}},
        "other_prompt": BODY | {"prompt": "else", "kv_transfer_params": await issue()},
        "malformed": BODY | {"kv_transfer_params": {"do_remote_prefill": True}},
    }
    for body in faults.values():
        status, answer = await ask(decode, "/v1/completions", body)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 12)
    text = await _metrics(decode)
    for reason in faults:
        assert f'tandem_worker_kv_failures_total{{reason="{reason}",role="decode"}} 1.0' in text


async def test_a_prefill_worker_that_is_gone_costs_a_recompute_and_not_the_request(
    make_settings: MakeSettings, run_worker: Run, ask: Ask
) -> None:
    prefill, decode = await run_worker(make_settings(Role.PREFILL)), await run_worker(make_settings(Role.DECODE))
    _, first = await ask(prefill, "/v1/completions", BODY | PREFILL)
    prefill.supervisor.request_stop()
    prefill.supervisor.request_stop()
    await asyncio.wait_for(prefill.task, 3)
    body = BODY | {"kv_transfer_params": first["kv_transfer_params"]}
    assert (await ask(decode, "/v1/completions", body))[0] == 200
    assert (await _state(decode))["kv"]["recomputed_tokens"] == first["usage"]["prompt_tokens"]


async def test_a_lease_expires_by_itself(make_settings: MakeSettings, run_worker: Run, ask: Ask) -> None:
    prefill = await run_worker(make_settings(Role.PREFILL, kv_transfer=KVTransferConfig(lease_s=0.1)))
    await ask(prefill, "/v1/completions", BODY | PREFILL)
    await asyncio.sleep(0.7)
    assert (await _state(prefill))["leases"] == 0


async def test_a_lease_is_released_by_the_id_that_the_router_gave(
    make_settings: MakeSettings, run_worker: Run, ask: Ask, session: aiohttp.ClientSession
) -> None:
    prefill = await run_worker(make_settings(Role.PREFILL))
    await ask(prefill, "/v1/completions", BODY | PREFILL, **{"x-request-id": "router-id-0001"})
    async with session.post(
        prefill.admin + "/tandem/v1/leases:release", json={"request_id": "router-id-0001"}
    ) as answer:
        assert await answer.json() == {"released": 1}


async def test_a_client_that_leaves_frees_its_place(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    slow = EngineConfig(type="sim", extra_args=("--sim-decode-base-ms=50",))
    worker = await run_worker(make_settings(engine=slow))
    async with session.post(
        worker.engine + "/v1/completions", json=BODY | {"max_tokens": 500, "stream": True}
    ) as answer:
        await answer.content.readline()
        assert 'num_requests_running{engine="0",model_name="tiny"} 1' in await _metrics(worker)
        answer.close()
    await asyncio.sleep(0.5)
    assert 'num_requests_running{engine="0",model_name="tiny"} 0' in await _metrics(worker)


@pytest.mark.parametrize("kind", ["refuse", "cut"])
async def test_connections_break_when_told_to(
    mixed: Worker, ask: Ask, session: aiohttp.ClientSession, kind: str
) -> None:
    await _break(ask, mixed, kind=kind, requests=1, after_tokens=3)
    with pytest.raises(aiohttp.ClientError):
        await _read_stream(session, mixed)
    assert (await ask(mixed, "/v1/completions", BODY))[0] == 200


@pytest.mark.parametrize(("kind", "after_tokens"), [("hang", 0), ("stall", 3)])
async def test_silence_when_told_to(
    mixed: Worker, ask: Ask, session: aiohttp.ClientSession, kind: str, after_tokens: int
) -> None:
    await _break(ask, mixed, kind=kind, requests=1, after_tokens=after_tokens)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_read_stream(session, mixed), 0.5)
    assert (await ask(mixed, "/v1/completions", BODY))[0] == 200


async def test_garbage_and_unavailability_when_told_to(mixed: Worker, ask: Ask) -> None:
    await _break(ask, mixed, kind="unavailable", requests=1)
    assert (await ask(mixed, "/v1/completions", BODY))[0] == 503
    await _break(ask, mixed, kind="garbage", requests=1)
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        await ask(mixed, "/v1/completions", BODY)
    status, answer = await ask(mixed, "/sim/faults", {"kind": "no such fault"})
    assert (status, answer["error"]["type"]) == (400, "BadRequestError")


async def test_faults_need_the_fleets_key(mixed: Worker) -> None:
    async with (
        aiohttp.ClientSession() as stranger,
        stranger.post(mixed.engine + "/sim/faults", json={"kind": "crash"}) as answer,
    ):
        assert answer.status == 401


async def _read_stream(session: aiohttp.ClientSession, worker: Worker) -> bytes:
    async with session.post(worker.engine + "/v1/completions", json=BODY | {"stream": True}) as answer:
        return await answer.read()


async def _break(ask: Ask, worker: Worker, **fault: Any) -> None:
    assert (await ask(worker, "/sim/faults", fault))[0] == 200


async def _state(worker: Worker, **query: str) -> Any:
    await asyncio.sleep(0.3)  # the state is a quarter of a second old at most
    async with aiohttp.ClientSession() as client, client.get(worker.admin + STATE_PATH, params=query) as answer:
        return await answer.json()


async def _metrics(worker: Worker) -> str:
    await asyncio.sleep(0.3)
    async with (
        aiohttp.ClientSession(headers=BEARER) as client,
        client.get(worker.admin + "/metrics") as answer,
    ):
        return await answer.text()

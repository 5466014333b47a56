"""Every API that clients speak: what is split, what is counted, how a stream ends, how errors look."""

import json

import pytest
from unit.router.scripted import KV_PARAMS, Engine, die, exchange, http_post, pair, running

RESPONSES, MESSAGES, EMBEDDINGS = "/v1/responses", "/v1/messages", "/v1/embeddings"
ANTHROPIC_USAGE = {"input_tokens": 8, "output_tokens": 4, "cache_read_input_tokens": 3}
OPENAI_USAGE = {"input_tokens": 11, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}}


def event(kind, **fields):
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


MESSAGE_EVENTS = [
    event("message_start", message={"id": "m1", "usage": {"input_tokens": 8, "output_tokens": 0}}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "event: message_stop"}),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage=ANTHROPIC_USAGE),
    event("message_stop"),
]
RESPONSE_EVENTS = [
    event("response.created", response={"id": "r1", "usage": None}),
    event("response.output_text.delta", delta="Hello"),
    event("response.completed", response={"id": "r1", "usage": OPENAI_USAGE}),
]


def speaking(events, whole):
    """An engine that answers one of these APIs."""

    async def behave(seen, channel):
        ask = seen.json
        if (ask.get("kv_transfer_params") or {}).get("do_remote_decode"):
            await channel.json(200, {**whole, "kv_transfer_params": KV_PARAMS})
        elif ask.get("stream"):
            await channel.begin_stream()
            for one in events:
                await channel.chunk(one)
            await channel.end_stream()
        else:
            await channel.json(200, whole)

    return behave


MESSAGING = speaking(MESSAGE_EVENTS, {"type": "message", "content": [], "usage": ANTHROPIC_USAGE})
RESPONDING = speaking(RESPONSE_EVENTS, {"object": "response", "output": [], "usage": OPENAI_USAGE})
CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "a long question " * 40}]}
MESSAGE = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
RESPONSE = {"model": "m", "input": "hi"}
CASES = [(MESSAGES, MESSAGING, MESSAGE, MESSAGE_EVENTS), (RESPONSES, RESPONDING, RESPONSE, RESPONSE_EVENTS)]


def engines(behave):
    return [Engine("p0", "prefill", behave), Engine("d0", "decode", behave)]


@pytest.mark.parametrize(("path", "behave", "body", "events"), CASES)
async def test_messages_and_responses_are_split_and_their_streams_passed_on_byte_for_byte(
    tmp_path, path, behave, body, events
):
    async with running(tmp_path, engines(behave)) as bench:
        got = await exchange(bench, http_post({**body, "stream": True}, path))
        assert (got.status, got.is_whole, got.body) == (200, True, b"".join(events))
        first, second = bench["p0"].seen[0], bench["d0"].seen[0]
        assert (first.path, second.path) == (path, path)
        assert 1 in (first.json.get("max_tokens"), first.json.get("max_output_tokens"))
        assert first.json["stream"] is False
        assert second.json == {**body, "stream": True, "kv_transfer_params": KV_PARAMS}
        assert bench.router.metrics.of("m").tokens == {"prompt": 11, "cached": 3, "completion": 4}
        assert bench.outcomes() == {"ok": 1}
        bench.assert_idle()


@pytest.mark.parametrize(("path", "behave", "body", "_"), CASES)
async def test_whole_answers_are_passed_on_and_counted(tmp_path, path, behave, body, _):
    async with running(tmp_path, engines(behave)) as bench:
        got = await exchange(bench, http_post(body, path))
        assert (got.status, bench.routes()) == (200, {"remote": 1})
        assert bench.router.metrics.of("m").tokens == {"prompt": 11, "cached": 3, "completion": 4}


@pytest.mark.parametrize(("path", "behave", "body", "events"), CASES)
async def test_a_stream_without_its_last_event_is_never_a_clean_end(tmp_path, path, behave, body, events):
    whole = {"usage": None}
    async with running(tmp_path, engines(speaking(events[:-1], whole))) as bench:
        got = await exchange(bench, http_post({**body, "stream": True}, path))
        assert not got.is_whole
        assert got.body.startswith(b"".join(events[:-1]) + b"event: error\n")
        data = json.loads(got.body.rpartition(b"data: ")[2])
        assert (data["type"], data["error"]["code"]) == ("error", "stream_broken")
        assert bench.outcomes() == {"broken": 1}


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (EMBEDDINGS, {"model": "m", "input": ["a", "b"]}, "embeddings"),
        ("/v1/messages/count_tokens", {"model": "m", "messages": []}, "count_tokens"),
        (MESSAGES, {**MESSAGE, "max_tokens": 1}, "max_tokens"),
        (MESSAGES, {**MESSAGE, "tool_choice": {"type": "tool", "name": "t"}}, "tool_choice"),
        (RESPONSES, {**RESPONSE, "max_output_tokens": 1}, "max_tokens"),
        (RESPONSES, {**RESPONSE, "tools": [{"type": "web_search"}]}, "builtin_tools"),
    ],
)
async def test_what_must_not_be_split_goes_to_decode_alone(tmp_path, path, body, reason):
    async with running(tmp_path, pair()) as bench:
        assert (await exchange(bench, http_post(body, path))).status == 200
        assert bench["p0"].seen == []
        assert bench["d0"].seen[0].json == body
        assert bench.routes() == {reason: 1}


@pytest.mark.parametrize(
    "state", [{"store": True}, {"background": True}, {"previous_response_id": "r"}, {"conversation": {"id": "c"}}]
)
async def test_what_would_have_to_be_kept_between_requests_is_a_typed_400(tmp_path, state):
    async with running(tmp_path, pair()) as bench:
        got = await exchange(bench, http_post({**RESPONSE, **state}, RESPONSES))
        assert (got.status, got.json["error"]["code"]) == (400, "unsupported_parameter")
        assert got.json["error"]["param"] == next(iter(state))
        assert bench["d0"].seen == []


async def test_store_false_is_what_a_stateless_router_does_anyway(tmp_path):
    async with running(tmp_path, engines(RESPONDING)) as bench:
        assert (await exchange(bench, http_post({**RESPONSE, "store": False}, RESPONSES))).status == 200


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": "nobody"}, 404, "not_found_error"),
        ({"cache_salt": "x"}, 400, "invalid_request_error"),
        ({"stream": "yes"}, 400, "invalid_request_error"),
    ],
)
async def test_errors_of_the_messages_api_have_anthropics_shape(tmp_path, change, status, kind):
    async with running(tmp_path, pair()) as bench:
        got = await exchange(bench, http_post({**MESSAGE, **change}, MESSAGES))
        assert (got.status, got.json["type"], got.json["error"]["type"]) == (status, "error", kind)
        assert got.json["error"]["message"]


async def test_an_unanswerable_message_is_an_api_error_in_anthropics_shape(tmp_path):
    async with running(tmp_path, [Engine("w0", "mixed", die)]) as bench:
        got = await exchange(bench, http_post(MESSAGE, MESSAGES))
        assert (got.status, got.json["error"]["type"]) == (502, "api_error")


async def test_anthropics_credentials_stay_at_the_router(tmp_path):
    async with running(tmp_path, engines(MESSAGING)) as bench:
        await exchange(bench, http_post(MESSAGE, MESSAGES, "X-Api-Key: secret-1\r\nAnthropic-Version: 2023-06-01\r\n"))
        for name in ("p0", "d0"):
            assert "secret-1" not in str(bench[name].seen[0].headers)
            assert bench[name].seen[0].headers["anthropic-version"] == "2023-06-01"


async def test_an_answer_that_is_no_json_by_its_own_account_is_passed_on(tmp_path):
    async def raw(seen, channel):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 4\r\n\r\n"
        await channel.send(head + b"\x00\x01\xff\xfe")

    async with running(tmp_path, [Engine("w0", "mixed", raw)]) as bench:
        got = await exchange(bench, http_post({"model": "m", "input": "a", "encoding_format": "bytes"}, EMBEDDINGS))
        assert (got.status, got.body) == (200, b"\x00\x01\xff\xfe")


LORA = {"adapters": ["sql", "law"]}


async def test_an_adapter_is_a_model_of_its_own_name(tmp_path):
    async with running(tmp_path, pair(), LORA) as bench:
        for model in ("sql", "default/sql"):
            got = await exchange(bench, http_post({**CHAT, "model": model}, CHAT_PATH))
            assert got.status == 200
        for name in ("p0", "d0"):
            assert {seen.json["model"] for seen in bench[name].seen} == {"sql"}
        listed = (await exchange(bench, b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")).json["data"]
        assert [(one["id"], one.get("parent")) for one in listed] == [("law", "m"), ("m", None), ("sql", "m")]
        one = (await exchange(bench, b"GET /v1/models/law HTTP/1.1\r\nHost: r\r\n\r\n")).json
        assert (one["id"], one["parent"]) == ("law", "m")


async def test_a_prompt_that_is_held_for_one_adapter_is_not_held_for_another(tmp_path):
    async with running(tmp_path, pair(), LORA) as bench:
        for model in ("sql", "law", "sql"):
            await exchange(bench, http_post({**CHAT, "model": model}, CHAT_PATH))
        assert bench.routes() == {"remote": 2, "cached": 1}


async def test_the_router_remembers_which_workers_have_used_an_adapter(tmp_path):
    async with running(tmp_path, [Engine("d0", "mixed"), Engine("d1", "mixed")], LORA) as bench:
        got = await exchange(bench, http_post({**CHAT, "model": "sql"}, CHAT_PATH))
        holders = {worker.name for _, worker in bench.router.catalog.workers() if worker.has_adapter("sql")}
        assert holders == {got.headers["x-served-by"]}

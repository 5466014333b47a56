"""The two-step flow: prefill leg, KV parameters carried over, answer relayed."""

import json

from unit.router.scripted import KV_PARAMS, TOKENS, Engine, ask, chat, exchange, http_post, pair, running


async def test_a_plain_answer_goes_through_both_workers(tmp_path):
    async with running(tmp_path, pair()) as bench:
        answer = await ask(bench)
        assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "Hello world")
        assert answer.headers["x-served-by"] == "p0,d0"
        assert bench.outcomes() == {"ok": 1}
        assert bench.routes() == {"remote": 1}
        bench.assert_idle()


async def test_the_prefill_leg_asks_for_one_token_and_keeps_the_prompt(tmp_path):
    async with running(tmp_path, pair()) as bench:
        await ask(
            bench, stream=True, max_tokens=50, min_tokens=5, temperature=0.5, stream_options={"include_usage": True}
        )
        sent = bench["p0"].seen[0].json
        assert sent == {
            **chat(temperature=0.5),
            "max_tokens": 1,
            "max_completion_tokens": 1,
            "min_tokens": 1,
            "stream": False,
            "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
        }


async def test_the_decode_leg_gets_the_clients_bytes_with_named_keys_inserted(tmp_path):
    raw = b'{ "model":"m",  "messages":[{"role":"user","content":"h\\u00e9"}], "foo_ext": 1e2, "max_tokens":5}'
    async with running(tmp_path, pair()) as bench:
        await exchange(bench, http_post(raw))
        body = bench["d0"].seen[0].body
        assert body.endswith(raw[1:])
        inserted = json.loads(b"{" + body[1 : len(body) - len(raw[1:]) - 1] + b"}")
        assert inserted == {"kv_transfer_params": KV_PARAMS}


async def test_a_stream_is_relayed_and_the_usage_event_that_we_asked_for_is_dropped(tmp_path):
    async with running(tmp_path, pair()) as bench:
        answer = await ask(bench, stream=True)
        events = [line for line in answer.body.decode().split("\n\n") if line]
        assert [json.loads(e[6:])["choices"][0]["delta"]["content"] for e in events[:-1]] == list(TOKENS)
        assert events[-1] == "data: [DONE]"
        assert answer.is_whole
        assert bench["d0"].seen[0].json["stream_options"] == {"include_usage": True}
        assert bench.router.metrics.of("m").tokens == {"prompt": 11, "cached": 3, "completion": 4}


async def test_a_client_that_asked_for_usage_gets_it(tmp_path):
    async with running(tmp_path, pair()) as bench:
        answer = await ask(bench, stream=True, stream_options={"include_usage": True})
        assert b'"total_tokens": 15' in answer.body


async def test_headers_cross_but_credentials_and_request_ids_do_not(tmp_path):
    headers = (
        "Authorization: Bearer client-secret\r\nX-Request-Id: mine\r\nTraceparent: 00-ab-cd-01\r\n"
        "X-My-Header: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
    )
    async with running(tmp_path, pair()) as bench:
        answer = await ask(bench, headers=headers)
        legs = [bench["p0"].seen[0], bench["d0"].seen[0]]
        for leg in legs:
            assert "client-secret" not in str(leg.headers)
            assert leg.headers["traceparent"] == "00-ab-cd-01"
            assert leg.headers["x-my-header"] == "1"
            assert "x-hop" not in leg.headers
            assert int(leg.headers["x-request-timeout-ms"]) > 0
        ids = {leg.headers["x-request-id"] for leg in legs}
        assert len(ids) == 2
        assert "mine" not in ids
        assert answer.headers["x-request-id"] == "mine"


async def test_connections_to_workers_are_kept_open(tmp_path):
    async with running(tmp_path, pair()) as bench:
        for _ in range(5):
            await ask(bench)
        assert (bench["p0"].connections, bench["d0"].connections) == (1, 1)


async def test_a_kept_connection_that_its_worker_has_closed_is_replaced(tmp_path):
    async with running(tmp_path, pair()) as bench:
        await ask(bench)
        for task in list(bench["d0"].tasks):
            task.cancel()
        assert (await ask(bench)).status == 200
        assert bench.router.metrics.of("m").retries == {}


async def test_decode_alone_serves_when_prefill_keeps_nothing(tmp_path):
    async def keeps_nothing(seen, channel):
        await channel.json(200, {"choices": [], "kv_transfer_params": None})

    engines = [Engine("p0", "prefill", keeps_nothing), Engine("d0", "decode")]
    async with running(tmp_path, engines) as bench:
        assert (await ask(bench)).status == 200
        assert "kv_transfer_params" not in bench["d0"].seen[0].json
        assert bench.routes() == {"prefill_declined": 1}


async def test_what_must_not_be_split_goes_to_decode_alone(tmp_path):
    cases = [
        {"n": 2},
        {"best_of": 2},
        {"echo": True},
        {"prompt_logprobs": 1},
        {"use_beam_search": True},
        {"max_tokens": 1},
        {"max_completion_tokens": 1},
    ]
    async with running(tmp_path, pair()) as bench:
        for case in cases:
            assert (await ask(bench, **case)).status == 200
        prompts = {"model": "m", "prompt": ["a", "b"]}
        assert (await exchange(bench, http_post(prompts, "/v1/completions"))).status == 200
        assert bench["p0"].seen == []
        assert len(bench["d0"].seen) == len(cases) + 1


async def test_a_mixed_pool_serves_alone_and_byte_identical(tmp_path):
    raw = json.dumps(chat(seed=7)).encode()
    async with running(tmp_path, [Engine("w0", "mixed")]) as bench:
        assert (await exchange(bench, http_post(raw))).status == 200
        assert bench["w0"].seen[0].body == raw
        assert bench.routes() == {"mixed": 1}


async def test_a_repeated_prompt_that_decode_holds_is_not_moved_again(tmp_path):
    text = "word " * 200
    async with running(tmp_path, pair()) as bench:
        for _ in range(2):
            await ask(bench, messages=[{"role": "user", "content": text}])
        assert bench.routes() == {"remote": 1, "cached": 1}


async def test_only_equal_kv_revisions_are_paired(tmp_path):
    engines = [
        Engine("p-old", "prefill", kv_revision="old"),
        Engine("d-old", "decode", kv_revision="old"),
        Engine("d-new", "decode", kv_revision="znew"),
    ]
    async with running(tmp_path, engines) as bench:
        for _ in range(5):
            assert (await ask(bench)).headers["x-served-by"] == "p-old,d-old"


async def test_a_name_with_its_namespace_works_and_the_engine_sees_the_served_name(tmp_path):
    async with running(tmp_path, pair()) as bench:
        assert (await ask(bench, model="default/m")).status == 200
        assert bench["d0"].seen[0].json["model"] == "m"

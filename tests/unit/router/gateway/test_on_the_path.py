"""A router with a tenants file, asked over its sockets."""

import asyncio
import json

from unit.router.scripted import ask, chat, exchange, hang, http_post, pair, read_answer, running

from tandem_core.keys import ROUTER_KEY_FILE, derive_internal_token, encode_key
from tandem_router.gateway.api_keys import hash_api_key

ROOT_KEY = b"r" * 32
FILE = f"""
tenants:
- {{name: acme, apiKeys: [{{id: a, hash: "{hash_api_key("acme-key")}"}}], models: [m, other], tokensPerMinute: 100}}
- {{name: zeta, apiKeys: [{{id: z, hash: "{hash_api_key("zeta-key")}"}}], models: [other], concurrency: 1}}
- {{name: mine, apiKeys: [{{id: m, hash: "{hash_api_key("mine-key")}"}}], concurrency: 1}}
"""


def as_tenant(name):
    return f"Authorization: Bearer {name}-key\r\n"


def guarded(tmp_path, engines):
    file = tmp_path / "tenants.yaml"
    file.write_text(FILE)
    (tmp_path / ROUTER_KEY_FILE).write_text(encode_key(ROOT_KEY))
    return running(tmp_path, engines, tenants_file=file)


async def test_without_credentials_nothing_is_told_and_nothing_reaches_an_engine(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        for headers in ("", "Authorization: Bearer wrong\r\n", "Authorization: Basic eDp5\r\n"):
            answer = await ask(bench, headers)
            assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")
            assert answer.headers["www-authenticate"] == "Bearer"
        models = await exchange(bench, b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
        assert models.status == 401
        assert bench["p0"].seen == bench["d0"].seen == []
        page = await exchange(bench, b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n")
        assert b"tandem_router_failed_logins_total 4.0" in page.body
        assert b"acme" not in page.body


async def test_a_tenants_request_carries_its_salt_and_never_its_key(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        assert (await ask(bench, as_tenant("acme"))).status == 200
        assert (await ask(bench, "X-Api-Key: mine-key\r\n")).status == 200
        salts = []
        for seen in (*bench["p0"].seen, *bench["d0"].seen):
            salts.append(seen.json["cache_salt"])
            assert b"-key" not in json.dumps(seen.headers).encode() + seen.body
            assert "x-api-key" not in seen.headers
        prefill_acme, prefill_mine, decode_acme, decode_mine = salts
        assert prefill_acme == decode_acme != prefill_mine == decode_mine


async def test_two_tenants_share_no_entry_of_the_prefix_index(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        prompt = [{"role": "user", "content": "x" * 300}]
        for tenant in ("acme", "mine"):
            await ask(bench, as_tenant(tenant), messages=prompt)
        index = bench.router.catalog.index
        assert len(index) == 2  # one block each


async def test_a_model_that_a_tenant_may_not_use_does_not_exist_for_it(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        hidden = await ask(bench, as_tenant("zeta"))
        absent = await ask(bench, as_tenant("mine"), model="absent")
        assert hidden.status == absent.status == 404
        assert hidden.json["error"]["message"].replace("`m`", "`absent`") == absent.json["error"]["message"]
        get = f"GET /v1/models{{}} HTTP/1.1\r\nHost: r\r\n{as_tenant('zeta')}\r\n"
        assert (await exchange(bench, get.format("").encode())).json["data"] == []
        assert (await exchange(bench, get.format("/m").encode())).status == 404


async def test_tokens_are_charged_as_the_engine_counted_them_and_the_limit_is_told(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        first = await ask(bench, as_tenant("acme"))
        assert first.headers["x-ratelimit-limit-tokens"] == "100"
        for _ in range(20):
            answer = await ask(bench, as_tenant("acme"))
            if answer.status != 200:
                break
        assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        usage = (await internal(bench, "/internal/v1/usage")).json["tenants"]
        served = usage["acme"]["requests"]["ok"]
        assert usage["acme"]["tokens"] == {"prompt": 11 * served, "cached": 3 * served, "completion": 4 * served}
        assert usage["acme"]["limited"] == {"tokens": 1}
        assert usage["mine"]["requests"] == {}


async def test_usage_needs_the_internal_token(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        assert (await internal(bench, "/internal/v1/usage", "wrong")).status == 401
        assert (await internal(bench, "/internal/v1/usage", "acme-key")).status == 401


async def test_concurrency_comes_back_when_the_client_leaves(tmp_path):
    engines = pair()
    engines[1].behave = hang
    async with guarded(tmp_path, engines) as bench:
        _, writer = await asyncio.open_connection("127.0.0.1", bench.router.port)
        writer.write(http_post(chat(), headers=as_tenant("mine")))
        await bench["d0"].saw_request()
        refused = await ask(bench, as_tenant("mine"))
        assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
        writer.close()
        await bench.idle()
        assert bench.router.gateway.gate.accounts["mine"].limits.running == 0
        assert bench.router.gateway.usage()["tenants"]["mine"]["requests"] == {"client_gone": 1}


async def test_limits_hold_under_concurrency(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        answers = await asyncio.gather(*(ask(bench, as_tenant("mine")) for _ in range(50)))
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) + statuses.count(429) == 50
        assert bench.router.gateway.gate.accounts["mine"].limits.running == 0
        bench.assert_idle()


async def test_a_flood_of_wrong_keys_does_not_keep_a_tenant_out(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        flood = [ask(bench, f"Authorization: Bearer guess-{number}\r\n") for number in range(200)]
        answers = await asyncio.gather(*flood, ask(bench, as_tenant("mine")))
        assert [answer.status for answer in answers] == [401] * 200 + [200]


async def test_reloads_under_load_lose_no_request(tmp_path):
    async with guarded(tmp_path, pair()) as bench:
        file = tmp_path / "tenants.yaml"

        async def reload():
            for number in range(30):
                file.write_text(FILE if number % 2 else "tenants: [{name: broken, oops: 1}]")
                bench.router.gateway.follow()
                await asyncio.sleep(0.005)

        reloading = asyncio.create_task(reload())
        while not reloading.done():
            assert (await ask(bench, as_tenant("mine"))).status == 200
        await reloading


async def internal(bench, path, token=None):
    token = derive_internal_token(ROOT_KEY) if token is None else token
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.router.internal_port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return await asyncio.wait_for(read_answer(reader), 10)
    finally:
        writer.close()

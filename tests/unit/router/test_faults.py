"""DESIGN §8: what happens when a worker fails, at each point of a request."""

import asyncio
import json

import pytest
from unit.router.scripted import (
    Engine,
    answer,
    ask,
    chat,
    connected,
    die,
    die_mid_stream,
    exchange,
    garbage,
    hang,
    http_post,
    pair,
    refuse,
    running,
)

from tandem_core.keys import KEY_BYTES, derive_engine_token, encode_key


@pytest.mark.parametrize("fault", [die, garbage, refuse(503), refuse(500), refuse(429)])
async def test_a_failing_prefill_is_replaced_by_another(tmp_path, fault):
    engines = [Engine("p0", "prefill", fault), Engine("p1", "prefill"), Engine("d0", "decode")]
    async with running(tmp_path, engines) as bench:
        answers = [await ask(bench) for _ in range(4)]
        assert {a.status for a in answers} == {200}
        assert {a.headers["x-served-by"] for a in answers} == {"p1,d0"}
        bench.assert_idle()


@pytest.mark.parametrize("fault", [die, garbage, refuse(503)])
async def test_when_every_prefill_fails_decode_prefills_itself(tmp_path, fault):
    async with running(tmp_path, [Engine("p0", "prefill", fault), Engine("d0", "decode")]) as bench:
        got = await ask(bench)
        assert (got.status, got.headers["x-served-by"]) == (200, "d0")
        assert "kv_transfer_params" not in bench["d0"].seen[0].json
        assert bench.routes() == {"prefill_failed": 1}


async def test_a_prefill_that_refuses_connections_costs_nothing_but_a_retry(tmp_path):
    async with running(tmp_path, pair()) as bench:
        bench["p0"].stop_listening()
        assert (await ask(bench)).status == 200
        assert bench.routes() == {"prefill_failed": 1}


async def test_a_hanging_prefill_is_given_up_after_its_timeout_and_its_lease_released(tmp_path):
    engines = [Engine("p0", "prefill", hang), Engine("d0", "decode")]
    async with running(tmp_path, engines, prefill_timeout_s=0.1) as bench:
        assert (await ask(bench)).status == 200
        await asyncio.sleep(0.05)
        assert bench["p0"].seen[0].closed.is_set()
        assert bench["p0"].released == [bench["p0"].seen[0].headers["x-request-id"]]


async def test_on_prefill_failure_local_does_not_try_another(tmp_path):
    engines = [Engine("p0", "prefill", die), Engine("p1", "prefill", die), Engine("d0", "decode")]
    async with running(tmp_path, engines, {"onPrefillFailure": "Local"}) as bench:
        assert (await ask(bench)).status == 200
        assert len(bench["p0"].seen) + len(bench["p1"].seen) == 1


async def test_on_prefill_failure_fail_is_a_typed_error(tmp_path):
    engines = [Engine("p0", "prefill", die), Engine("d0", "decode")]
    async with running(tmp_path, engines, {"onPrefillFailure": "Fail"}) as bench:
        got = await ask(bench)
        assert (got.status, got.json["error"]["code"]) == (502, "prefill_failed")
        assert bench["d0"].seen == []


def demand(token):
    """An engine that knows one bearer."""

    async def behave(seen, channel):
        refused = seen.headers.get("authorization") != f"Bearer {token}"
        await (refuse(401) if refused else answer)(seen, channel)

    return behave


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_that_knows_only_our_other_key_is_asked_with_it(tmp_path, stream):
    """While keys are rotated, each pod has the new one at a time of its own."""
    new, old = b"n" * KEY_BYTES, b"o" * KEY_BYTES
    (tmp_path / "router.key").write_text(encode_key(new))
    (tmp_path / "router.previous").write_text(encode_key(old))
    prefill = Engine("p0", "prefill", demand(derive_engine_token(old, "u-1")))
    decode = Engine("d0", "decode", demand(derive_engine_token(new, "u-1")))
    async with running(tmp_path, [prefill, decode]) as bench:
        got = await ask(bench, stream=stream)
        assert (got.status, got.headers["x-served-by"]) == (200, "p0,d0")
        prefill.behave, decode.behave = decode.behave, prefill.behave
        got = await ask(bench, stream=stream)
        assert (got.status, got.headers["x-served-by"]) == (200, "p0,d0")
        bench.assert_idle()


async def test_an_engine_that_knows_none_of_our_keys_is_no_fault_of_the_client(tmp_path):
    async with running(tmp_path, [Engine("p0", "prefill", refuse(401)), Engine("d0", "decode", refuse(401))]) as bench:
        got = await ask(bench)
        assert (got.status, got.json["error"]["code"]) == (502, "workers_failed")


async def test_a_prefill_4xx_is_left_to_decode_which_tells_the_client(tmp_path):
    engines = [Engine("p0", "prefill", refuse(400)), Engine("d0", "decode", refuse(400))]
    async with running(tmp_path, engines) as bench:
        got = await ask(bench)
        assert (got.status, got.json["error"]["message"]) == (400, "scripted")
        assert bench.outcomes() == {"rejected": 1}


@pytest.mark.parametrize("fault", [die, garbage, refuse(503), refuse(500)])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_decode_that_fails_before_the_first_byte_is_replaced(tmp_path, fault, stream):
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", fault), Engine("d1", "decode")]
    async with running(tmp_path, engines) as bench:
        for _ in range(4):
            got = await ask(bench, stream=stream)
            assert (got.status, got.headers["x-served-by"]) == (200, "p0,d1")
        failed = len(bench["d0"].seen)
        await asyncio.sleep(0.05)
        assert len(bench["p0"].released) == failed
        bench.assert_idle()


async def test_a_decode_that_dies_before_the_first_whole_event_is_replaced(tmp_path):
    async def half_event(seen, channel):
        await channel.begin_stream()
        await channel.chunk(b'data: {"choices"')
        channel.reset()

    engines = [Engine("p0", "prefill"), Engine("d0", "decode", half_event), Engine("d1", "decode")]
    async with running(tmp_path, engines) as bench:
        for _ in range(3):
            got = await ask(bench, stream=True)
            assert (got.status, got.is_whole) == (200, True)


async def test_an_answer_cut_in_the_middle_is_asked_for_again_while_nothing_was_sent(tmp_path):
    async def half_json(seen, channel):
        await channel.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
        channel.reset()

    engines = [Engine("p0", "prefill"), Engine("d0", "decode", half_json), Engine("d1", "decode")]
    async with running(tmp_path, engines) as bench:
        for _ in range(3):
            assert (await ask(bench)).headers["x-served-by"] == "p0,d1"


async def test_when_every_decode_fails_the_client_gets_a_typed_error(tmp_path):
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", die)]
    async with running(tmp_path, engines) as bench:
        got = await ask(bench)
        assert (got.status, got.json["error"]["code"]) == (502, "workers_failed")
        assert bench.outcomes() == {"upstream_failed": 1}


async def test_a_decode_that_dies_mid_stream_ends_in_an_error_event_and_a_broken_end(tmp_path):
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", die_mid_stream)]
    async with running(tmp_path, engines) as bench:
        got = await ask(bench, stream=True)
        events = [event for event in got.body.decode().split("\n\n") if event]
        assert (len(events), got.is_whole) == (3, False)
        assert json.loads(events[-1][6:])["error"]["code"] == "stream_broken"
        assert bench.outcomes() == {"broken": 1}
        bench.assert_idle()


async def test_a_stream_that_ends_without_done_is_not_a_clean_end(tmp_path):
    async def no_done(seen, channel):
        await channel.begin_stream()
        await channel.event({"choices": []})
        await channel.end_stream()

    async with running(tmp_path, [Engine("w0", "mixed", no_done)]) as bench:
        got = await ask(bench, stream=True)
        assert (got.is_whole, bench.outcomes()) == (False, {"broken": 1})


async def test_the_deadline_before_the_first_byte_is_a_504(tmp_path):
    async with running(tmp_path, [Engine("w0", "mixed", hang)]) as bench:
        got = await ask(bench, headers="X-Request-Timeout-Ms: 100\r\n")
        assert (got.status, got.json["error"]["code"]) == (504, "deadline_exceeded")
        await asyncio.wait_for(bench["w0"].seen[0].closed.wait(), 1)
        assert bench.outcomes() == {"deadline": 1}


async def test_the_deadline_in_the_middle_of_a_stream_is_an_error_event(tmp_path):
    async def stall(seen, channel):
        await channel.begin_stream()
        await channel.event({"choices": []})
        await seen.closed.wait()

    async with running(tmp_path, [Engine("w0", "mixed", stall)]) as bench:
        got = await ask(bench, headers="X-Request-Timeout-Ms: 150\r\n", stream=True)
        assert b"deadline_exceeded" in got.body
        assert not got.is_whole


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_prefill_works_closes_it_and_releases_the_lease(tmp_path, stream):
    engines = [Engine("p0", "prefill", hang), Engine("d0", "decode")]
    async with running(tmp_path, engines) as bench:
        seen = await leave_when_seen(bench, bench["p0"], stream=stream)
        await asyncio.sleep(0.1)
        assert bench["p0"].released == [seen.headers["x-request-id"]]
        assert bench["d0"].seen == []
        assert bench.outcomes() == {"client_gone": 1}
        bench.assert_idle()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_first_byte_closes_decode_and_releases(tmp_path, stream):
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", hang)]
    async with running(tmp_path, engines) as bench:
        await leave_when_seen(bench, bench["d0"], stream=stream)
        await asyncio.sleep(0.1)
        assert bench["p0"].released == [bench["p0"].seen[0].headers["x-request-id"]]
        bench.assert_idle()


async def test_a_client_that_leaves_mid_stream_closes_decode(tmp_path):
    async def slow(seen, channel):
        await channel.begin_stream()
        await channel.event({"choices": []})
        await seen.closed.wait()

    async with running(tmp_path, [Engine("p0", "prefill"), Engine("d0", "decode", slow)]) as bench:
        async with connected(bench) as (reader, writer):
            writer.write(http_post(chat(stream=True)))
            await reader.readuntil(b"data: ")
            left_s = asyncio.get_running_loop().time()
            writer.transport.abort()
            await asyncio.wait_for(bench["d0"].seen[0].closed.wait(), 1)
            assert asyncio.get_running_loop().time() - left_s < 1.0  # at once, not at a deadline
        await bench.idle()
        assert bench["p0"].released == []


async def leave_when_seen(bench, engine, *, stream):
    async with connected(bench) as (_, writer):
        writer.write(http_post(chat(stream=stream)))
        await engine.saw_request()
        await asyncio.sleep(0.01)
        left_s = asyncio.get_running_loop().time()
        writer.transport.abort()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 1)
        assert asyncio.get_running_loop().time() - left_s < 1.0  # at once, not at a deadline
    await bench.idle()
    return engine.seen[0]


async def test_a_client_that_leaves_while_queued_is_forgotten(tmp_path):
    engine = Engine("w0", "mixed", hang, state={"slots": 1})
    async with running(tmp_path, [engine]) as bench:
        async with connected(bench) as (_, first), connected(bench) as (_, second):
            first.write(http_post(chat()))
            await engine.saw_request()
            second.write(http_post(chat()))
            await asyncio.sleep(0.02)
            assert len(bench.router.catalog.names["m"].queue) == 1
            second.transport.abort()
            await asyncio.sleep(0.02)
            assert len(bench.router.catalog.names["m"].queue) == 0
        await bench.idle()
        assert len(engine.seen) == 1


async def test_a_worker_not_seen_alive_is_given_up_and_its_requests_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tandem_router.fleets.ALIVE_S", 0.2)
    monkeypatch.setattr("tandem_router.liveness.INTERVAL_S", 0.05)
    monkeypatch.setattr("tandem_router.liveness.TIMEOUT_S", 0.05)
    engines = [Engine("d0", "mixed", hang)]
    async with running(tmp_path, engines) as bench:
        engines[0].is_admin_mute = True
        other = Engine("d1", "mixed")
        await other.start()
        bench.engines["d1"] = other
        asking = asyncio.create_task(ask(bench))
        await asyncio.sleep(0.05)
        bench.write()
        try:
            got = await asyncio.wait_for(asking, 3)
            assert (got.status, got.headers["x-served-by"]) == (200, "d1")
        finally:
            await other.stop()


async def test_no_worker_within_the_queue_timeout_is_a_503(tmp_path):
    engine = Engine("w0", "mixed")
    async with running(tmp_path, [engine], {"queueTimeoutSeconds": 0.05}) as bench:
        bench.engines.clear()
        bench.write()
        await asyncio.sleep(1.2)
        got = await ask(bench)
        assert (got.status, got.json["error"]["code"]) == (503, "no_workers")
        assert int(got.headers["retry-after"]) >= 1


async def test_busy_workers_are_a_429_after_the_queue_timeout(tmp_path):
    engine = Engine("w0", "mixed", hang, state={"slots": 1})
    async with running(tmp_path, [engine], {"queueTimeoutSeconds": 0.05}) as bench:
        async with connected(bench) as (_, first):
            first.write(http_post(chat()))
            await engine.saw_request()
            got = await ask(bench)
            assert (got.status, got.json["error"]["code"]) == (429, "queue_timeout")
            assert int(got.headers["retry-after"]) >= 1
        await bench.idle()
        assert bench.outcomes() == {"shed": 1, "client_gone": 1}


async def test_a_queued_request_starts_when_a_slot_comes_free(tmp_path):
    gate = asyncio.Event()

    async def gated(seen, channel):
        await gate.wait()
        await answer(seen, channel)

    engine = Engine("w0", "mixed", gated, state={"slots": 1})
    async with running(tmp_path, [engine]) as bench:
        asking = [asyncio.create_task(ask(bench)) for _ in range(3)]
        await engine.saw_request()
        await asyncio.sleep(0.05)
        assert len(engine.seen) == 1
        gate.set()
        assert [a.status for a in await asyncio.gather(*asking)] == [200, 200, 200]


async def test_a_full_queue_sheds_at_once(tmp_path):
    engine = Engine("w0", "mixed", hang, state={"slots": 1})
    async with (
        running(tmp_path, [engine], queue_limit=1) as bench,
        connected(bench) as (_, first),
        connected(bench) as (_, second),
    ):
        for writer in (first, second):
            writer.write(http_post(chat()))
            await asyncio.sleep(0.03)
        got = await exchange(bench, http_post(chat()))
        assert (got.status, got.json["error"]["code"]) == (429, "queue_full")

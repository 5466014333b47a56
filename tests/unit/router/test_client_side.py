"""The clients' listener: strict HTTP/1.1, limits, pipelining, back-pressure, errors in OpenAI's shape."""

import asyncio
import json
import os

import pytest
from unit.router.scripted import (
    Engine,
    ask,
    chat,
    connected,
    exchange,
    hang,
    http_post,
    pair,
    read_answer,
    running,
)

from tandem_router.http1.strict import Limits

BODY = json.dumps(chat()).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n"

SMUGGLING = {
    "length and chunked": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "equal lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "signed length": HEAD + b"Content-Length: +5\r\n\r\nabcde",
    "length list": HEAD + b"Content-Length: 5, 5\r\n\r\nabcde",
    "folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "space before colon": HEAD + b"X : a\r\n\r\n",
    "bare line feeds": b"GET /v1/models HTTP/1.1\nHost: r\n\n",
    "bare carriage return": HEAD + b"X: a\rY: b\r\n\r\n",
    "NUL in header": HEAD + b"X: a\0b\r\n\r\n",
    "nameless header": HEAD + b": a\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding list": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "hex prefix in chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    "giant chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk with line feeds": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/3.7": b"GET /v1/models HTTP/3.7\r\nHost: r\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown expectation": HEAD + b"Expect: miracles\r\nContent-Length: 0\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "binary": os.urandom(8) + b"\r\n\r\n",
    "lower-case method": b"get /v1/models HTTP/1.1\r\nHost: r\r\n\r\n",
}


@pytest.fixture
async def bench(tmp_path):
    async with running(tmp_path, pair()) as made:
        yield made


@pytest.mark.parametrize("case", SMUGGLING)
async def test_ambiguous_requests_are_refused_and_the_connection_ends(bench, case):
    async with connected(bench) as (reader, writer):
        writer.write(SMUGGLING[case])
        answer = await asyncio.wait_for(read_answer(reader), 2)
        assert answer.status == 400
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert await asyncio.wait_for(reader.read(), 3) == b""
    assert bench["p0"].seen == []


async def test_what_follows_a_refused_request_is_never_answered(bench):
    async with connected(bench) as (reader, writer):
        writer.write(SMUGGLING["length and chunked"] + b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await read_answer(reader)).status == 400
        assert await asyncio.wait_for(reader.read(), 3) == b""


async def test_chunked_requests_with_extensions_and_trailers_are_understood(bench):
    half = len(BODY) // 2
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (BODY[:half], BODY[half:]))
    request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: 1\r\n\r\n"
    assert (await exchange(bench, request)).status == 200
    assert "x-trailer" not in bench["d0"].seen[0].headers
    assert bench["d0"].seen[0].body.endswith(BODY[1:])


async def test_a_request_split_at_every_byte_is_understood(bench):
    async with connected(bench) as (reader, writer):
        for byte in http_post(BODY):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(read_answer(reader), 5)).status == 200


async def test_pipelined_requests_are_answered_in_order(bench):
    async with connected(bench) as (reader, writer):
        models = b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n"
        writer.write(http_post(BODY) + models + http_post(BODY) + models * 6)
        kinds = [("choices" in (await asyncio.wait_for(read_answer(reader), 5)).json) for _ in range(9)]
        assert kinds == [True, False, True, *[False] * 6]


async def test_100_continue_is_sent_before_the_body(bench):
    async with connected(bench) as (reader, writer):
        writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert (await asyncio.wait_for(read_answer(reader), 2)).status == 100
        writer.write(BODY)
        assert (await asyncio.wait_for(read_answer(reader), 2)).status == 200


async def test_an_oversized_body_that_waits_for_100_continue_is_refused_at_once(tmp_path):
    async with running(tmp_path, pair(), max_body_bytes=100) as bench:
        request = HEAD + b"Expect: 100-continue\r\nContent-Length: 101\r\n\r\n"
        answer = await exchange(bench, request)
        assert (answer.status, answer.json["error"]["code"]) == (413, "body_too_large")


async def test_an_oversized_chunked_body_is_refused(tmp_path):
    async with running(tmp_path, pair(), max_body_bytes=100) as bench:
        request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"40\r\n" + b"x" * 64 + b"\r\n40\r\n" + b"x" * 64
        assert (await exchange(bench, request)).status == 413


@pytest.mark.parametrize("head", [b"X: " + b"a" * 70_000, b"".join(b"X%d: a\r\n" % n for n in range(9000))])
async def test_giant_headers_are_refused(bench, head):
    answer = await exchange(bench, HEAD + head + b"\r\n\r\n")
    assert (answer.status, answer.json["error"]["code"]) == (431, "headers_too_large")


async def test_a_slow_loris_is_told_so_and_closed(bench, monkeypatch):
    limits = Limits(header_timeout_s=0.05, idle_timeout_s=0.05)
    monkeypatch.setattr(bench.router._public, "limits", limits)
    async with connected(bench) as (reader, writer):
        writer.write(b"GET /v1/models HTTP/1.1\r\nHo")
        answer = await asyncio.wait_for(read_answer(reader), 3)
        assert (answer.status, answer.json["error"]["code"]) == (408, "request_timeout")


async def test_idle_connections_are_closed(bench, monkeypatch):
    monkeypatch.setattr(bench.router._public, "limits", Limits(header_timeout_s=0.05))
    async with connected(bench) as (reader, _):
        assert await asyncio.wait_for(reader.read(), 3) == b""


async def test_head_has_the_headers_of_get_and_no_body(bench):
    async with connected(bench) as (reader, writer):
        writer.write(b"HEAD /v1/models HTTP/1.1\r\nHost: r\r\n\r\nGET /livez HTTP/1.1\r\nHost: r\r\n\r\n")
        head = await read_answer(reader, is_head=True)
        assert int(head.headers["content-length"]) > 0
        assert (await read_answer(reader)).body == b"ok\n"


async def test_http_1_0_clients_get_an_unchunked_stream_that_ends_with_the_connection(bench):
    request = (
        b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(json.dumps(chat(stream=True)))
    )
    answer = await exchange(bench, request + json.dumps(chat(stream=True)).encode())
    assert "transfer-encoding" not in answer.headers
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_an_upgrade_offer_is_declined_by_answering_in_http_1_1(bench):
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    async with connected(bench) as (reader, writer):
        writer.write(http_post(BODY, headers=offer.decode()) + b"GET /livez HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await asyncio.wait_for(read_answer(reader), 2)).status == 200
        assert (await asyncio.wait_for(read_answer(reader), 2)).body == b"ok\n"
    assert "upgrade" not in bench["d0"].seen[0].headers
    assert bench["d0"].seen[0].body.endswith(BODY[1:])


async def test_a_body_behind_an_upgrade_offer_is_never_read_as_a_request(bench):
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n"
    head = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    async with connected(bench) as (reader, writer):
        writer.write(head + hidden + b"GET /livez HTTP/1.1\r\nHost: r\r\n\r\n")
        statuses = [(await asyncio.wait_for(read_answer(reader), 2)).status for _ in range(2)]
        assert statuses == [400, 200]  # the body is no JSON; then /livez, and nothing between
        assert bench.router.metrics.refused == {"400": 1}


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (http_post(b"{not json"), 400, "invalid_json"),
        (http_post(b"[1]"), 400, "invalid_json"),
        (http_post(b'{"a":"\xff"}'), 400, "invalid_json"),
        (http_post(b""), 400, "invalid_json"),
        (http_post({"messages": []}), 400, "model_missing"),
        (http_post(chat(stream="true")), 400, "invalid_type"),
        (http_post(chat(n="2")), 400, "invalid_type"),
        (http_post(chat(max_tokens=True)), 400, "invalid_type"),
        (http_post(chat(kv_transfer_params={"do_remote_prefill": True})), 400, "field_refused"),
        (http_post(chat(kv_transfer_params=None)), 400, "field_refused"),
        (http_post(chat(cache_salt="x")), 400, "field_refused"),
        (http_post(chat(priority=1)), 400, "field_refused"),
        (http_post(chat(), headers="X-Tandem-Anything: 1\r\n"), 400, "header_refused"),
        (http_post(chat(), headers="X-Data-Parallel-Rank: 1\r\n"), 400, "header_refused"),
        (http_post(chat(), headers="Content-Type: text/plain\r\n"), 415, "unsupported_media_type"),
        (http_post(chat(), headers="X-Request-Timeout-Ms: soon\r\n"), 400, "invalid_header"),
        (http_post({**chat(), "model": "nobody"}), 404, "model_not_found"),
        (http_post(chat(), "/v1/nothing"), 404, "path_not_found"),
        (b"GET /v1/chat/completions HTTP/1.1\r\nHost: r\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /v1/models/nobody HTTP/1.1\r\nHost: r\r\n\r\n", 404, "model_not_found"),
    ],
)
async def test_bad_requests_get_a_typed_error_in_openai_shape(bench, request_bytes, status, code):
    answer = await exchange(bench, request_bytes)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert bench["p0"].seen == bench["d0"].seen == []


async def test_models_are_listed_with_readiness(bench):
    listed = (await exchange(bench, b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")).json
    assert [(model["id"], model["ready"]) for model in listed["data"]] == [("m", True)]
    one = (await exchange(bench, b"GET /v1/models/default/m HTTP/1.1\r\nHost: r\r\n\r\n")).json
    assert (one["object"], one["fleet"]) == ("model", "default/demo")


async def test_metrics_are_in_prometheus_text_form(bench):
    await ask(bench, stream=True)
    await exchange(bench, http_post(b"{"))
    text = (await exchange(bench, b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n")).body.decode()
    for line in (
        'tandem_router_requests_total{model="m",outcome="ok"} 1.0',
        'tandem_router_ttft_seconds_count{model="m"} 1.0',
        'tandem_router_tpot_seconds_count{model="m"} 1.0',
        'tandem_router_tokens_total{kind="completion",model="m"} 4.0',
        'tandem_router_inflight{model="m"} 0.0',
        'tandem_router_workers{fleet="default/demo",role="prefill"} 1.0',
        'tandem_router_refused_total{status="400"} 1.0',
    ):
        assert line in text.splitlines()


async def test_a_slow_reader_stops_the_worker_instead_of_filling_memory(tmp_path):
    sent = 0

    async def flood(seen, channel):
        nonlocal sent
        await channel.begin_stream()
        event = b"data: " + b"x" * 65_536 + b"\n\n"
        while not seen.closed.is_set():
            await channel.chunk(event)
            sent += len(event)
        raise ConnectionError

    async with running(tmp_path, [Engine("w0", "mixed", flood)]) as bench, connected(bench) as (reader, writer):
        writer.write(http_post(chat(stream=True)))
        await reader.readuntil(b"data: ")
        writer.transport.pause_reading()
        await asyncio.sleep(0.5)
        held = sum(connection._transport.get_write_buffer_size() for connection in bench.router._public.connections)
        was = sent
        await asyncio.sleep(0.2)
        assert sent == was  # the worker is stopped
        assert held < 1 << 20
        writer.transport.resume_reading()
        await asyncio.sleep(0.2)
        assert sent > was  # and goes on with its reader


async def test_a_slow_reader_of_pipelined_streams_stops_the_second_too(tmp_path):
    event = b"data: " + b"x" * 65_536 + b"\n\n"
    sent = []

    async def large(seen, channel):
        sent.append(0)
        await channel.begin_stream()
        for _ in range(400):
            await channel.chunk(event)
            sent[-1] += 1
        await channel.event("[DONE]")
        await channel.end_stream()

    async with running(tmp_path, [Engine("w0", "mixed", large)]) as bench, connected(bench) as (reader, writer):
        writer.write(http_post(chat(stream=True)) * 2)
        first = await asyncio.wait_for(read_answer(reader), 10)
        assert first.is_whole
        writer.transport.pause_reading()
        await asyncio.sleep(0.5)
        assert len(sent) == 2
        assert sent[1] < 400
        writer.transport.resume_reading()
        assert (await asyncio.wait_for(read_answer(reader), 10)).is_whole


async def test_draining_finishes_streams_and_takes_no_more(tmp_path):
    gate = asyncio.Event()

    async def gated(seen, channel):
        await channel.begin_stream()
        await channel.event({"choices": []})
        await gate.wait()
        await channel.event("[DONE]")
        await channel.end_stream()

    async with (
        running(tmp_path, [Engine("w0", "mixed", gated)]) as bench,
        connected(bench) as (reader, writer),
        connected(bench) as (idle, _),
    ):
        writer.write(http_post(chat(stream=True)))
        await reader.readuntil(b"data: ")
        port = bench.router.port
        draining = asyncio.create_task(bench.router.drain(1.0))
        await asyncio.sleep(0)
        assert (await exchange(bench, b"GET /readyz HTTP/1.1\r\nHost: r\r\n\r\n")).status == 503
        assert await asyncio.wait_for(idle.read(), 5) == b""
        await asyncio.sleep(1.5)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        gate.set()
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await asyncio.wait_for(draining, 5)


async def test_the_drain_timeout_cuts_what_is_left(tmp_path):
    async with running(tmp_path, [Engine("w0", "mixed", hang)], drain_timeout_s=0.1) as bench:
        asking = asyncio.create_task(ask(bench))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(bench.router.drain(0.0), 2)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking
        await bench.idle()
        assert bench.outcomes() == {"client_gone": 1}

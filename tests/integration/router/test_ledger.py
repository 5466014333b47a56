"""Every request ends exactly once, typed and counted, whatever the workers do; counters return to zero."""

import asyncio
import random

import pytest
from unit.router.scripted import (
    Engine,
    answer,
    chat,
    connected,
    die,
    die_mid_stream,
    garbage,
    hang,
    http_post,
    read_answer,
    refuse,
    running,
)

from chaos.router.faults import FAULTS
from chaos.router.ledger import run_fault, run_gone_on

REQUESTS = 1000
CONCURRENCY = 32


def faulty(dice: random.Random, share: float):
    """An engine that fails in a random way for a `share` of requests."""
    faults = [die, garbage, refuse(500), refuse(503), refuse(429), die_mid_stream, hang]

    async def behave(seen, channel):
        fault = dice.choice(faults) if dice.random() < share else answer
        if fault is die_mid_stream and not seen.json.get("stream"):
            fault = die
        await fault(seen, channel)

    return behave


async def one(bench, dice: random.Random) -> str:
    stream = dice.random() < 0.5
    async with connected(bench) as (reader, writer):
        writer.write(http_post(chat(stream=stream), headers="X-Request-Timeout-Ms: 3000\r\n"))
        if dice.random() < 0.1:
            await asyncio.sleep(dice.random() * 0.02)
            return "left"
        got = await asyncio.wait_for(read_answer(reader), 10)
    if got.status == 200 and got.is_whole:
        assert (b"[DONE]" in got.body) if stream else got.json["choices"]
        return "ok"
    if got.status == 200:
        assert b'"error"' in got.body
        return "broken"
    assert got.json["error"]["code"]
    return str(got.status)


async def test_a_thousand_requests_over_failing_workers_end_once_each(tmp_path):
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    engines = [
        Engine("p0", "prefill", faulty(dice, 0.5)),
        Engine("p1", "prefill", faulty(dice, 0.1)),
        Engine("d0", "decode", faulty(dice, 0.3)),
        Engine("d1", "decode"),
        Engine("d2", "decode"),
    ]
    for engine in engines:
        engine.state["slots"] = 64
    ends: dict[str, int] = {}
    async with running(tmp_path, engines, prefill_timeout_s=0.3, first_byte_timeout_s=0.5) as bench:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def run() -> None:
            async with gate:
                end = await one(bench, dice)
                ends[end] = ends.get(end, 0) + 1

        await asyncio.gather(*(run() for _ in range(REQUESTS)))
        await bench.idle()
        outcomes = bench.outcomes()
        message = f"seed {seed}: clients saw {ends}, the router counted {outcomes}"
        assert sum(ends.values()) == REQUESTS, message
        assert sum(outcomes.values()) == REQUESTS, message
        assert outcomes.get("internal", 0) == 0, message
        assert outcomes.get("broken", 0) >= ends.get("broken", 0), message
        served = ends.get("ok", 0) + ends.get("broken", 0) + ends.get("left", 0)
        assert served >= 0.999 * REQUESTS, message  # what fails before the first byte is served elsewhere
        bench.assert_idle()
        assert len(bench.router.catalog.names["m"].queue) == 0


@pytest.mark.parametrize("name", ["closes without a word", "hangs", "answers what is not HTTP"])
async def test_half_of_either_pool_may_fail_and_every_request_is_answered(tmp_path, name):
    fault = next(one for one in FAULTS if one.name == name)
    row = await run_fault(fault, tmp_path, 120, random.Random(name))
    assert row.misses == [], row.to_markdown()


async def test_streams_of_a_failing_half_go_on_elsewhere(tmp_path):
    row = await run_gone_on(tmp_path, 120, random.Random(1))
    assert row.misses == [], row.to_markdown()

"""Clients that leave: how long until the worker's connection is closed, in each state of a request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from unit.router.scripted import Bench, Channel, Engine, Seen, answer, chat, connected, hang, http_post, running


async def begin(seen: Seen, channel: Channel) -> None:
    """One event, and silence."""
    await channel.begin_stream()
    await channel.event({"choices": []})
    await seen.closed.wait()


@dataclass(frozen=True)
class State:
    """A moment in the life of a request: which engine holds it, and doing what."""

    name: str
    holder: str
    prefill: Callable[[Seen, Channel], Awaitable[None]]
    decode: Callable[[Seen, Channel], Awaitable[None]]
    releases: bool  # KV was promised that nobody will pull


STATES = (
    State("prefilling", "p0", hang, answer, True),
    State("waiting for the first byte", "d0", answer, hang, True),
    State("streaming", "d0", answer, begin, False),
)


@dataclass(frozen=True)
class Closing:
    """What was seen of one state."""

    state: str
    p50_ms: float
    p99_ms: float
    misses: list[str]


async def measure_all(folder: Path, rounds: int) -> list[Closing]:
    """Every state, `rounds` clients each, one after the other."""
    return [await measure(state, folder, rounds) for state in STATES]


async def measure(state: State, folder: Path, rounds: int) -> Closing:
    engines = [Engine("p0", "prefill", state.prefill), Engine("d0", "decode", state.decode)]
    async with running(folder, engines) as bench:
        delays_ms = sorted([await leave_once(bench, state, number) for number in range(rounds)])
        await bench.idle()
        await asyncio.sleep(0.1)
        released = len(bench["p0"].released)
    misses = [] if not state.releases or released == rounds else [f"{rounds - released} leases not released"]
    return Closing(state.name, delays_ms[rounds // 2], delays_ms[int(rounds * 0.99)], misses)


async def leave_once(bench: Bench, state: State, number: int) -> float:
    """Milliseconds from the client's reset to the end of the worker's connection."""
    engine = bench[state.holder]
    async with connected(bench) as (reader, writer):
        writer.write(http_post(chat(stream=True, seed=number)))
        while len(engine.seen) <= number:  # noqa: ASYNC110 - what is waited for is another connection's data
            await asyncio.sleep(0.001)
        if state.name == "streaming":
            await reader.readuntil(b"data: ")
        seen = engine.seen[number]
        left_s = time.monotonic()
        writer.transport.abort()
        await asyncio.wait_for(seen.closed.wait(), 5)
        assert seen.closed_s is not None
        return (seen.closed_s - left_s) * 1e3

"""Clients in numbers: each sends one request and says how it ended, exactly once."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from unit.router.scripted import Bench, chat, connected, http_post, read_answer

CONCURRENCY = 64
PATIENCE_S = 30.0
DEADLINE_MS = 20_000
LEAVING_SHARE = 0.05


@dataclass
class Ends:
    """How requests ended, as their clients saw it."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def answered(self) -> int:
        """Of those whose client stayed, how many were answered whole with 200."""
        return self.counts["ok"]

    @property
    def stayed(self) -> int:
        return self.total - self.counts["left"]

    def quantile_s(self, share: float) -> float:
        """A quantile of the time to the end of answers."""
        ordered = sorted(self.seconds) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def play(bench: Bench, requests: int, dice: random.Random, *, leaving: float = LEAVING_SHARE) -> Ends:
    """Send `requests` requests, half of them streamed; a share of the clients leaves at a moment of chance."""
    ends, gate = Ends(), asyncio.Semaphore(CONCURRENCY)

    async def one(stream: bool, leaves_s: float | None) -> None:
        async with gate:
            started_s = time.monotonic()
            end = await ask_once(bench, stream=stream, leaves_s=leaves_s)
            ends.counts[end] += 1
            if end == "ok":
                ends.seconds.append(time.monotonic() - started_s)

    draws = [(dice.random() < 0.5, dice.random() * 0.05 if dice.random() < leaving else None) for _ in range(requests)]
    await asyncio.gather(*(one(stream, leaves_s) for stream, leaves_s in draws))
    return ends


async def ask_once(bench: Bench, *, stream: bool, leaves_s: float | None) -> str:
    """ "ok", "broken", "left", an error's code, or what should never be: "untyped", "hung"."""
    async with connected(bench) as (reader, writer):
        writer.write(http_post(chat(stream=stream), headers=f"X-Request-Timeout-Ms: {DEADLINE_MS}\r\n"))
        if leaves_s is not None:
            await asyncio.sleep(leaves_s)
            writer.transport.abort()
            return "left"
        try:
            got = await asyncio.wait_for(read_answer(reader), PATIENCE_S)
        except TimeoutError:
            return "hung"
        except (asyncio.IncompleteReadError, ConnectionError):
            return "untyped"
    if got.status == 200 and got.is_whole:
        is_good = b"data: [DONE]" in got.body and b'"error"' not in got.body if stream else "choices" in got.json
        return "ok" if is_good else "untyped"
    if got.status == 200:
        return "broken" if b'"error"' in got.body else "untyped"
    return str(got.json["error"]["code"] or "untyped")

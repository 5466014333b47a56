"""Ways in which a worker fails, and which half of the fleet does."""

import asyncio
from dataclasses import dataclass
from zlib import crc32

from unit.router.scripted import (
    Behaviour,
    Channel,
    Engine,
    Seen,
    answer,
    die,
    die_mid_stream,
    garbage,
    hang,
    refuse,
)

WORKERS = 4  # of each role; the first half is hurt
SLOTS = 64


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        hurts: roles of which half of the workers fail.
        before_first_byte: nothing has reached the client when it strikes, so that no client may notice.
        is_gone: the workers' ports are closed.
    """

    name: str
    behave: Behaviour
    hurts: tuple[str, ...] = ("prefill", "decode")
    before_first_byte: bool = True
    is_gone: bool = False

    def build_engines(self) -> list[Engine]:
        """The fleet, half of it hurt."""
        engines = [Engine(f"{role[0]}{number}", role) for role in ("prefill", "decode") for number in range(WORKERS)]
        for engine in engines:
            engine.state["slots"] = SLOTS
            if engine.role in self.hurts and int(engine.name[1:]) < WORKERS // 2:
                engine.behave = self.behave
        return engines

    def strike(self, engines: list[Engine]) -> None:
        """What happens once all are up."""
        for engine in engines:
            if self.is_gone and engine.behave is self.behave:
                engine.stop_listening()


async def half_an_answer(seen: Seen, channel: Channel) -> None:
    """A head that promises a body, and a reset in the midst of it."""
    await channel.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
    await asyncio.sleep(0.005)
    channel.reset()


async def wrong_json(seen: Seen, channel: Channel) -> None:
    """HTTP 200 with what is no completion."""
    await channel.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n{]{]")


async def crawl(seen: Seen, channel: Channel) -> None:
    """Head bytes, one by one, for ever."""
    for byte in b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + b"x: y\r\n" * 1000:
        await channel.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def streams_break(seen: Seen, channel: Channel) -> None:
    """Streams are lost after two tokens; all else is answered."""
    await (die_mid_stream if seen.json.get("stream") else answer)(seen, channel)


async def streams_end_early(seen: Seen, channel: Channel) -> None:
    """Streams end cleanly, but without their last event; all else is answered."""
    if not seen.json.get("stream"):
        await answer(seen, channel)
        return
    await channel.begin_stream()
    await channel.event({"choices": []})
    await channel.end_stream()


async def hang_now_and_then(seen: Seen, channel: Channel) -> None:
    """One prompt in twenty is never answered: what hedging is for."""
    await (answer if crc32(seen.body) % 20 else hang)(seen, channel)


FAULTS = (
    Fault("none", answer),
    Fault("refuses connections", die, is_gone=True),
    Fault("closes without a word", die),
    Fault("resets in the midst of an answer", half_an_answer),
    Fault("hangs", hang),
    Fault("crawls", crawl),
    Fault("answers what is not HTTP", garbage),
    Fault("answers what is no completion", wrong_json),
    Fault("answers 503", refuse(503)),
    Fault("answers 500", refuse(500)),
    Fault("answers 429", refuse(429)),
    Fault("prefill alone hangs", hang, hurts=("prefill",)),
    Fault("prefill hangs now and then", hang_now_and_then, hurts=("prefill",)),
    Fault("decode alone dies", die, hurts=("decode",)),
    Fault("streams break after two tokens", streams_break, hurts=("decode",), before_first_byte=False),
    Fault("streams end without their end", streams_end_early, hurts=("decode",), before_first_byte=False),
)

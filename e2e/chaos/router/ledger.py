"""The ledger of one fault: what the clients saw against what the router counted, and what it still holds."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from unit.router.scripted import Bench, Channel, Seen, running

from chaos.router.crowd import Ends, play
from chaos.router.faults import WORKERS, Fault, answer

LEAST_ANSWERED = 0.999
TIMEOUTS = {"prefill_timeout_s": 1.0, "first_byte_timeout_s": 2.0}  # of engines that answer within milliseconds


@dataclass
class Row:
    """One line of the table."""

    name: str
    ends: Ends
    retries: int
    misses: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        counts = self.ends.counts
        refused = self.ends.total - sum(counts[kind] for kind in ("ok", "broken", "left", "untyped", "hung"))
        cells = [self.name, self.ends.total, counts["ok"], counts["broken"], refused, counts["left"], self.retries]
        cells += [f"{self.ends.quantile_s(0.99):.2f}", "; ".join(self.misses) or "ok"]
        return "| " + " | ".join(map(str, cells)) + " |"


async def run_fault(fault: Fault, folder: Path, requests: int, dice: random.Random) -> Row:
    """Play one fault against a fleet of which half is hurt."""
    engines = fault.build_engines()
    async with running(folder, engines, **TIMEOUTS) as bench:
        fault.strike(engines)
        ends = await play(bench, requests, dice)
        row = await close(fault.name, bench, ends)
    if fault.before_first_byte and ends.answered < LEAST_ANSWERED * ends.stayed:
        row.misses.append(f"only {ends.answered} of {ends.stayed} answered: {dict(ends.counts)}")
    return row


async def run_gone_on(folder: Path, requests: int, dice: random.Random) -> Row:
    """Half of the decode workers lose their streams, and `continuation: Tokens` has others go on with them."""
    engines = Fault("", telling_and_dying, hurts=("decode",)).build_engines()
    for engine in engines[WORKERS:]:
        if engine.behave is answer:
            engine.behave = telling
    async with running(folder, engines, {"continuation": "Tokens"}, **TIMEOUTS) as bench:
        ends = await play(bench, requests, dice)
        row = await close("streams break, continuation: Tokens", bench, ends)
    if ends.answered < LEAST_ANSWERED * ends.stayed:
        row.misses.append(f"only {ends.answered} of {ends.stayed} answered: {dict(ends.counts)}")
    return row


async def close(name: str, bench: Bench, ends: Ends) -> Row:
    """Compare both sides' accounts once nothing is in flight."""
    misses = []
    try:
        await settle(bench)
    except TimeoutError:
        misses.append("requests are still in flight")
    outcomes = Counter(bench.outcomes())
    if sum(outcomes.values()) != ends.total:
        misses.append(f"{ends.total} requests, {sum(outcomes.values())} ends: {dict(outcomes)}")
    never = {"untyped", "hung", "internal"} & ({*ends.counts} | {*outcomes})
    misses += [f"{kind}: {ends.counts[kind] or outcomes[kind]}" for kind in sorted(never)]
    misses += find_leaks(bench)
    retries = bench.router.metrics.of("m").retries
    return Row(name, ends, sum(retries.values()), misses)


async def settle(bench: Bench) -> None:
    async with asyncio.timeout(10):
        while bench.router.metrics.of("m").inflight:  # noqa: ASYNC110 - a counter of the router's
            await asyncio.sleep(0.01)


def find_leaks(bench: Bench) -> list[str]:
    """Counters that have not returned to zero."""
    fleet = bench.router.catalog.names["m"]
    held = [
        f"{worker.name} still holds {worker.running} requests, {worker.backlog_tokens} tokens"
        for worker in fleet.workers.values()
        if worker.running or worker.backlog_tokens or worker.exchanges
    ]
    return held + ([f"{len(fleet.queue)} requests still queued"] if len(fleet.queue) else [])


WORDS = [f" w{number}" for number in range(12)]


async def telling(seen: Seen, channel: Channel, dies_after: int | None = None) -> None:
    """An engine that tells token ids and goes on where `prompt_token_ids` end; it may lose its stream on the way."""
    body = seen.json
    if not body.get("stream"):
        await answer(seen, channel)
        return
    given = (body.get("kv_transfer_params") or {}).get("prompt_token_ids") or [1]
    sent = len(given) - 1
    await channel.begin_stream()
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    await channel.event({"id": "x", "choices": [opening], "prompt_token_ids": given})
    for number in range(sent, len(WORDS)):
        if dies_after is not None and number >= dies_after:
            await asyncio.sleep(0.005)
            channel.reset()
            return
        reason = "stop" if number == len(WORDS) - 1 else None
        choice = {"index": 0, "delta": {"content": WORDS[number]}, "token_ids": [100 + number], "finish_reason": reason}
        await channel.event({"id": "x", "choices": [choice]})
    await channel.event("[DONE]")
    await channel.end_stream()


async def telling_and_dying(seen: Seen, channel: Channel) -> None:
    """It loses every stream after three tokens, whether it began it or went on with it."""
    given = (seen.json.get("kv_transfer_params") or {}).get("prompt_token_ids") or [1]
    await telling(seen, channel, dies_after=len(given) + 2)

"""One request's way through the sim engine: what is cached, what is pulled, what is computed, what goes wrong."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from tandem_worker.engines.sim.batch import Sequence
from tandem_worker.engines.sim.faults import Fault, FaultKind, FaultSwitch
from tandem_worker.engines.sim.handover import Handover
from tandem_worker.engines.sim.openai import CompletionRequest, Usage
from tandem_worker.engines.sim.prefix_cache import PrefixCache
from tandem_worker.engines.sim.runner import Runner
from tandem_worker.engines.sim.settings import SimSettings
from tandem_worker.engines.sim.text import BLOCK_TOKENS, hash_blocks

CRASH_EXIT_CODE = 70


class BrokenConnectionError(Exception):
    """A fault wants the client's connection closed without another byte."""


@dataclass(frozen=True)
class Prepared:
    """A request whose KV is found. Like vLLM's, `cached_tokens` counts local hits only, not what was pulled."""

    sequence: Sequence
    cached_tokens: int


class Generator:
    """Turns requests into tokens, through one runner."""

    def __init__(self, sim: SimSettings, runner: Runner, handover: Handover | None, faults: FaultSwitch) -> None:
        self._sim = sim
        self._runner = runner
        self._handover = handover
        self._faults = faults
        self._cache = PrefixCache(sim.kv_tokens // BLOCK_TOKENS)

    async def prepare(self, request: CompletionRequest) -> Prepared:
        """Find or fetch the prompt's KV. The last prompt token is always computed: it yields the first answer."""
        blocks = hash_blocks(request.prompt, request.cache_salt)
        cached = self._cache.count_hits(blocks) * BLOCK_TOKENS
        self._cache.insert(blocks)
        if self._handover and request.kv_transfer_params.get("do_remote_prefill"):
            found = max(cached, await self._handover.pull(request.kv_transfer_params, request.prompt))
        else:
            found = cached
        to_compute = request.prompt_tokens - min(found, request.prompt_tokens - 1)
        cached = min(cached, request.prompt_tokens - 1)
        return Prepared(Sequence(request.prompt_tokens, to_compute, request.max_tokens), cached)

    async def generate(self, request: CompletionRequest, prepared: Prepared) -> AsyncGenerator[str]:
        """Yields the answer token by token. Raises BrokenConnectionError where a fault says so."""
        fault = self._faults.strike(FaultKind.SLOW, FaultKind.CUT, FaultKind.STALL, FaultKind.CRASH)
        words = request.answer.tokens(request.prompt)
        async with aclosing(self._runner.generate(prepared.sequence)) as numbers:
            async for number in numbers:
                if fault:
                    await self._suffer(fault, number)
                yield next(words)

    async def _suffer(self, fault: Fault, number: int) -> None:
        if fault.kind is FaultKind.SLOW:
            await asyncio.sleep(self._sim.decode_base_ms * (fault.factor - 1) / 1000 / self._sim.speed)
        elif number > fault.after_tokens:
            await _end_badly(fault)

    def hand_over(self, request: CompletionRequest, request_id: str) -> dict[str, object] | None:
        """kv_transfer_params of the answer, when the request was a prefill for another worker."""
        if self._handover is None or not request.kv_transfer_params.get("do_remote_decode"):
            return None
        return self._handover.issue(request_id, request.prompt, request.prompt_tokens)


async def _end_badly(fault: Fault) -> None:
    if fault.kind is FaultKind.CRASH:
        os._exit(CRASH_EXIT_CODE)
    if fault.kind is FaultKind.STALL:
        await asyncio.Event().wait()
    raise BrokenConnectionError


def count_usage(request: CompletionRequest, prepared: Prepared) -> Usage:
    """Token counts of the answer so far."""
    return Usage(request.prompt_tokens, prepared.sequence.produced, prepared.cached_tokens)

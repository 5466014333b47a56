"""The router's own decision and queue, and two of its peers' rules, over the same world."""

import random

from bench.routing.traffic import BLOCK_TOKENS
from bench.routing.world import Engine, World

from tandem_core.discipline import DeadlineQueue, latest_start_s
from tandem_router.fleets import PREFILL_WINDOW_TOKENS
from tandem_router.policy.costs import Want, missing_tokens
from tandem_router.policy.pairing import decide_prefill
from tandem_router.policy.prefix_index import PrefixIndex

TTFT_S = 2.0
INDEX_BLOCKS = 1 << 20
LOOK_AHEAD = 15


class RoundRobin:
    """In turn, at once."""

    name, window_tokens = "round robin", None

    def __init__(self) -> None:
        self._next = 0

    def arrive(self, world: World, number: int, now_s: float) -> None:
        self._next = (self._next + 1) % len(world.engines)
        world.give(world.engines[self._next], number, world.prompts[number].tokens, now_s)

    def leave(self, world: World, engine: Engine, number: int, now_s: float) -> None:
        """Nothing waits."""


class CacheAware:
    """sglang-router's `cache_aware` with its defaults: balance by requests if far apart, else the longest match."""

    name, window_tokens = "blind push, cache-aware", None

    def __init__(self) -> None:
        self._index = PrefixIndex(INDEX_BLOCKS)

    def arrive(self, world: World, number: int, now_s: float) -> None:
        prompt, engines = world.prompts[number], world.engines
        loads = [engine.running for engine in engines]
        least = min(engines, key=lambda engine: engine.running)
        hits = self._index.hits(prompt.blocks, [engine.bit for engine in engines])
        best = max(engines, key=lambda engine: hits.get(engine.bit, 0))
        is_unbalanced = max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads)
        is_matched = hits.get(best.bit, 0) > 0.3 * len(prompt.blocks)
        chosen = best if is_matched and not is_unbalanced else least
        self._index.insert(prompt.blocks, chosen.bit)
        world.give(chosen, number, prompt.tokens, now_s)

    def leave(self, world: World, engine: Engine, number: int, now_s: float) -> None:
        """Nothing waits."""


class Tandem:
    """The code of the router: learned costs, affinity cap, and a queue in deadline order before the workers."""

    name = "tandem"

    def __init__(self, seed: int, *, holds: bool = True) -> None:
        self.window_tokens = PREFILL_WINDOW_TOKENS if holds else None
        self.name = "tandem" if holds else "tandem's costs, pushed blindly"
        self._index = PrefixIndex(INDEX_BLOCKS)
        self._dice = random.Random(seed)
        self._queue: DeadlineQueue[int] = DeadlineQueue()

    def arrive(self, world: World, number: int, now_s: float) -> None:
        if self._queue or not self._place(world, number, now_s):
            arrival_s = world.prompts[number].arrival_s
            self._queue.push(number, latest_start_s(arrival_s, TTFT_S, 0.0), TTFT_S)

    def leave(self, world: World, engine: Engine, number: int, now_s: float) -> None:
        self._index.insert(world.prompts[number].blocks, engine.bit)
        while self._queue and self._place(world, self._queue.peek(now_s), now_s):
            self._queue.pop(now_s)
        for number in self._queue.after_first(LOOK_AHEAD) if self._queue else ():
            if self._place(world, number, now_s):
                self._queue.remove(number)

    def _place(self, world: World, number: int, now_s: float) -> bool:
        prompt = world.prompts[number]
        can_wait = now_s < prompt.arrival_s + TTFT_S and self.window_tokens is not None
        want = Want(prompt.tokens, BLOCK_TOKENS, pressure=len(self._queue) / len(world.engines), can_wait=can_wait)
        hits = self._index.hits(prompt.blocks, [engine.bit for engine in world.engines])
        chosen = decide_prefill(want, world.engines, hits, self._dice.random())
        if chosen is None:
            return False
        world.give(chosen, number, missing_tokens(want, chosen, hits), now_s)
        return True

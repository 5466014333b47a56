"""Prefill workers with a queue, a batch and a prefix cache each: what the policies are let loose on."""

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from bench.routing.traffic import BLOCK_TOKENS, Prompt

from tandem_core.performance import PerformanceModel
from tandem_router.policy.learned import WorkerFits


class Engine:
    """One prefill worker: prompts in the order in which they came, as many at once as fit into a step.

    It is what the policy sees of a worker, too: `running` and `backlog_tokens` are the router's own count.
    """

    topology, warmth, trust = "", 1.0, 1.0
    slots = 256

    def __init__(self, number: int, model: PerformanceModel, cache_blocks: int, window_tokens: int | None) -> None:
        self.bit = 1 << number
        self.fits = WorkerFits()
        self.running = self.backlog_tokens = 0
        self.waiting: deque[int] = deque()
        self.batch: list[int] = []
        self._model, self._window = model, window_tokens
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._cache_blocks = cache_blocks

    @property
    def has_slot(self) -> bool:
        return self._window is None or self.backlog_tokens < self._window

    def has_adapter(self, name: str) -> bool:
        return False

    def missing_tokens(self, prompt: Prompt) -> int:
        """Tokens that are really to be computed."""
        held = 0
        for block in prompt.blocks:
            if block not in self._cache:
                break
            held += 1
        return max(1, (len(prompt.blocks) - held) * BLOCK_TOKENS)

    def remember(self, prompt: Prompt) -> None:
        """The prompt's KV is in the cache."""
        for block in prompt.blocks:
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > self._cache_blocks:
            self._cache.popitem(last=False)

    def begin(self, prompts: list[Prompt]) -> float | None:
        """Take the next batch; seconds that it takes, None when nothing waits."""
        if self.batch or not self.waiting:
            return None
        tokens = square = 0.0
        while self.waiting:
            prompt = prompts[self.waiting[0]]
            new = self.missing_tokens(prompt)
            if self.batch and tokens + new > self._model.step_tokens:
                break
            self.batch.append(self.waiting.popleft())
            tokens += new
            square += new * (2.0 * prompt.tokens - new)
        steps = -(-tokens // self._model.step_tokens)
        return self._model.prefill_work_s(steps, tokens, square)


class Policy(Protocol):
    """Where prompts go."""

    name: str
    window_tokens: int | None

    def arrive(self, world: "World", number: int, now_s: float) -> None:
        """A prompt comes."""

    def leave(self, world: "World", engine: Engine, number: int, now_s: float) -> None:
        """A prompt is prefilled."""


class World:
    """The clock, the engines and what came of each prompt."""

    def __init__(
        self, prompts: list[Prompt], workers: int, model: PerformanceModel, cache_blocks: int, policy: Policy
    ) -> None:
        self.prompts, self.policy = prompts, policy
        self.engines = [Engine(number, model, cache_blocks, policy.window_tokens) for number in range(workers)]
        self.ttft_s = [0.0] * len(prompts)
        self.computed_tokens = 0
        self.given_s = [0.0] * len(prompts)
        self.claimed: dict[int, int] = {}
        self.ahead: dict[int, int] = {}
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()

    def run(self) -> None:
        """Serve every prompt."""
        for number, prompt in enumerate(self.prompts):
            while self._agenda and self._agenda[0][0] <= prompt.arrival_s:
                self._step()
            self.policy.arrive(self, number, prompt.arrival_s)
        while self._agenda:
            self._step()

    def give(self, engine: Engine, number: int, claimed_tokens: int, now_s: float) -> None:
        """A prompt goes to a worker."""
        self.claimed[number], self.ahead[number] = claimed_tokens, engine.backlog_tokens
        self.given_s[number] = now_s
        engine.running += 1
        engine.backlog_tokens += claimed_tokens
        engine.waiting.append(number)
        self._begin(engine, now_s)

    def _begin(self, engine: Engine, now_s: float) -> None:
        took_s = engine.begin(self.prompts)
        if took_s is not None:
            heappush(self._agenda, (now_s + took_s, next(self._order), lambda at_s: self._end(engine, at_s)))

    def _end(self, engine: Engine, now_s: float) -> None:
        batch, engine.batch = engine.batch, []
        for number in batch:
            prompt = self.prompts[number]
            computed = engine.missing_tokens(prompt)
            self.computed_tokens += computed
            self.ttft_s[number] = now_s - prompt.arrival_s
            engine.running -= 1
            engine.backlog_tokens -= self.claimed.pop(number)
            engine.fits.observe_prefill(self.ahead.pop(number), computed, now_s - self.given_s[number], now_s)
            engine.remember(prompt)
        for number in batch:
            self.policy.leave(self, engine, number, now_s)
        self._begin(engine, now_s)

    def _step(self) -> None:
        at_s, _, action = heappop(self._agenda)
        action(at_s)

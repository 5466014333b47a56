"""The engines that are hurt, and how one request's fate is measured."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration.kv.vllm_engine import Engine, make_tiny_model, start_engine, text_of

VICTIM_LEASE_S = 3.0
CHUNK_DELAY_S = 0.06  # a prompt of 1,400 tokens takes 2.6 s in its 44 blocks: time to be hurt in
_SETTLE_S = 6.0


@dataclass
class Outcome:
    """What a fault led to. `misses` say what should not have been so."""

    summary: str
    seconds: float = 0.0
    recomputed_tokens: int = 0
    is_equal: bool | None = None
    misses: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """A prompt, and what one engine alone says to it."""

    prompt: list[int]
    truth: str
    max_tokens: int


@dataclass(frozen=True)
class Expected:
    """Bounds of a request's fate."""

    within_s: float
    recomputed: tuple[int, int] = (0, 0)


@dataclass
class Stage:
    """`plain` tells the truth; `victim` is a prefill engine with short leases, made to be killed; with our own
    connector it is slow, and `corrupting` destroys what it receives.
    """

    plain: Engine
    prefill: Engine
    victim: Engine
    decode: Engine
    corrupting: Engine | None
    start: Callable[..., Engine]  # one more engine of a role, gone with the others
    rng: random.Random

    def make_prompt(self, tokens: int) -> list[int]:
        return [self.rng.randrange(5, 900) for _ in range(tokens)]

    def make_question(self, tokens: int, max_tokens: int = 40) -> Question:
        """Asked of the plain engine before there is a ticket: leases are short here."""
        prompt = self.make_prompt(tokens)
        return Question(prompt, text_of(self.plain.complete(prompt, max_tokens)), max_tokens)

    def redeem(self, question: Question, ticket: dict[str, Any], expected: Expected, **body: Any) -> Outcome:
        """The decode leg, measured."""
        before = self.decode.stats()
        started_s = time.monotonic()
        text = text_of(self.decode.complete(question.prompt, question.max_tokens, kv_transfer_params=ticket, **body))
        took_s = time.monotonic() - started_s
        after = self.decode.stats()
        recomputed = after["recomputed_tokens"] - before["recomputed_tokens"]
        reasons = Counter(after["failures"]) - Counter(before["failures"])
        outcome = Outcome(", ".join(sorted(reasons)) or "served", took_s, recomputed, text == question.truth)
        if text != question.truth:
            outcome.misses.append("the output differs")
        if took_s > expected.within_s:
            outcome.misses.append(f"took longer than {expected.within_s:g} s")
        if not expected.recomputed[0] <= recomputed <= expected.recomputed[1]:
            outcome.misses.append(f"recomputed should be in {expected.recomputed}")
        return outcome

    def find_leaks(self) -> list[str]:
        """What living engines still hold when nothing runs, after time to let go."""
        living = {"prefill": self.prefill, "victim": self.victim, "decode": self.decode}
        living = {name: engine for name, engine in living.items() if engine.process.poll() is None}
        end_s = time.monotonic() + _SETTLE_S
        while held := [f"{name} holds {what}" for name, engine in living.items() for what in _held(engine)]:
            if time.monotonic() > end_s:
                return held
            time.sleep(0.1)
        return []


def _held(engine: Engine) -> list[str]:
    held = [f"{engine.stats()['leases']} leases"] if engine.stats()["leases"] else []
    for line in engine.client.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith(("vllm:kv_cache_usage_perc", "vllm:num_requests_running")) and float(value):
            held.append(f"{name.partition('{')[0]} {value}")
    return held


@contextmanager
def running_stage(python: str, folder: Path, seed: int, *, is_nixl: bool) -> Iterator[Stage]:
    """All engines start at once; all are gone afterwards."""
    model = make_tiny_model(python, folder / "model")
    engines: list[Engine] = []

    def start(role: str | None, **settings: Any) -> Engine:
        number = len(engines) + 1
        address = f"127.0.231.{number}"
        engines.append(start_engine(python, model, folder / str(number), address, role, is_nixl=is_nixl, **settings))
        return engines[-1]

    try:
        slow = {} if is_nixl else {"chunk_bytes": 64 << 10, "chunk_delay_s_for_test": CHUNK_DELAY_S}
        victim = start("prefill", lease_s=VICTIM_LEASE_S, **slow)
        corrupting = None if is_nixl else start("decode", corrupt_for_test=True)
        chance = random.Random(seed)  # noqa: S311  # prompts, not secrets
        stage = Stage(start(None), start("prefill"), victim, start("decode"), corrupting, start, chance)
        for engine in engines:
            engine.wait_ready()
        yield stage
    finally:
        for engine in engines:
            engine.kill(18)  # SIGCONT: a stopped engine cannot end
            engine.stop()

"""Conversations that share system prompts: what makes prefixes worth finding, and popular ones dangerous."""

import random
from dataclasses import dataclass

BLOCK_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: when it comes, and its prefix blocks by number."""

    arrival_s: float
    blocks: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Length."""
        return len(self.blocks) * BLOCK_TOKENS


def build_traffic(requests: int, per_s: float, seed: int) -> list[Prompt]:
    """Poisson arrivals of turns; system prompts by Zipf, lengths log-normal; a fifth of them opens a conversation."""
    dice = random.Random(seed)
    fresh = iter(range(1, 1 << 40))
    systems = [tuple(next(fresh) for _ in range(dice.randint(4, 40))) for _ in range(40)]
    weights = [1.0 / (rank + 1) for rank in range(len(systems))]
    open_: list[tuple[int, ...]] = []
    prompts, now_s = [], 0.0
    for _ in range(requests):
        now_s += dice.expovariate(per_s)
        if open_ and dice.random() < 0.8:
            history = open_.pop(dice.randrange(len(open_)))
        else:
            history = dice.choices(systems, weights)[0]
        turn = max(1, min(400, int(dice.lognormvariate(2.3, 1.0))))
        blocks = history + tuple(next(fresh) for _ in range(turn))
        if len(blocks) < 500:
            open_.append(blocks)
        prompts.append(Prompt(now_s, blocks))
    return prompts

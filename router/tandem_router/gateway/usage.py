"""What each tenant has used, counted for metrics and bills. Bounded: tenants are those of the file."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Usage:
    """Counts of one tenant since this replica started."""

    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)  # kind: prompt, cached, completion
    limited: Counter[str] = field(default_factory=Counter)  # by the limit that refused

    def count(self, outcome: str, prompt: int, cached: int, completion: int) -> None:
        """A request ended."""
        self.outcomes[outcome] += 1
        tokens = self.tokens
        tokens["prompt"] += prompt
        tokens["cached"] += cached
        tokens["completion"] += completion

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for the usage endpoint."""
        return {"requests": dict(self.outcomes), "tokens": dict(self.tokens), "limited": dict(self.limited)}

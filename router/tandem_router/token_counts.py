"""The engine's own token counts of one request, as its usage tells them. No I/O."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class TokenCounts(NamedTuple):
    """Tokens of one request; `cached` are those of the prompt that were not computed anew."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    @property
    def charged(self) -> int:
        """What a tenant's token limit is charged with."""
        return self.prompt + self.completion


def read_counts(usage: Mapping[str, Any]) -> TokenCounts:
    """Counts from a usage object in the shape of chat completions; what is no count is 0."""
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return TokenCounts(_count(usage.get("prompt_tokens")), cached, _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0

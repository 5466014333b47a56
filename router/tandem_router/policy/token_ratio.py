"""Prompt tokens per byte of text, learned per fleet: no tokenizer runs here, and the engine tells the truth later."""

DEFAULT_TOKENS_PER_BYTE = 0.25  # English text
GAIN = 0.05
MIN_BYTES = 64  # a chat template outweighs shorter prompts
BOUNDS = (1 / 32, 2.0)


class TokenRatio:
    """Smoothed tokens per byte."""

    __slots__ = ("tokens_per_byte",)

    def __init__(self) -> None:
        self.tokens_per_byte = DEFAULT_TOKENS_PER_BYTE

    def tokens(self, size_bytes: int) -> int:
        """Estimate for a prompt."""
        return int(size_bytes * self.tokens_per_byte) + 1

    def observe(self, size_bytes: int, tokens: int) -> None:
        """The engine counted `tokens` in a prompt of so many bytes."""
        if size_bytes < MIN_BYTES or tokens <= 0:
            return
        low, high = BOUNDS
        seen = min(high, max(low, tokens / size_bytes))
        self.tokens_per_byte += GAIN * (seen - self.tokens_per_byte)

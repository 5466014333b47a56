"""How far the prefix index may be believed of one worker, learned from the engine's own `cached_tokens`."""

GAIN = 0.1
FLOOR = 0.05  # below it nothing would ever be routed there that could prove the contrary
MIN_SHARE = 0.1  # of the prompt; a smaller foretold hit proves little


class HitTrust:
    """Smoothed share of the foretold cached prompt that the engine really had. Starts at one."""

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = 1.0

    def observe(self, foretold_share: float, cached_share: float) -> None:
        """The index foretold that a share of the prompt was cached; the engine says what was."""
        if foretold_share < MIN_SHARE:
            return
        seen = min(1.0, max(0.0, cached_share / foretold_share))
        self.share = max(FLOOR, self.share + GAIN * (seen - self.share))

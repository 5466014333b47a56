"""How many of a tenant's requests may leave their region: a share of them, with some at once. Pure."""

AT_ONCE = 20.0  # spilled requests beyond the share's steady flow: a burst is when spilling is wanted


class SpillBudget:
    """Every request earns `share` of a spill; a spill costs one. Of any n requests at most share·n + 20 leave."""

    __slots__ = ("_earned", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._earned = AT_ONCE * share

    def earn(self) -> None:
        """A request came."""
        self._earned = min(AT_ONCE, self._earned + self.share)

    @property
    def has_room(self) -> bool:
        """One more may leave."""
        return self.share >= 1.0 or self._earned >= 1.0

    def spend(self) -> None:
        """One left."""
        self._earned = max(0.0, self._earned - 1.0)

"""A fleet that never changes."""

from typing import Any

from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import View


class StaticPolicy:
    """The same sizes for ever."""

    interval_s = 60.0
    sees_staleness = False

    def __init__(self, sizes: Sizes) -> None:
        self.name = f"static:{sizes.prefill},{sizes.decode}"
        self._sizes = sizes

    def decide(self, view: View) -> Sizes:
        """Whatever comes."""
        return self._sizes

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []

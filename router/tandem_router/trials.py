"""How the workers of each template do, while two templates of a role run side by side: what a rollout is judged by."""

import time
from collections import deque
from collections.abc import Callable, Iterable

from tandem_api.router import TRIAL_BIN_S, TRIAL_KEPT_S, Trial, TrialBin


class Trials:
    """Counts per template, in bins of `TRIAL_BIN_S`. `wall` is Unix time, seconds."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._bins: dict[str, deque[list[int]]] = {}  # as `TrialBin`, and growing in place

    def note_fault(self, template: str) -> None:
        """A leg ended by a fault of a worker of this template."""
        self._note(template, 1, 0, 0)

    def note_end(self, templates: Iterable[str], *, ttft_missed: bool, tpot_missed: bool) -> None:
        """A request was answered by workers of these templates."""
        for template in templates:
            self._note(template, 0, ttft_missed, tpot_missed)

    def tell(self, present: Iterable[tuple[str, str]]) -> tuple[Trial, ...]:
        """What the operator is told of the templates that are present; nothing while no role has two.

        Args:
            present: (role, template) of each known worker.
        """
        pairs = set(present)
        for template in self._bins.keys() - {template for _, template in pairs}:
            del self._bins[template]
        if len({role for role, _ in pairs}) == len(pairs):
            return ()
        oldest_s = self._wall() - TRIAL_KEPT_S
        return tuple(
            Trial(template_revision=name, bins=tuple(TrialBin(*one) for one in bins if one[0] >= oldest_s))
            for name, bins in sorted(self._bins.items())
        )

    def _note(self, template: str, failed: int, ttft_missed: int, tpot_missed: int) -> None:
        started_s = int(self._wall() // TRIAL_BIN_S) * TRIAL_BIN_S
        bins = self._bins.get(template)
        if bins is None:
            bins = self._bins[template] = deque(maxlen=TRIAL_KEPT_S // TRIAL_BIN_S)
        if not bins or bins[-1][0] < started_s:
            bins.append([started_s, 0, 0, 0, 0])
        newest = bins[-1]
        newest[1] += 1
        newest[2] += failed
        newest[3] += ttft_missed
        newest[4] += tpot_missed


def is_over(value_s: float | None, target_s: float | None) -> bool:
    """A measured time is later than its target; what was not measured, or has no target, is not."""
    return value_s is not None and target_s is not None and value_s > target_s


class DecayingSum:
    """A sum whose terms halve every `half_life_s`. Times are seconds of one clock."""

    __slots__ = ("_at_s", "_half_life_s", "_sum")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._sum = 0.0
        self._at_s = 0.0

    def add(self, amount: float, now_s: float) -> None:
        """Add a term."""
        self._sum = self.value(now_s) + amount
        self._at_s = now_s

    def value(self, now_s: float) -> float:
        """The sum as of now."""
        age_s = max(0.0, now_s - self._at_s)
        return float(self._sum * 0.5 ** (age_s / self._half_life_s))

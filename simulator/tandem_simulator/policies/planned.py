"""Sizes by a timetable: what the oracle's search produces."""

from dataclasses import dataclass
from typing import Any

from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import View

SLOT_S = 10.0


@dataclass(frozen=True, slots=True)
class Timetable:
    """Workers that must be *ready* from each moment on, per slot of ten seconds."""

    prefill: tuple[int, ...]
    decode: tuple[int, ...]


class PlannedPolicy:
    """Asks for workers one (longest) start-up before they are due; the rest follows from the timetable."""

    name = "oracle"
    interval_s = SLOT_S
    sees_staleness = True

    def __init__(self, timetable: Timetable, lead_s: float) -> None:
        self._table, self._lead = timetable, round(lead_s / SLOT_S)

    def decide(self, view: View) -> Sizes:
        """The most that is due between now and one start-up ahead: gaps shorter than a start stay closed."""
        slot = int(view.now_s / SLOT_S)
        ahead = slice(slot, slot + self._lead + 1)
        return Sizes(_largest(self._table.prefill, ahead), _largest(self._table.decode, ahead))

    def first_sizes(self) -> Sizes:
        """What should be ready at time zero."""
        return Sizes(
            _largest(self._table.prefill, slice(0, self._lead + 1)),
            _largest(self._table.decode, slice(0, self._lead + 1)),
        )

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []


def _largest(row: tuple[int, ...], part: slice) -> int:
    return max(row[part], default=row[-1])

"""A fair sample of one second's records in bounded memory: each kept record says how many it stands for."""

from array import array
from collections.abc import Iterator, Sequence
from math import isnan, nan

from tandem_api.router import DEMAND_RECORDS_PER_S

Row = tuple[float | None, ...]


class Reservoir:
    """Reservoir sampling (Vitter's algorithm R): every record of the second is as likely as any other to be kept."""

    __slots__ = ("_limit", "_rows", "offered")

    def __init__(self, limit: int = DEMAND_RECORDS_PER_S) -> None:
        self._limit = limit
        self._rows: list[Row] = []
        self.offered = 0

    def offer(self, row: Row, draw: float) -> None:
        """One more record; `draw` in [0, 1) decides whether it takes the place of another."""
        self.offered += 1
        if len(self._rows) < self._limit:
            self._rows.append(row)
            return
        place = int(draw * self.offered)
        if place < self._limit:
            self._rows[place] = row

    @property
    def kept(self) -> int:
        """Records in the sample."""
        return len(self._rows)

    def pack(self) -> bytes:
        """The kept rows, in order of their first column, each with its weight as a last column; None is NaN."""
        weight = self.offered / len(self._rows) if self._rows else 1.0
        cells = array("d")
        for row in sorted(self._rows, key=lambda one: one[0] or 0.0):
            cells.extend(nan if cell is None else cell for cell in row)
            cells.append(weight)
        return cells.tobytes()


def unpack(packed: bytes, kinds: Sequence[type]) -> Iterator[list[float | int | bool | None]]:
    """Inverse of `Reservoir.pack`: rows whose columns are of `kinds`."""
    cells = array("d")
    cells.frombytes(packed)
    width = len(kinds)
    for start in range(0, len(cells), width):
        row = cells[start : start + width]
        yield [None if isnan(cell) else kind(cell) for kind, cell in zip(kinds, row, strict=True)]

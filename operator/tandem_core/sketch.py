"""Percentiles of a stream in bounded memory: logarithmic buckets with a relative error, mergeable.

The DDSketch scheme (Masson, Rim, Lee, VLDB 2019): bucket i holds values in (γ^(i−1), γ^i], γ = (1 + a)/(1 − a), and
reports 2 γ^i / (γ + 1), which is off by at most the share `a`.
"""

from collections.abc import Mapping
from math import ceil, inf, isfinite, log

SMALLEST = 1e-6  # below a microsecond counts as zero
RELATIVE_ERROR = 0.01
_GAMMA = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
_LOG_GAMMA = log(_GAMMA)


class Sketch:
    """Counts of positive values by logarithmic bucket. Values that are not finite or negative are refused."""

    __slots__ = ("_buckets", "_count", "_zeros")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._zeros = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: float, times: int = 1) -> None:
        """Count a value.

        Raises:
            ValueError: the value is NaN, infinite or negative, or `times` is below one.
        """
        if not isfinite(value) or value < 0 or times < 1:
            raise ValueError(f"cannot count {value} × {times}: give a finite value of zero or more, at least once")
        self._count += times
        if value <= SMALLEST:
            self._zeros += times
            return
        index = ceil(log(value) / _LOG_GAMMA)
        self._buckets[index] = self._buckets.get(index, 0) + times

    def merge(self, other: "Sketch") -> None:
        """Add all that `other` counted."""
        self._count += other._count
        self._zeros += other._zeros
        for index, times in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + times

    def quantile(self, share: float) -> float:
        """The value below which `share` of all counted values lie, within 1 %; NaN when nothing was counted.

        Raises:
            ValueError: `share` is outside 0 … 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}: give 0 to 1")
        if self._count == 0:
            return float("nan")
        rank = share * (self._count - 1)
        seen = self._zeros
        if rank < seen:
            return 0.0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if rank < seen:
                return float(2.0 * _GAMMA**index / (_GAMMA + 1.0))
        return inf  # unreachable: the counts add up to _count

    def to_counts(self) -> dict[str, int]:
        """JSON form: bucket index → count, and `zero`."""
        counts = {str(index): times for index, times in sorted(self._buckets.items())}
        return {"zero": self._zeros, **counts} if self._zeros else counts

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> "Sketch":
        """Inverse of `to_counts`.

        Raises:
            ValueError: a key is no index, or a count is below one.
        """
        sketch = cls()
        for key, times in counts.items():
            if times < 1:
                raise ValueError(f"sketch bucket {key!r} counts {times}: drop it or give at least 1")
            sketch._count += times
            if key == "zero":
                sketch._zeros += times
            else:
                sketch._buckets[int(key)] = sketch._buckets.get(int(key), 0) + times
        return sketch

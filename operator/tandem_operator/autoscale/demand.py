"""Demand of one fleet as its routers saw it: 1-second bins, arrival records, and gauges. Fed by who reads them."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from math import ceil, isfinite
from operator import add, attrgetter

BIN_S = 1
KEPT_S = 900  # no window is longer
KEPT_RECORDS = 10_000  # no replay reads more


class BadDemandError(ValueError):
    """A router reported what cannot be; the message names the field."""


@dataclass(slots=True)
class Bin:
    """What happened in one second. Token sums are taken at arrival, after prefix hits; endings at the end.

    Attributes:
        second: seconds since the epoch of the caller's clock, whole.
        arrivals: requests that came.
        steps: engine steps that their prefill needs, Σ.
        new_tokens: prompt tokens to compute, Σ n.
        square_tokens: Σ (n² + 2 n h) with h cached tokens.
        prompt_tokens: Σ (n + h), what decode will hold.
        finished: requests that ended, however.
        prefill_misses: ended, TTFT missed by waiting for prefill, failed or shed there.
        decode_misses: ended, TPOT missed, or TTFT missed by waiting for decode.
        ended_prompt_tokens: Σ prompt tokens of those that ended.
        held_s: sequences on decode workers during this second, × 1 s.
        held_kv_s: KV tokens that they held, × 1 s.
        kv_token_s, kv_square_s: over those that ended, KV tokens (and their square) × seconds held, Σ: how lumpy it is.
    """

    second: int
    arrivals: float = 0.0
    steps: float = 0.0
    new_tokens: float = 0.0
    square_tokens: float = 0.0
    prompt_tokens: float = 0.0
    finished: float = 0.0
    prefill_misses: float = 0.0
    decode_misses: float = 0.0
    ended_prompt_tokens: float = 0.0
    held_s: float = 0.0
    held_kv_s: float = 0.0
    kv_token_s: float = 0.0
    kv_square_s: float = 0.0

    def check(self) -> None:
        """Raises BadDemandError when a sum is NaN, infinite or negative."""
        for name, value in zip(SUMS, _values(self), strict=True):
            if not (isfinite(value) and value >= 0):
                raise BadDemandError(f"demand bin {self.second}: {name} is {value}; bins hold sums of zero or more")

    def add(self, other: "Bin") -> None:
        """Sum the bin of another router into this one."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


SUMS = tuple(field.name for field in fields(Bin) if field.name != "second")
_values = attrgetter(*SUMS)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One recorded request.

    Attributes:
        arrival_s: when it came.
        new_tokens: prompt tokens to compute.
        cached_tokens: prompt tokens that a prefix hit saved.
        target_s: its TTFT target.
        weight: requests that it stands for; above one when the router samples.
    """

    arrival_s: float
    new_tokens: int
    cached_tokens: int
    target_s: float
    weight: float = 1.0

    def check(self) -> None:
        """Raises BadDemandError when a number cannot be. A target without end is one that nothing misses."""
        for name in ("arrival_s", "new_tokens", "cached_tokens", "weight"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise BadDemandError(f"demand record: {name} is {value}; give a finite number of zero or more")
        if not self.target_s >= 0:
            raise BadDemandError(f"demand record: target_s is {self.target_s}; give zero or more")


@dataclass(frozen=True, slots=True)
class Gauges:
    """Levels now, summed over the routers.

    Attributes:
        queued_steps, queued_tokens, queued_square_tokens: of the requests that wait for prefill, as in `Bin`.
        decode_sequences: requests on decode workers, or waiting for one.
        decode_kv_tokens: KV tokens that they hold.
    """

    queued_steps: float = 0.0
    queued_tokens: float = 0.0
    queued_square_tokens: float = 0.0
    decode_sequences: float = 0.0
    decode_kv_tokens: float = 0.0


class DemandHistory:
    """The newest bins and arrival records. The only mutable thing here; it holds no time of its own.

    Attributes:
        first_second: since when demand is known; silence counts as known.
        last_arrival_second: of the newest bin in which a request came.
    """

    def __init__(self, kept_s: int = KEPT_S) -> None:
        self._kept_s = kept_s
        self._bins: dict[int, Bin] = {}
        self._arrivals: deque[Arrival] = deque(maxlen=KEPT_RECORDS)
        self.first_second: int | None = None
        self.last_arrival_second: int | None = None

    def cover(self, from_second: int) -> None:
        """Demand is known from that second on, also where no bin says so."""
        if self.first_second is None or from_second < self.first_second:
            self.first_second = from_second

    def add_bin(self, reported: Bin) -> None:
        """Sum one router's bin in.

        Raises:
            BadDemandError: a sum is NaN, infinite or negative.
        """
        reported.check()
        held = self._bins.get(reported.second)
        if held is None:
            self._bins[reported.second] = held = Bin(reported.second)
        held.add(reported)
        self.cover(reported.second)
        if reported.arrivals > 0:
            self.last_arrival_second = max(reported.second, self.last_arrival_second or 0)

    def add_arrivals(self, records: Iterable[Arrival]) -> None:
        """Append records; those of several routers may come interleaved.

        Raises:
            BadDemandError: a record's number is NaN, infinite or negative.
        """
        batch = list(records)
        for record in batch:
            record.check()
        if not batch:
            return
        first_s = min(record.arrival_s for record in batch)
        while self._arrivals and self._arrivals[-1].arrival_s > first_s:
            batch.append(self._arrivals.pop())
        self._arrivals.extend(sorted(batch, key=attrgetter("arrival_s")))

    def trim(self, now_s: float) -> None:
        """Forget what no window reaches back to."""
        oldest = now_s - self._kept_s
        for second in [second for second in self._bins if second < oldest]:
            del self._bins[second]
        while self._arrivals and self._arrivals[0].arrival_s < oldest:
            self._arrivals.popleft()

    @property
    def is_empty(self) -> bool:
        """Nothing happened within the windows."""
        return not self._bins and not self._arrivals

    def bins(self, from_s: float, until_s: float) -> Iterator[Bin]:
        """Bins that began at or after `from_s` and ended by `until_s`; empty seconds are left out."""
        for second in range(int(from_s), int(until_s)):
            found = self._bins.get(second)
            if found is not None:
                yield found

    def total(self, from_s: float, until_s: float) -> Bin:
        """Sum of the bins of a span."""
        sums = [0.0] * len(SUMS)
        for one in self.bins(from_s, until_s):
            sums = list(map(add, sums, _values(one)))
        return Bin(int(from_s), *sums)

    def spans(self, until_s: float, span_s: int, count: int) -> list[Bin]:
        """Sums of the last `count` spans of `span_s`, oldest first; those before the first bin are left out."""
        first = self.first_second if self.first_second is not None else until_s
        starts = (int(until_s) - span_s * back for back in range(count, 0, -1))
        return [self.total(start, start + span_s) for start in starts if start >= first]

    def arrivals(self, from_s: float, at_most: int) -> list[Arrival]:
        """The newest records since `from_s`, at most so many, in order of arrival."""
        newest: list[Arrival] = []
        for record in reversed(self._arrivals):
            if record.arrival_s < from_s or len(newest) == at_most:
                break
            newest.append(record)
        newest.reverse()
        return newest

    def is_idle_since(self, from_s: float) -> bool:
        """No request came since then, and the data reach back that far."""
        if self.first_second is None or self.first_second > from_s:
            return False
        return self.last_arrival_second is None or self.last_arrival_second < from_s


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered), max(1, ceil(share * len(ordered) - 1e-9))) - 1]

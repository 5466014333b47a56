"""What one decision leaves for the next: a value, so that a new leader can take it from status, or start without it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from tandem_operator.autoscale.demand import quantile
from tandem_operator.autoscale.observation import PoolState
from tandem_operator.autoscale.settings import Method

HOUR_S = 3600.0
ENOUGH_ERRORS = 60  # five minutes of decisions


@dataclass(frozen=True, slots=True)
class Sized:
    """A target at a time."""

    at_s: float
    workers: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """A forecast requirement (workers, a real number), when it falls due, and whether the load rose as it was made."""

    due_s: float
    workers: float
    is_rising: bool = True


class Error(NamedTuple):
    """How far a forecast fell short: when it was judged, workers, and whether the load rose when it was made."""

    at_s: float
    workers: float
    is_rising: bool


@dataclass(frozen=True, slots=True)
class ForecastRecord:
    """Forecasts that wait for their day, and how wrong those were whose day has come.

    Errors are kept in workers, not as a ratio: out of a valley a load may grow sixfold while one worker starts, and
    six times the peak would be absurd.
    """

    open: tuple[Forecast, ...] = ()
    errors: tuple[Error, ...] = ()

    def judged(self, now_s: float, realised: float) -> "ForecastRecord":
        """With every forecast that is due compared with what came true."""
        fresh = tuple(Error(now_s, realised - one.workers, one.is_rising) for one in self.open if one.due_s <= now_s)
        kept = tuple(error for error in self.errors if error.at_s > now_s - HOUR_S)
        return ForecastRecord(tuple(one for one in self.open if one.due_s > now_s), (*kept, *fresh))

    def raised(self, forecast: float, share: float, prior: float, *, is_rising: bool) -> float:
        """A forecast plus that quantile of past errors, never less than itself; times `prior` while few are known.

        While the load falls, only forecasts made while it fell count: what it may turn out to be is known from them,
        and the growth before a peak need not be paid for after it.
        """
        if len(self.errors) < ENOUGH_ERRORS:
            return forecast * prior
        falling = [] if is_rising else [error.workers for error in self.errors if not error.is_rising]
        alike = falling if len(falling) >= ENOUGH_ERRORS else [error.workers for error in self.errors]
        return forecast + max(0.0, quantile(alike, share))

    def with_open(self, forecast: Forecast) -> "ForecastRecord":
        """With one more forecast."""
        return replace(self, open=(*self.open, forecast))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the last replay said: workers for a work rate (workers kept busy)."""

    at_s: float
    work: float
    workers: int


@dataclass(frozen=True, slots=True)
class Replays:
    """The last of the own demand, and of that together with other regions', while there is any."""

    own: Replayed | None = None
    joint: Replayed | None = None


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What is remembered of one pool.

    Attributes:
        targets: of the last hour, oldest first.
        level: of the outer loop, 0 … 1.
        replays: the last ones.
        ceiling: workers that found a GPU when others did not, and when that was last seen.
    """

    targets: tuple[Sized, ...] = ()
    level: float = 0.0
    forecasts: ForecastRecord = ForecastRecord()
    replays: Replays = Replays()
    ceiling: Sized | None = None

    def with_ceiling(self, now_s: float, pool: PoolState, method: Method) -> "PoolMemory":
        """Whether GPUs have run out.

        Believed for a while after it was last seen, because fewer are asked for then, and that is no sign of more.
        Disbelieved at once when more workers are ready than found a GPU.
        """
        if pool.pending_gpu_s >= method.gpu_backoff_s:
            return replace(self, ceiling=Sized(now_s, pool.placed))
        seen = self.ceiling
        if seen is not None and (pool.ready > seen.workers or now_s - seen.at_s > method.gpu_ceiling_s):
            return replace(self, ceiling=None)
        return self

    def remembering(self, at_s: float, workers: int, level: float) -> "PoolMemory":
        """With one more target; what is older than an hour is forgotten."""
        kept = tuple(one for one in self.targets if one.at_s > at_s - HOUR_S)
        return replace(self, targets=(*kept, Sized(at_s, workers)), level=level)

    def since(self, from_s: float) -> list[int]:
        """Targets since a time."""
        return [one.workers for one in self.targets if one.at_s >= from_s]


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a decision leaves behind. The empty one is a good start. `helped_s`: when peers last needed help."""

    prefill: PoolMemory = PoolMemory()
    decode: PoolMemory = PoolMemory()
    last_decided_s: float | None = None
    helped_s: float | None = None

    def or_first(self, now_s: float, prefill: int, decode: int) -> "Memory":
        """Itself; or, before its first decision, one that takes the sizes found as needed until now.

        A new leader without history must not shrink on its first, shortest windows.
        """
        if self.last_decided_s is not None:
            return self
        return replace(
            self,
            prefill=self.prefill.remembering(now_s, prefill, self.prefill.level),
            decode=self.decode.remembering(now_s, decode, self.decode.level),
        )

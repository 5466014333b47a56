"""The part of the memory that outlives a leader, small enough for a status.

Of an hour of targets the largest of each five minutes is kept, of the forecast errors the one quantile that is used.
Demand itself is not kept: a new leader reads the routers' last minutes again.
"""

from dataclasses import replace
from datetime import UTC, datetime

from tandem_api.v1alpha1 import AutoscalerMemoryStatus, PoolMemoryStatus
from tandem_operator.autoscale.demand import quantile
from tandem_operator.autoscale.memory import ENOUGH_ERRORS, HOUR_S, Error, ForecastRecord, Memory, PoolMemory, Sized
from tandem_operator.autoscale.settings import Method

SPAN_S = 300.0
LEVEL_STEP = 0.05  # what is written moves in steps, so that noise writes nothing


def build_memory_status(memory: Memory, now_s: float) -> AutoscalerMemoryStatus:
    """What to write down."""
    return AutoscalerMemoryStatus(
        time=format_time(now_s),
        prefill=_pool_status(memory.prefill, now_s),
        decode=_pool_status(memory.decode, now_s),
    )


def _pool_status(pool: PoolMemory, now_s: float) -> PoolMemoryStatus:
    known = len(pool.forecasts.errors) >= ENOUGH_ERRORS
    worst = quantile((error.workers for error in pool.forecasts.errors), Method().forecast_share)
    return PoolMemoryStatus(
        level=round(LEVEL_STEP * round(pool.level / LEVEL_STEP), 2),
        needed=_shortened([max(found) for found in _by_span(pool, now_s) if found]),
        shortfall=max(0.0, float(f"{worst:.2g}")) if known else None,
    )


def _shortened(needed: list[int]) -> list[int]:
    """An hour of one size is that size: at rest nothing is to be written every five minutes."""
    return needed[:1] if len(set(needed)) == 1 else needed


def _by_span(pool: PoolMemory, now_s: float) -> list[list[int]]:
    """Targets of each five minutes of the last hour, oldest first."""
    spans = int(HOUR_S / SPAN_S)
    found: list[list[int]] = [[] for _ in range(spans)]
    for one in pool.targets:
        place = spans - 1 - int((now_s - one.at_s) / SPAN_S)
        if 0 <= place < spans:
            found[place].append(one.workers)
    return found


def read_memory(status: AutoscalerMemoryStatus | None, now_s: float) -> Memory:
    """The memory of the leader before, if it is at most an hour old and not of the future; else the empty one."""
    written_s = parse_time(status.time) if status is not None else None
    if status is None or written_s is None or not 0 <= now_s - written_s <= HOUR_S:
        return Memory()
    return Memory(_pool_memory(status.prefill, written_s), _pool_memory(status.decode, written_s))


def _pool_memory(status: PoolMemoryStatus, written_s: float) -> PoolMemory:
    count = len(status.needed)
    targets = tuple(
        Sized(written_s - SPAN_S * (count - 1 - place), workers) for place, workers in enumerate(status.needed)
    )
    errors: tuple[Error, ...] = ()
    if status.shortfall is not None:
        errors = (Error(written_s, status.shortfall, True),) * ENOUGH_ERRORS  # of both kinds, until more are known
    return replace(PoolMemory(targets=targets, level=status.level), forecasts=ForecastRecord(errors=errors))


def format_time(at_s: float) -> str:
    """Unix time as Kubernetes writes it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float | None:
    """Inverse; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None

"""What this region says to its peers: demand that it cannot reach, or else what it could take from them.

Both are about this region's *own* demand and reach. Help that it gives changes neither, nor does help that it gets:
else two regions would answer one another for ever.
"""

from dataclasses import dataclass

from tandem_core.performance import MS_PER_S
from tandem_core.region_demand import RegionDemand, RegionSupply
from tandem_operator.autoscale.decode import TPOT_MARGIN, Load
from tandem_operator.autoscale.limits import Bounded, within_budget
from tandem_operator.autoscale.memory import Sized
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.prefill import work_of
from tandem_operator.autoscale.settings import PoolLimits, Settings


@dataclass(frozen=True, slots=True)
class Own:
    """This region's own demand, and what both pools may be.

    Attributes:
        load: what is to be expected one start-up ahead.
        prefill_work: of it, in workers of this region kept busy.
        needs: workers for it, prefill and decode.
        reach: workers that there can be at most.
    """

    load: RegionDemand
    prefill_work: float
    needs: tuple[int, int]
    reach: tuple[int, int]


def own_demand(settings: Settings, seen: Observation, work: float, held: Load) -> RegionDemand:
    """This region's demand one start-up ahead: the mix of the last minutes, as much as is expected.

    Args:
        work: prefill work to expect, in workers kept busy.
        held: what decode workers are to hold.
    """
    recent = seen.demand.total(seen.now_s - settings.method.long_s, seen.now_s)
    recent_work = work_of(settings.performance, recent)
    per_s = work / recent_work if recent_work > 0 else 0.0
    return RegionDemand(
        requests_per_s=recent.arrivals * per_s,
        prefill_tokens_per_s=recent.new_tokens * per_s,
        prefill_square_tokens_per_s=recent.square_tokens * per_s,
        decode_sequences=held.sequences,
        decode_kv_tokens=held.kv_tokens,
    )


def reach_of(settings: Settings, limits: PoolLimits, pool: PoolState, ceiling: Sized | None) -> int:
    """Workers that a pool can have: within its maximum, where GPUs were found, and no others where others decide."""
    if settings.paused or not settings.acts:
        return min(pool.placed, limits.maximum)
    return limits.maximum if ceiling is None else min(ceiling.workers, limits.maximum)


def build_supply(settings: Settings, own: Own, *, is_drained: bool) -> RegionSupply:
    """Uncoverable demand or room, never both: a request needs prefill and decode, so the scarcer pool decides."""
    if is_drained:
        return RegionSupply(uncoverable=own.load)
    covers = _covers(settings, own)
    share = min([has / needs for has, needs in zip(covers, own.needs, strict=True) if needs > 0], default=1.0)
    if share < 1.0:
        return RegionSupply(uncoverable=own.load.scaled(1.0 - share))
    return RegionSupply(room=_room(settings, own, _spare(settings, own, covers)))


def _covers(settings: Settings, own: Own) -> tuple[int, int]:
    """Workers that the own demand can get."""
    prefill, decode = (Bounded(min(needs, most)) for needs, most in zip(own.needs, own.reach, strict=True))
    prefill, decode = within_budget(prefill, decode, settings)
    return prefill.workers, decode.workers


def _spare(settings: Settings, own: Own, covers: tuple[int, int]) -> tuple[float, float]:
    """Workers of each pool beyond that; what is left of a GPU budget is split as the own demand splits it."""
    prefill, decode = (float(most - used) for most, used in zip(own.reach, covers, strict=True))
    if settings.gpu_budget is None:
        return prefill, decode
    gpus = (covers[0] * settings.prefill.gpus, covers[1] * settings.decode.gpus)
    left = settings.gpu_budget - sum(gpus)
    part = gpus[0] / sum(gpus) if sum(gpus) else 0.5
    return (
        min(prefill, left * part // max(1, settings.prefill.gpus)),
        min(decode, left * (1.0 - part) // max(1, settings.decode.gpus)),
    )


def _room(settings: Settings, own: Own, spare: tuple[float, float]) -> RegionDemand:
    """Spare workers in tokens and sequences, less what is kept for growth."""
    model, method = settings.performance, settings.method
    tokens_per_s = MS_PER_S / model.p1_ms
    if own.prefill_work > 0:
        tokens_per_s = own.load.prefill_tokens_per_s / own.prefill_work
    # A batch that fills slots and KV may be too slow: then both count for less.
    busy_ms = model.d1_ms * settings.max_sequences + model.d2_ms * settings.kv_capacity_tokens
    room_ms = max(0.0, settings.objectives.tpot_s * TPOT_MARGIN * MS_PER_S - model.d0_ms)
    filled = min(1.0, room_ms / busy_ms) if busy_ms > 0 else 1.0
    decode = spare[1] * filled / method.decode_prior
    return RegionDemand(
        prefill_tokens_per_s=spare[0] * tokens_per_s / method.prefill_prior,
        decode_sequences=decode * settings.max_sequences,
        decode_kv_tokens=decode * settings.kv_capacity_tokens,
    )

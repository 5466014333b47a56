"""From what the pools need to what they may have. Whatever changes a number is named."""

from dataclasses import dataclass
from math import ceil, floor

from tandem_operator.autoscale.observation import PoolState
from tandem_operator.autoscale.settings import PoolLimits, Role, Settings


@dataclass(frozen=True, slots=True)
class Bounded:
    """A size, and the bound that set it last; `need` when none did."""

    workers: int
    bound: str = "need"

    def at_most(self, most: int, bound: str) -> "Bounded":
        """Not more than `most`."""
        return Bounded(most, bound) if self.workers > most else self

    def at_least(self, least: int, bound: str) -> "Bounded":
        """Not fewer than `least`."""
        return Bounded(least, bound) if self.workers < least else self


def within_pool(size: Bounded, limits: PoolLimits) -> Bounded:
    """Within min (one, while there is demand) and max."""
    return size.at_least(limits.awake, "schedule" if limits.scheduled else "min").at_most(limits.maximum, "max")


def within_step(size: Bounded, pool: PoolState, max_step: int | None) -> Bounded:
    """Not too far from what was last asked for."""
    if max_step is None:
        return size
    return size.at_most(pool.desired + max_step, "rate").at_least(pool.desired - max_step, "rate")


def within_free_gpus(size: Bounded, pool: PoolState, backoff_s: float) -> Bounded:
    """No more workers while those asked for find no GPU: the scheduler has said no."""
    if pool.pending_gpu_s < backoff_s:
        return size
    return size.at_most(max(pool.desired, 0), "noFreeGPUs")


def within_ratio(prefill: Bounded, decode: Bounded, settings: Settings) -> tuple[Bounded, Bounded]:
    """Prefill per decode worker within `autoscaling.ratio`, by raising the pool that is too small.

    Raised is safe for latency; what then costs too much is cut by the GPU budget. A pool at zero by policy stays.
    """
    ratio = settings.ratio
    if prefill.workers == 0 or decode.workers == 0:
        return prefill, decode
    raised_prefill = prefill.at_least(min(ceil(decode.workers * ratio.minimum), settings.prefill.maximum), "ratio.min")
    if ratio.maximum == float("inf"):
        return raised_prefill, decode
    least_decode = ceil(raised_prefill.workers / ratio.maximum) if ratio.maximum > 0 else decode.workers
    return raised_prefill, decode.at_least(min(least_decode, settings.decode.maximum), "ratio.max")


def within_budget(prefill: Bounded, decode: Bounded, settings: Settings) -> tuple[Bounded, Bounded]:
    """Both pools within `autoscaling.gpuBudget`, cut in proportion to what each wants above its minimum."""
    budget, shapes = settings.gpu_budget, (settings.prefill.gpus, settings.decode.gpus)
    if budget is None or prefill.workers * shapes[0] + decode.workers * shapes[1] <= budget:
        return prefill, decode
    least = (min(settings.prefill.awake, prefill.workers), min(settings.decode.awake, decode.workers))
    wanted = ((prefill.workers - least[0]) * shapes[0], (decode.workers - least[1]) * shapes[1])
    spare = max(0, budget - least[0] * shapes[0] - least[1] * shapes[1])
    share = spare / sum(wanted)
    cut = [low + floor(share * want / max(1, gpus)) for low, want, gpus in zip(least, wanted, shapes, strict=True)]
    cut = _spend_rest(cut, (prefill.workers, decode.workers), shapes, budget)
    return prefill.at_most(cut[0], "gpuBudget"), decode.at_most(cut[1], "gpuBudget")


def _spend_rest(cut: list[int], wanted: tuple[int, int], shapes: tuple[int, int], budget: int) -> list[int]:
    """Give what rounding left to the pool that is furthest below its want, while a whole worker fits."""
    grown = True
    while grown:
        grown = False
        for index in sorted((0, 1), key=lambda one: cut[one] / max(1, wanted[one])):
            used = cut[0] * shapes[0] + cut[1] * shapes[1]
            if cut[index] < wanted[index] and used + shapes[index] <= budget:
                cut[index] += 1
                grown = True
                break
    return cut


def keeps_ready_ratio(role: Role, workers: int, ready: dict[Role, int], settings: Settings) -> bool:
    """Whether shrinking a pool to `workers` leaves the *ready* workers within the ratio.

    A pool that waits for the other's starting workers must not shrink on their promise.
    """
    after = dict(ready)
    after[role] = min(ready[role], workers)
    if after["prefill"] == 0 or after["decode"] == 0:
        return True
    found = after["prefill"] / after["decode"]
    return settings.ratio.minimum <= found if role == "prefill" else found <= settings.ratio.maximum

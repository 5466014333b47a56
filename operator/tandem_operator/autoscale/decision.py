"""What the autoscaler says: sizes, and why. Made for status, Events and people."""

from dataclasses import dataclass
from typing import Any

from tandem_core.region_demand import NOTHING_TO_SAY, RegionSupply
from tandem_operator.autoscale.observation import Hold
from tandem_operator.autoscale.terms import Term


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """One pool.

    Attributes:
        workers: size to ask for.
        needed: size before hold and limits.
        bound: what set `workers`: need, hold, budget, min, max, ratio.min, ratio.max, gpuBudget, rate, noFreeGPUs,
            sourceMissing, residual, readyRatio, idle, paused, or held.
        terms: the numbers that `needed` is made of.
    """

    workers: int
    needed: int
    bound: str
    terms: tuple[Term, ...] = ()

    def explain(self, role: str, before: int) -> str:
        """One sentence."""
        change = f"{before} → {self.workers}" if before != self.workers else f"stays {self.workers}"
        numbers = ", ".join(str(term) for term in self.terms)
        return f"{role} {change}: needs {self.needed}, set by {self.bound}" + (f" ({numbers})" if numbers else "")


@dataclass(frozen=True, slots=True)
class Decision:
    """Both pools at one moment.

    Attributes:
        hold: why nothing could be decided; then both sizes are as they were, and `supply` says nothing.
        supply: this region's word to the others.
    """

    at_s: float
    prefill: PoolDecision
    decode: PoolDecision
    hold: Hold | None = None
    supply: RegionSupply = NOTHING_TO_SAY

    def to_status(self) -> dict[str, Any]:
        """JSON form for `status.lastDecision`."""
        status: dict[str, Any] = {"prefill": _to_status(self.prefill), "decode": _to_status(self.decode)}
        if self.hold is not None:
            status["hold"] = {"reason": self.hold.reason, "message": self.hold.message}
        return status


def _to_status(pool: PoolDecision) -> dict[str, Any]:
    terms = {term.name: float(f"{term.value:.4g}") for term in pool.terms}
    return {"workers": pool.workers, "needed": pool.needed, "bound": pool.bound, "terms": terms}

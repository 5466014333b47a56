"""How long a decode step really takes: TPOT of the requests that ended, beside what the workers held meanwhile.

Routers do not see steps. But a request's TPOT is the mean step of its life, and under a steady load all lives see the
same batch: what the fleet held, over its workers. A step is linear in both (tandem_core.performance), so their means
obey the model as well. A load that moves, or a pool, says nothing, and is passed over.
"""

from dataclasses import dataclass

from tandem_api.router import EndingRecord
from tandem_operator.autoscale.demand import DemandHistory

SPAN_S = 30.0
ENOUGH_ENDINGS = 20.0
STEADY = 0.2  # a load that changed by more from one span to the next moves
FEWEST_TOKENS = 8  # the TPOT of a shorter answer is a matter of single steps


@dataclass(frozen=True, slots=True)
class MeanStep:
    """What one worker held on average, and how long its steps took."""

    sequences: float
    kv_tokens: float
    step_s: float


@dataclass(frozen=True, slots=True)
class _Span:
    """One span: workers that were ready at its end, and what each held."""

    workers: int
    sequences: float
    kv_tokens: float

    def is_like(self, other: "_Span") -> bool:
        moved = abs(self.sequences - other.sequences)
        return self.workers == other.workers and moved <= STEADY * max(self.sequences, other.sequences)


class StepMeter:
    """Endings of the span that runs, and the span before it."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._before: _Span | None = None
        self._seconds = self._weight = 0.0

    def add(self, ended: EndingRecord) -> None:
        """One request that ended."""
        if ended.is_failed or ended.tpot_s is None or ended.completion_tokens < FEWEST_TOKENS:
            return
        self._seconds += ended.weight * ended.tpot_s
        self._weight += ended.weight

    def read(self, history: DemandHistory, workers: int, now_s: float) -> MeanStep | None:
        """The mean step of the span that ends now; None while one runs, or where nothing can be said."""
        began_s = self._began_s
        if began_s is not None and now_s - began_s < SPAN_S:
            return None
        seconds, weight, before = self._seconds, self._weight, self._before
        self._began_s, self._seconds, self._weight, self._before = now_s, 0.0, 0.0, None
        if began_s is None or workers < 1:
            return None
        held = history.total(began_s, now_s)
        worker_s = workers * (int(now_s) - int(began_s))
        span = self._before = _Span(workers, held.held_s / worker_s, held.held_kv_s / worker_s)
        if before is None or weight < ENOUGH_ENDINGS or not span.is_like(before):
            return None
        return MeanStep(span.sequences, span.kv_tokens, seconds / weight)

"""What routers tell of one fleet, made into the windows that decisions are made of. The wire model: tandem_api.router.

Taken whole or not at all: an answer with a number that cannot be leaves the windows as they were, and the fleet holds
until none was seen for a minute.
"""

from collections.abc import Iterable
from math import isfinite

from tandem_api.router import ArrivalRecord, DemandBin, DemandLevels, EndingRecord, FleetDemand
from tandem_core.performance import PerformanceModel
from tandem_core.refit import Refit
from tandem_operator.autoscale.demand import Arrival, BadDemandError, Bin, DemandHistory, Gauges
from tandem_operator.autoscale.judge import Judge, Verdict
from tandem_operator.autoscale.realised import Realised
from tandem_operator.autoscale.step_meter import StepMeter

DISTRUST_S = 60.0
ENOUGH_SAMPLES = 50  # before the residual of the refit means something


class Intake:
    """The demand of one fleet, summed over its routers.

    Attributes:
        refit: how fast the engine really is, by prefill legs that had a worker to themselves, and by TPOT under steady
            load; None: no model is known.
    """

    def __init__(self, shipped: PerformanceModel | None) -> None:
        self.history = DemandHistory()
        self.realised = Realised()
        self.refit = Refit(shipped) if shipped else None
        self._steps = StepMeter()
        self._levels: dict[str, DemandLevels] = {}
        self._bad: tuple[float, str] | None = None

    @property
    def residual(self) -> float:
        """Relative error of the performance model; zero while little is known."""
        if self.refit is None:
            return 0.0
        both = (self.refit.prefill, self.refit.decode)
        return max((one.residual for one in both if one.samples >= ENOUGH_SAMPLES), default=0.0)

    @property
    def model(self) -> PerformanceModel | None:
        """The performance model as it is believed now."""
        return self.refit.model() if self.refit else None

    def take(self, source: str, demand: FleetDemand, judge: Judge, now_s: float) -> None:
        """One router's answer for this fleet.

        Raises:
            BadDemandError: a number cannot be; nothing of the answer was taken.
        """
        try:
            bins, arrivals = self._read(demand, judge)
        except BadDemandError as error:
            self._bad = (now_s, f"router {source}: {error}")
            raise
        for one in bins:
            self.history.add_bin(one)
        self.history.add_arrivals(arrivals)
        for ended in demand.endings:
            self._learn(ended, judge.judge(ended))
        self._levels[source] = demand.levels

    def learn_decode(self, workers: int, now_s: float) -> None:
        """What the endings since the last time say of decode, on so many ready workers.

        Only where all that was asked for here is also served here: not where there are other regions.
        """
        seen = self._steps.read(self.history, workers, now_s)
        if seen is not None and self.refit is not None:
            self.refit = self.refit.with_decode(seen.sequences, seen.kv_tokens, seen.step_s)

    def silence(self, source: str) -> None:
        """A router has nothing to tell of this fleet: nothing waits there, nothing runs."""
        self._levels.pop(source, None)

    def forget_others(self, sources: Iterable[str]) -> None:
        """Levels of routers that are not among these are of the past."""
        kept = set(sources)
        self._levels = {source: levels for source, levels in self._levels.items() if source in kept}

    def is_silent(self) -> bool:
        """No window holds anything, and nothing waits or runs."""
        return not self._levels and self.history.is_empty and self._bad is None

    def fault(self, now_s: float) -> str | None:
        """What was wrong with an answer within the last minute."""
        if self._bad is None or now_s - self._bad[0] > DISTRUST_S:
            return None
        return self._bad[1]

    def trim(self, now_s: float) -> None:
        """Forget what no window reaches back to."""
        self.history.trim(now_s)
        self.realised.trim(now_s)

    def gauges(self) -> Gauges:
        """Levels of all routers together."""
        levels = list(self._levels.values())
        tokens = sum(one.queued_tokens for one in levels)
        queued = sum(one.queued for one in levels)
        return Gauges(
            queued_steps=max(float(queued), tokens / self.refit.shipped.step_tokens if self.refit else 0.0),
            queued_tokens=tokens,
            queued_square_tokens=sum(one.queued_square_tokens for one in levels),
            decode_sequences=float(sum(one.decode_sequences for one in levels)),
            decode_kv_tokens=sum(one.decode_kv_tokens for one in levels),
        )

    def _read(self, demand: FleetDemand, judge: Judge) -> tuple[list[Bin], list[Arrival]]:
        arrivals = [_arrival(record, judge) for record in demand.arrivals]
        bins = {one.second: _bin(one) for one in demand.bins}
        for record in arrivals:
            self._count_steps(bins, record)
        for ended in demand.endings:
            _check_ending(ended)
            second = int(ended.ended_s)
            if second in bins:
                _count_ending(bins[second], ended, judge.judge(ended))
        _check_levels(demand.levels)
        for one in bins.values():
            one.check()
        for record in arrivals:
            record.check()
        return list(bins.values()), arrivals

    def _count_steps(self, bins: dict[int, Bin], record: Arrival) -> None:
        """Engine steps follow from the lengths: a prompt longer than a step takes several."""
        one = bins.get(int(record.arrival_s)) if isfinite(record.arrival_s) else None
        if one is not None and self.refit is not None:
            one.steps += record.weight * (self.refit.shipped.prefill_steps(record.new_tokens) - 1)

    def _learn(self, ended: EndingRecord, verdict: Verdict) -> None:
        self.realised.add(ended, verdict)
        self._steps.add(ended)
        if self.refit is None or ended.prefill_s is None:
            return
        new, cached = max(0, ended.prompt_tokens - ended.cached_tokens), ended.cached_tokens
        steps = self.refit.shipped.prefill_steps(new)
        self.refit = self.refit.with_prefill(steps, new, new * (new + 2 * cached), ended.prefill_s)


def _arrival(record: ArrivalRecord, judge: Judge) -> Arrival:
    target_s = judge.ttft_target_s(record.ttft_target_s, record.new_tokens, record.cached_tokens)
    return Arrival(record.arrival_s, record.new_tokens, record.cached_tokens, target_s, record.weight)


def _bin(one: DemandBin) -> Bin:
    return Bin(
        second=one.second,
        arrivals=one.arrivals,
        steps=one.arrivals,
        new_tokens=one.new_tokens,
        square_tokens=one.square_tokens,
        prompt_tokens=one.prompt_tokens,
        finished=one.finished,
        held_s=one.held_s,
        held_kv_s=one.held_kv_s,
    )


def _count_ending(one: Bin, ended: EndingRecord, verdict: Verdict) -> None:
    """Sums that only the records hold; those are sampled, and stand for others by their weight."""
    tokens, weight = ended.prompt_tokens + ended.completion_tokens, ended.weight
    one.prefill_misses += weight * verdict.prefill_miss
    one.decode_misses += weight * verdict.decode_miss
    one.ended_prompt_tokens += weight * ended.prompt_tokens
    one.kv_token_s += weight * ended.decode_s * tokens
    one.kv_square_s += weight * ended.decode_s * tokens * tokens


def _check_ending(ended: EndingRecord) -> None:
    for name, value in zip(ended._fields, ended, strict=True):
        if value is not None and not (isfinite(value) and value >= 0):
            raise BadDemandError(f"demand record: {name} is {value}; give a finite number of zero or more")


def _check_levels(levels: DemandLevels) -> None:
    for name, value in levels:
        if not (isfinite(value) and value >= 0):
            raise BadDemandError(f"demand level {name} is {value}; give a finite number of zero or more")

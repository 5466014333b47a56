"""Latency of the last minutes as the clients of the routers saw it: percentiles, and the share that met its target."""

from collections import deque
from dataclasses import dataclass, field

from tandem_api.router import EndingRecord
from tandem_core.sketch import Sketch
from tandem_operator.autoscale.judge import Verdict

WINDOW_S = 300
_SLOT_S = 60


@dataclass(slots=True)
class _Slot:
    """One minute."""

    began_s: float
    requests: int = 0
    ttft_misses: int = 0
    tpot_misses: int = 0
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)


@dataclass(frozen=True, slots=True)
class Latency:
    """What came true. Percentiles are of the requests that have the number; NaN when none has."""

    requests: int
    ttft_attainment: float
    tpot_attainment: float
    ttft: Sketch
    tpot: Sketch


class Realised:
    """Endings of the last five minutes, by the minute."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()

    def add(self, ended: EndingRecord, verdict: Verdict) -> None:
        """Count one record, as many times as it stands for."""
        times = max(1, round(ended.weight))
        slot = self._slot_of(ended.ended_s)
        slot.requests += times
        slot.ttft_misses += times * verdict.ttft_miss
        slot.tpot_misses += times * verdict.tpot_miss
        if ended.ttft_s is not None:
            slot.ttft.add(ended.ttft_s, times)
        if ended.tpot_s is not None:
            slot.tpot.add(ended.tpot_s, times)

    def trim(self, now_s: float) -> None:
        """Forget what is older than the window."""
        while self._slots and self._slots[0].began_s + _SLOT_S <= now_s - WINDOW_S:
            self._slots.popleft()

    def latency(self) -> Latency:
        """All of the window together."""
        ttft, tpot = Sketch(), Sketch()
        for slot in self._slots:
            ttft.merge(slot.ttft)
            tpot.merge(slot.tpot)
        requests = sum(slot.requests for slot in self._slots)
        missed = (sum(slot.ttft_misses for slot in self._slots), sum(slot.tpot_misses for slot in self._slots))
        shares = [1.0 - count / requests if requests else float("nan") for count in missed]
        return Latency(requests, shares[0], shares[1], ttft, tpot)

    def _slot_of(self, at_s: float) -> _Slot:
        """The minute of a moment; what comes late from one router counts with the newest."""
        began_s = at_s - at_s % _SLOT_S
        if not self._slots or self._slots[-1].began_s < began_s:
            self._slots.append(_Slot(began_s))
        return self._slots[-1]

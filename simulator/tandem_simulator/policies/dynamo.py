"""NVIDIA Dynamo's planner, after its documents: a slow throughput loop, and a fast load loop of one worker at a time.

Throughput loop: requests, mean input and mean output length of the next interval are forecast (here by a local-level
Kalman filter each); workers = demand / throughput of one worker at its objective. Load loop: one more when every
worker is predicted over its objective, and none while one starts. The way down is the throughput loop's.
"""

from math import ceil
from typing import Any

from tandem_operator.autoscale.settings import Settings
from tandem_simulator.conditions import Sizes
from tandem_simulator.meters import ArrivalMeter, View
from tandem_simulator.policies.capacity import decode_capacity

LOAD_INTERVAL_S = 5.0
DECODE_FILL = 0.95


class LocalLevel:
    """Kalman filter of a level that walks randomly; process and observation noise are equal."""

    def __init__(self) -> None:
        self._level: float | None = None
        self._variance = 1.0

    def update(self, value: float) -> float:
        """Take in a value; returns the forecast of the next."""
        if self._level is None:
            self._level = value
        gain = (self._variance + 1.0) / (self._variance + 2.0)
        self._level += gain * (value - self._level)
        self._variance = (1.0 - gain) * (self._variance + 1.0)
        return self._level


class DynamoPolicy:
    """Both loops.

    Args:
        interval_s: of the throughput loop.
        utilization: of the throughput that a worker is planned for.
    """

    interval_s = LOAD_INTERVAL_S
    sees_staleness = False

    def __init__(
        self, settings: Settings, arrivals: ArrivalMeter, interval_s: float = 180.0, utilization: float = 0.7
    ) -> None:
        self.name = "dynamo" if interval_s == 180.0 and utilization == 0.7 else f"dynamo:{interval_s:g},{utilization:g}"
        self._settings, self._arrivals = settings, arrivals
        self._plan_s, self._utilization = interval_s, utilization
        self._rate, self._prompt, self._output = LocalLevel(), LocalLevel(), LocalLevel()
        self._planned_at_s: float | None = None

    def decide(self, view: View) -> Sizes:
        """The throughput loop when it is due, else the load loop."""
        if self._planned_at_s is None or view.now_s - self._planned_at_s >= self._plan_s:
            self._planned_at_s = view.now_s
            return self._bounded(self._by_throughput(view))
        return self._bounded(self._by_load(view))

    def explain(self) -> list[dict[str, Any]]:
        """Nothing to tell."""
        return []

    def _by_throughput(self, view: View) -> Sizes:
        seen = self._arrivals.between(max(0.0, view.now_s - self._plan_s), view.now_s)
        if seen.count == 0:
            return Sizes(view.prefill.desired, view.decode.desired)
        rate = self._rate.update(seen.rate_rps)
        prompt, output = self._prompt.update(seen.mean_prompt), self._output.update(seen.mean_output)
        new = prompt * seen.mean_new / seen.mean_prompt
        busy = rate * self._settings.performance.prefill_s(new)
        full = decode_capacity(self._settings, prompt, output).tokens_per_s
        return Sizes(ceil(busy / self._utilization), ceil(rate * output / (full * self._utilization)))

    def _by_load(self, view: View) -> Sizes:
        prefill, decode = view.prefill.desired, view.decode.desired
        objectives = self._settings.objectives
        if not view.prefill.starting:
            prefill += _step(view.predicted_ttft_s, objectives.ttft_s, view.prefill.ready)
        if not view.decode.starting:
            slowest = max(view.tpot_s / objectives.tpot_s, view.decode.usage / max(1, view.decode.ready))
            decode += _step(slowest, DECODE_FILL, view.decode.ready)
        return Sizes(prefill, decode)

    def _bounded(self, sizes: Sizes) -> Sizes:
        prefill, decode = self._settings.prefill, self._settings.decode
        return Sizes(
            min(max(sizes.prefill, prefill.awake), prefill.maximum),
            min(max(sizes.decode, decode.awake), decode.maximum),
        )


def _step(load: float, limit: float, workers: int) -> int:
    """One up when over the limit."""
    return 1 if load > limit and workers > 0 else 0

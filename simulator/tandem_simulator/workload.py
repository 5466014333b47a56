"""A trace made ready to run: what each request costs, and what it may take. One list per column, for speed."""

from dataclasses import dataclass

import numpy as np

from tandem_core.performance import PerformanceModel
from tandem_core.targets import Objectives
from tandem_simulator.traffic.model import Floats, Ints, Trace


@dataclass(frozen=True)
class Workload:
    """Columns of equal length, indexed by request.

    Attributes:
        cached: prompt tokens that a prefix hit saves.
        new: prompt tokens to compute.
        square: n² + 2 n h, attention work.
        isolated_s: prefill alone, as the router estimates it.
        target_s: TTFT target.
    """

    trace: Trace
    cached: Ints
    new: Ints
    square: Floats
    isolated_s: Floats
    target_s: Floats

    def __len__(self) -> int:
        return len(self.trace)

    def only(self, numbers: Ints) -> "Workload":
        """These requests alone, in order."""
        return Workload(
            self.trace.only(numbers),
            cached=self.cached[numbers],
            new=self.new[numbers],
            square=self.square[numbers],
            isolated_s=self.isolated_s[numbers],
            target_s=self.target_s[numbers],
        )


def build_workload(trace: Trace, cached: Ints, believed: PerformanceModel, objectives: Objectives) -> Workload:
    """Targets and estimates come from the believed model: the router knows no better."""
    new = trace.input_tokens - cached
    square = new.astype(np.float64) * (new + 2.0 * cached)
    steps = prefill_steps(new, believed.step_tokens)
    isolated_s = np.asarray(believed.p0_ms * steps + believed.p1_ms * new + believed.p2_ms * square) / 1000.0
    target_s = np.maximum(objectives.ttft_s, objectives.isolated_factor * isolated_s)
    return Workload(trace, cached, new, square, isolated_s, target_s)


def prefill_steps(new_tokens: Ints, step_tokens: int) -> Ints:
    """Engine steps per prompt alone."""
    return np.maximum(1, -(-new_tokens // step_tokens))

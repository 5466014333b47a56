"""Scores of a run: attainment, percentiles, cost."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tandem_simulator.simulation import Run
from tandem_simulator.traffic.model import Floats
from tandem_simulator.workload import Workload

PERCENTILES = (50, 90, 95, 99)
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run is judged by. Only requests that came at or after `unscored_s` are scored; all cost is counted.

    Attributes:
        attainment: share of scored requests that met both targets; failed and unfinished ones are misses.
        ttft_s, tpot_s: percentiles, mean and max of those that were answered.
        gpu_hours: from creation to deletion of each worker, within the trace's span.
        starts: workers created during the run.
    """

    policy: str
    requests: int
    scored_requests: int
    attainment: float
    ttft_attainment: float
    tpot_attainment: float
    failed: int
    unfinished: int
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    gpu_hours: float
    prefill_worker_hours: float
    decode_worker_hours: float
    starts: int
    starts_per_worker_hour: float
    span_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def score(
    policy: str, run: Run, workload: Workload, *, tpot_target_s: float, unscored_s: float, gpus: tuple[int, int]
) -> Outcome:
    """Judge a run. `gpus` are those of one prefill and of one decode worker."""
    arrival_s, outputs = workload.trace.arrival_s, workload.trace.output_tokens
    scored = arrival_s >= unscored_s if unscored_s < run.horizon_s else np.ones(len(arrival_s), dtype=bool)
    failed = np.array(run.journal.failed)
    first_s, last_s = np.array(run.journal.first_token_s), np.array(run.journal.last_token_s)
    done = ~np.isnan(last_s) & ~failed
    ttft_s = first_s - arrival_s
    tpot_s = (last_s - first_s) / np.maximum(outputs - 1, 1)
    met_ttft = done & (ttft_s <= workload.target_s)
    met_tpot = done & ((outputs <= 1) | (tpot_s <= tpot_target_s))
    hours = (run.prefill_worker_s / SECONDS_PER_HOUR, run.decode_worker_s / SECONDS_PER_HOUR)
    return Outcome(
        policy=policy,
        requests=len(workload),
        scored_requests=int(scored.sum()),
        attainment=_share(met_ttft & met_tpot, scored),
        ttft_attainment=_share(met_ttft, scored),
        tpot_attainment=_share(met_tpot, scored),
        failed=int(failed.sum()),
        unfinished=int((~done & ~failed).sum()),
        ttft_s=_percentiles(ttft_s[scored & done]),
        tpot_s=_percentiles(tpot_s[scored & done & (outputs > 1)]),
        gpu_hours=hours[0] * gpus[0] + hours[1] * gpus[1],
        prefill_worker_hours=hours[0],
        decode_worker_hours=hours[1],
        starts=run.starts,
        starts_per_worker_hour=run.starts / max(sum(hours), 1e-9),
        span_s=run.horizon_s,
    )


def _share(met: np.ndarray[Any, np.dtype[np.bool_]], scored: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    return float(met[scored].mean()) if scored.any() else float("nan")


def _percentiles(values: Floats) -> dict[str, float]:
    if len(values) == 0:
        return {}
    found = {f"p{share}": float(np.percentile(values, share)) for share in PERCENTILES}
    return {**found, "mean": float(values.mean()), "max": float(values.max())}

"""Scenarios in which other autoscalers are reported to fail. Sources: research on issues and results of each project.

No GPU is involved: engines are modelled (docs/autoscaling.md), the decision code is the one that ships.
"""

from math import pi, sin

import numpy as np
import pytest

from tandem_simulator.pool import Startup
from tandem_simulator.scenario import Scenario

from .worlds import arrivals, build_fleet, play, ttft_s

STARTUP_S = 120.0


@pytest.mark.parametrize(("peak_rps", "floor"), [(8.0, 0.95), pytest.param(24.0, 0.88, marks=pytest.mark.long)])
def test_dynamo_10528_slow_sinusoid(tmp_path, peak_rps, floor):
    """1 to 8 (or 24) rps over 15 minutes, 8,000 tokens in, 1,000 out, 8B: reported mean TTFT 160 s, goodput 9 %.

    Not yet the 99 % that it should be: the load leaves its valley faster than a worker starts, and only the second
    ascent is known from the first. The same engines under Dynamo's own policy do as badly as reported.
    """
    fleet = build_fleet(tmp_path, "8b-h100-tp1", ttft_s=3.0, tpot_s=0.035)
    middle, swing = (peak_rps + 1) / 2, (peak_rps - 1) / 2
    trace = arrivals(lambda at: middle - swing * sin(2 * pi * at / 900 + pi / 2), 2700, 8000, 1000)
    ours, _ = play(Scenario(fleet, trace), "tandem")
    theirs, _ = play(Scenario(fleet, trace), "dynamo")
    assert ours.attainment >= floor
    assert theirs.attainment < 0.3
    assert theirs.ttft_s["mean"] > 20 * ours.ttft_s["mean"]


BURSTS = (15, 2, 10, 15, 5, 2)


def test_llmd_bursty_loses_nothing_and_recovers_within_two_starts(tmp_path):
    """15-2-10-15-5-2 rps in steps of 150 s from one worker each: reported P99 TTFT 262 s and 6,100 errors.

    A cold step costs the queue of one start: physics. Then TTFT is short, also at the second burst.
    """
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    trace = arrivals(lambda at: BURSTS[int(at // 150)], 900, 1000, 1000)
    scenario = Scenario(fleet, trace, warm=False, startup=Startup(STARTUP_S))
    outcome, run = play(scenario, "tandem")
    waited = ttft_s(scenario, run)
    assert outcome.failed == outcome.unfinished == 0
    assert waited.max() <= STARTUP_S * 1.3 + 30
    later = scenario.trace.arrival_s > 2.2 * STARTUP_S
    assert np.percentile(waited[later], 99) <= 5.0


def test_llmd_prefill_heavy_step_grows_the_prefill_pool(tmp_path):
    """20 rps of 4,000 tokens at once: reported to never scale prefill, P99 254 to 557 s."""
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    trace = arrivals(lambda at: 20.0, 600, 4000, 1000)
    scenario = Scenario(fleet, trace, warm=False, startup=Startup(STARTUP_S))
    outcome, run = play(scenario, "tandem")
    waited = ttft_s(scenario, run)
    assert outcome.failed == outcome.unfinished == 0
    assert max(row[1] for row in run.sizes) >= 8
    later = scenario.trace.arrival_s > 2.2 * STARTUP_S
    assert np.percentile(waited[later], 99) <= 5.0


def test_an_hour_of_steady_load_makes_no_opposite_decisions_within_a_hold(tmp_path):
    """Poisson arrivals: no pool shrinks within one start-up after it grew."""
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    scenario = Scenario(fleet, arrivals(lambda at: 4.0, 3600, 1200, 200))
    outcome, run = play(scenario, "tandem")
    for column in (2, 4):
        grew_at_s = float("-inf")
        for before, after in zip(run.sizes, run.sizes[1:], strict=False):
            if after[column] > before[column]:
                grew_at_s = after[0]
            if after[column] < before[column]:
                assert after[0] - grew_at_s >= 0.8 * STARTUP_S  # measured starts vary by a tenth
    assert outcome.attainment >= 0.99
    assert outcome.starts_per_worker_hour <= 1.5


def test_a_ramp_from_two_to_ten_to_one_beats_the_published_figures(tmp_path):
    """2 → 10 → 1 rps: published are 95.8 % of the requests in time, with 5.93 of 8 replicas on average.

    The shape is theirs; prompts, engines and targets are ours.
    """
    fleet = build_fleet(tmp_path, "8b-a100-tp1", ttft_s=2.0, tpot_s=0.05, most=8, first=(1, 1))

    def rate_rps(at_s: float) -> float:
        return 2 + 8 * at_s / 900 if at_s < 900 else 10 if at_s < 1500 else max(1.0, 10 - 9 * (at_s - 1500) / 600)

    outcome, run = play(Scenario(fleet, arrivals(rate_rps, 2700, 4000, 200), startup=Startup(60.0)), "tandem")
    replicas = (outcome.prefill_worker_hours + outcome.decode_worker_hours) / (outcome.span_s / 3600)
    assert outcome.failed == outcome.unfinished == 0
    assert outcome.attainment >= 0.99
    assert replicas < 5.93
    assert run.sizes[-1][2] < max(row[2] for row in run.sizes)

"""What goes wrong must not cost more than a point of attainment, where physics allows it."""

from dataclasses import replace

import pytest

from tandem_simulator.faults import Faults
from tandem_simulator.pool import Startup
from tandem_simulator.scenario import Scenario
from tandem_simulator.traffic.model import Trace

from .worlds import arrivals, build_fleet, play

POINT = 0.01
SPAN_S = 2400.0


def wave(at_s: float) -> float:
    """Up and down by half within half an hour."""
    return 12.0 + 6.0 * ((at_s % 1800) / 900 if at_s % 1800 < 900 else 2 - (at_s % 1800) / 900)


def scenario(folder, **changes) -> Scenario:
    fleet = build_fleet(folder, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    return Scenario(fleet, arrivals(wave, SPAN_S, 1500, 250), **changes)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return play(scenario(tmp_path_factory.mktemp("healthy")), "tandem")[0]


def test_without_faults_the_objectives_are_met(healthy):
    """The measure of all below."""
    assert healthy.attainment >= 0.99


FAULTS = {
    "engine 20 % faster than believed": {"faults": Faults(prefill_error=1.2, decode_error=1.2)},
    "engine 17 % slower than believed": {"faults": Faults(prefill_error=0.83, decode_error=0.83)},
    "30 % of starts fail": {"startup": Startup(120.0, fail_share=0.3)},
    "a third of starts take 3 x as long": {"startup": Startup(120.0, slow_factor=3.0, slow_share=0.33)},
    "metrics stale for 60 s, three times": {"faults": Faults(blind_s=((600, 660), (1500, 1560), (2100, 2160)))},
}


@pytest.mark.parametrize("name", FAULTS)
def test_attainment_stays_within_a_point(tmp_path, healthy, name):
    """Also cost stays within a third."""
    outcome, _ = play(scenario(tmp_path, **FAULTS[name]), "tandem")
    assert outcome.failed == outcome.unfinished == 0
    assert outcome.attainment >= healthy.attainment - POINT
    assert outcome.gpu_hours <= 1.34 * healthy.gpu_hours


def test_a_flushed_prefix_cache_is_work_again_and_nothing_is_lost(tmp_path):
    """Half of each prompt was cached; at a flush all of it is new, for as long as it takes to come back."""
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    trace = with_common_prefixes(arrivals(lambda at: 10.0, 1500, 2048, 150))
    whole, _ = play(Scenario(fleet, trace), "tandem")
    flushed, _ = play(Scenario(fleet, trace, faults=Faults(flushes_s=(700.0, 1100.0))), "tandem")
    assert flushed.failed == flushed.unfinished == 0
    assert flushed.attainment >= whole.attainment - POINT


def with_common_prefixes(trace: Trace) -> Trace:
    """Each prompt begins with one of fifty documents of two blocks."""
    blocks = [
        [2 * (number % 50), 2 * (number % 50) + 1, *(1000 + 8 * number + part for part in range(tokens // 512 - 2))]
        for number, tokens in enumerate(trace.input_tokens.tolist())
    ]
    return replace(trace, blocks=blocks)


def test_a_dead_worker_of_each_role_costs_only_its_streams(tmp_path):
    """In pools of several: streams that had begun on the dead decode worker fail; nothing else is lost."""
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    trace = arrivals(lambda at: 40.0, 900, 1000, 600)
    kills = Faults(kills=((400.0, "prefill"), (600.0, "decode")))
    whole, _ = play(Scenario(fleet, trace), "tandem")
    outcome, _ = play(Scenario(fleet, trace, faults=kills), "tandem")
    assert outcome.unfinished == 0
    assert 0 < outcome.failed <= fleet.max_sequences
    assert outcome.attainment >= whole.attainment - POINT - outcome.failed / outcome.scored_requests


def test_a_burst_of_five_times_the_load_is_over_after_two_starts(tmp_path):
    """Half a minute at 5 x: nothing can start in time, nothing is lost, and the queue is gone soon after."""
    fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
    trace = arrivals(lambda at: 60.0 if 900 <= at < 930 else 12.0, 1800, 1500, 250)
    made = Scenario(fleet, trace)
    outcome, run = play(made, "tandem")
    late = [
        at_s
        for at_s, first_s in zip(made.trace.arrival_s.tolist(), run.journal.first_token_s, strict=True)
        if first_s - at_s > 2.0
    ]
    assert outcome.failed == outcome.unfinished == 0
    assert late
    assert max(late) < 930 + 2 * 120.0

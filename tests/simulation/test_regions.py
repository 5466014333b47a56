"""Several regions in the simulator, with the production choice of a region."""

import numpy as np
import pytest
from simulation.worlds import arrivals, build_fleet

from tandem_simulator.conditions import Conditions, Sizes
from tandem_simulator.pool import Startup
from tandem_simulator.regions.choosers import LeastLoaded, Nearest, RoundRobin, SkyWalker, Tandem
from tandem_simulator.regions.geography import build_geography, spread_over_days
from tandem_simulator.regions.world import World, WorldRun
from tandem_simulator.scenario import Scenario
from tandem_simulator.workload import build_workload

NAMES, RTTS_S = ("eu", "us", "ap"), (0.09, 0.2, 0.13)
EU_ONLY = {"eu": frozenset({"eu"})}


@pytest.fixture
def run(tmp_path):
    """Runs a chooser over one evening of three regions: eu has all the traffic."""

    def run(chooser, allowed=None, rate=10.0) -> WorldRun:
        trace = arrivals(lambda _: rate, 60.0, 2000, 100)
        fleet = build_fleet(tmp_path, "70b-h100-tp4", ttft_s=2.0, tpot_s=0.05)
        scenario = Scenario(fleet, trace, startup=Startup(60.0), warm=False)
        nothing = np.zeros(len(trace), dtype=np.int64)
        workload = build_workload(trace, nothing, scenario.believed, fleet.objectives)
        geography = build_geography(NAMES, Sizes(1, 3), RTTS_S, allowed)
        conditions = Conditions(scenario.engine(), Startup(60.0), Sizes(1, 3), 0.05)
        return World(workload, nothing, conditions, geography, None).run(chooser(geography))

    return run


@pytest.mark.parametrize("chooser", [Tandem, SkyWalker, LeastLoaded, RoundRobin, Nearest])
def test_every_request_is_served_once_and_residency_is_kept(run, chooser):
    seen = run(chooser, EU_ONLY, rate=4.0)
    assert not np.isnan(seen.ttft_s).any()
    assert set(seen.served.tolist()) == {0}


def test_a_region_in_its_evening_is_helped_by_the_others(run):
    alone, helped = run(Nearest), run(Tandem)
    assert np.percentile(helped.ttft_s, 90) < np.percentile(alone.ttft_s, 90) / 2
    assert len(set(helped.served.tolist())) == 3


def test_the_way_there_and_back_is_part_of_what_the_client_sees(run):
    seen = run(RoundRobin, rate=0.5)
    away = seen.ttft_s[seen.served == 2]
    home = seen.ttft_s[seen.served == 0]
    assert np.median(away) - np.median(home) == pytest.approx(0.2, abs=0.05)


def test_a_run_is_the_same_each_time(run):
    one, two = run(Tandem), run(Tandem)
    assert np.array_equal(one.served, two.served)
    assert np.array_equal(one.ttft_s, two.ttft_s)


def test_days_are_shifted_and_a_conversation_stays_at_home():
    trace = arrivals(lambda _: 20.0, 300.0, 100, 10)
    _, origins = spread_over_days(trace, 3, seed=1)
    thirds = [
        np.bincount(origins[(trace.arrival_s >= a) & (trace.arrival_s < a + 75)], minlength=3) for a in (37.5, 187.5)
    ]
    assert thirds[0].argmax() != thirds[1].argmax()

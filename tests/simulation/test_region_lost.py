"""A region loses its GPUs: the others serve its users, grow by what it lost, and shrink when it is back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tandem_simulator.conditions import Conditions
from tandem_simulator.pool import Startup
from tandem_simulator.regions.choosers import Tandem
from tandem_simulator.regions.geography import build_geography
from tandem_simulator.regions.scaling import Outage, RegionalScaling, Tick
from tandem_simulator.regions.world import World, WorldRun
from tandem_simulator.scenario import Scenario, warm_sizes
from tandem_simulator.workload import Workload, build_workload

from .worlds import arrivals, build_fleet

NAMES, RTTS_S = ("eu", "us", "ap"), (0.09, 0.2, 0.13)
STARTUP_S = 60.0
LOST_S, BACK_S = 240.0, 570.0
TTFT_S, TPOT_S = 2.0, 0.05
PROMPT, ANSWER = 4000, 600  # at 6 requests a second a region needs five workers for prefill, and two for decode


@dataclass
class Seen:
    """One run."""

    workload: Workload
    run: WorldRun
    ticks: dict[str, list[Tick]]
    hours: dict[str, float]

    def attainment(self, from_s: float, until_s: float) -> float:
        arrival_s = self.workload.trace.arrival_s
        part = (arrival_s >= from_s) & (arrival_s < until_s)
        met = (self.run.ttft_s <= self.workload.target_s) & (self.run.tpot_s <= TPOT_S)
        return float(met[part].mean())


def simulate(
    folder: Path, rate_rps: float, span_s: float, outages: Sequence[Outage], *, most: int = 60, helps: bool = True
) -> Seen:
    """Three equal regions of some requests a second each, with the production choice and autoscaler."""
    trace = arrivals(lambda _: rate_rps * len(NAMES), span_s, PROMPT, ANSWER)
    fleet = build_fleet(folder, "70b-h100-tp4", ttft_s=TTFT_S, tpot_s=TPOT_S, most=most)
    scenario = Scenario(fleet, trace, startup=Startup(STARTUP_S), warm=False)
    workload = build_workload(trace, np.zeros(len(trace), dtype=np.int64), scenario.believed, fleet.objectives)
    origins = np.random.default_rng(7).integers(0, len(NAMES), len(trace))
    first = warm_sizes(scenario.settings(), workload.only(np.flatnonzero(origins == 0)), 2 * STARTUP_S)
    conditions = Conditions(scenario.engine(), Startup(STARTUP_S), first, TPOT_S)
    geography = build_geography(NAMES, first, RTTS_S)
    world = World(workload, origins, conditions, geography, None)
    settings = dict.fromkeys(NAMES, scenario.settings())
    scaling = RegionalScaling(world, settings, STARTUP_S, outages, helps=helps)
    run = world.run(Tandem(geography))
    return Seen(workload, run, scaling.ticks, scaling.worker_hours())


@pytest.fixture(scope="module")
def lost(tmp_path_factory) -> Seen:
    """Europe has no GPUs for five and a half minutes."""
    return simulate(tmp_path_factory.mktemp("lost"), 6.0, BACK_S + 280.0, [Outage("eu", LOST_S, BACK_S)])


def during(seen: Seen, name: str, from_s: float, until_s: float) -> list[Tick]:
    return [one for one in seen.ticks[name] if from_s <= one.at_s < until_s]


def test_only_streams_that_had_begun_on_the_lost_gpus_fail(lost):
    arrival_s = lost.workload.trace.arrival_s
    failed = arrival_s[np.isnan(lost.run.ttft_s)]
    assert 0 < len(failed) <= 2 * 256
    assert LOST_S - 60 < failed.min() <= failed.max() < LOST_S


def test_everybody_is_served_in_time_once_the_others_have_grown(lost):
    grown_s = LOST_S + 60.0 + 1.5 * STARTUP_S  # GPUs are believed to be lost after a minute; then workers start
    assert lost.attainment(grown_s, BACK_S) >= 0.99
    assert lost.attainment(BACK_S, BACK_S + 280) >= 0.99  # no gap when the lost region takes over again


def test_what_is_taken_up_is_what_was_lost(lost):
    """The word is two digits, and lags a round."""
    for at, needy in enumerate(lost.ticks["eu"][1:], start=1):
        said = lost.ticks["eu"][at - 1].uncoverable_rps
        helped = sum(lost.ticks[name][at].helped_rps for name in ("us", "ap"))
        assert needy.helped_rps == 0.0
        if said and lost.ticks["eu"][max(0, at - 13)].uncoverable_rps:
            assert helped == pytest.approx(said, rel=0.25)
        if not any(one.uncoverable_rps for one in lost.ticks["eu"][max(0, at - 13) : at]):
            assert helped == 0.0


def test_the_others_grow_and_shrink_again_and_do_not_swing(lost):
    """No pool shrinks within one start-up time after it grew, and help is given back."""
    for name in ("us", "ap"):
        for role in ("prefill", "decode"):
            assert is_steady(lost.ticks[name], role)
        before, helping = during(lost, name, LOST_S - 60, LOST_S), during(lost, name, BACK_S - 60, BACK_S)
        assert mean_size(helping) > mean_size(before)
        assert mean_size(lost.ticks[name][-12:]) < mean_size(helping)
        assert lost.ticks[name][-1].helped_rps == 0.0


def mean_size(ticks: list[Tick]) -> float:
    return float(np.mean([one.prefill + one.decode for one in ticks]))


def is_steady(ticks: list[Tick], role: str) -> bool:
    grew_s = float("-inf")
    for before, after in pairwise(ticks):
        if getattr(after, role) > getattr(before, role):
            grew_s = after.at_s
        if getattr(after, role) < getattr(before, role) and after.at_s - grew_s < 0.8 * STARTUP_S:
            return False
    return True


@pytest.mark.long
def test_without_words_between_regions_the_others_would_drown(tmp_path):
    """The same choice of regions, and no help: nobody grows for demand that is counted elsewhere."""
    outage = [Outage("eu", LOST_S, LOST_S + 900)]
    helped = simulate(tmp_path, 12.0, LOST_S + 900, outage)
    alone = simulate(tmp_path, 12.0, LOST_S + 900, outage, helps=False)
    from_s, until_s = LOST_S + 60 + 1.5 * STARTUP_S, LOST_S + 900
    assert helped.attainment(from_s, until_s) >= 0.99
    assert alone.attainment(from_s, until_s) < 0.9


@pytest.mark.long
def test_room_that_does_not_suffice_is_filled_and_not_more(tmp_path):
    """Bounds hold while a region is lost, and the fleet does what it can."""
    seen = simulate(tmp_path, 10.0, LOST_S + 600, [Outage("eu", LOST_S, LOST_S + 600)], most=6)
    for name in ("us", "ap"):
        assert max(one.prefill for one in seen.ticks[name]) <= 6
        assert max(one.prefill for one in during(seen, name, LOST_S + 200, LOST_S + 600)) == 6

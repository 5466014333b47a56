"""Several regions that decide, tell and listen in turn: demand is conserved all the way, and none answers another."""

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.autoscale.test_decisions import OBJECTIVES, PROFILE, finished_bin

from tandem_api.router import RegionFleetWord, RegionWord
from tandem_api.v1alpha1 import RegionDemandStatus, RegionLoad
from tandem_core.targets import ttft_target_s
from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.decision import Decision
from tandem_operator.autoscale.demand import Arrival, Bin, DemandHistory, Gauges
from tandem_operator.autoscale.memory import Memory
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.region_words import RegionWords
from tandem_operator.autoscale.report import build_region_status
from tandem_operator.autoscale.settings import PoolLimits, Settings

FLEET = "team/llama"
START_S = 5_000
ROUND_S = 5


@dataclass
class Region:
    """One region under a steady load: what comes, what it may have, and where it stands."""

    name: str
    rate_rps: int
    settings: Settings
    price: float
    gpus_lost: bool = False
    history: DemandHistory = field(default_factory=DemandHistory)
    memory: Memory = field(default_factory=Memory)
    words: RegionWords = field(default_factory=RegionWords)
    said: RegionDemandStatus | None = None
    sizes: tuple[int, int] = (1, 1)
    decision: Decision | None = None

    def live(self, from_s: int, until_s: int) -> None:
        """Prompts of 2,000 tokens that stay five seconds."""
        for second in range(from_s, until_s):
            self.history.add_bin(Bin(second))
            for number in range(self.rate_rps):
                target_s = ttft_target_s(OBJECTIVES, PROFILE.performance.prefill_s(2000))
                self.history.add_arrivals([Arrival(second + number / self.rate_rps, 2000, 0, target_s)])
                self.history.add_bin(finished_bin(second, 2000))

    def decide(self, now_s: int) -> None:
        """With the words that it has heard."""
        held = Gauges(decode_sequences=5 * self.rate_rps, decode_kv_tokens=10_000 * self.rate_rps)
        regions = self.words.meant_for(self.name, FLEET, self.said)
        pools = [self._pool(size) for size in self.sizes]
        seen = Observation(now_s, self.history, held, now_s, 1, 1, *pools, regions=regions)
        self.decision, self.memory = decide(self.settings, seen, self.memory)
        self.sizes = (self.decision.prefill.workers, self.decision.decode.workers)

    def _pool(self, size: int) -> PoolState:
        return PoolState(size, 0, 90.0, pending_gpu=size) if self.gpus_lost else PoolState(size, size)

    @property
    def helped(self) -> RegionLoad:
        return self.words.meant_for(self.name, FLEET, self.said).helped


def tell(regions: list[Region], now_s: int) -> None:
    """Every region says what it decided, on the wire, and hears all the others."""
    for one in regions:
        assert one.decision is not None
        one.said = RegionDemandStatus.model_validate(build_region_status(one.decision.supply).to_wire())
    told = {
        one.name: RegionWord(price_weight=one.price, fresh=True, fleets={FLEET: RegionFleetWord.model_validate(said)})
        for one in regions
        for said in ([one.said.to_wire()] if one.said else [])
    }
    for one in regions:
        one.words.take(told, now_s)


@st.composite
def worlds(draw):
    """Two to four regions of any load, bounds and price."""
    made = []
    for name in ("eu", "us", "ap", "sa")[: draw(st.integers(2, 4))]:
        limits = [PoolLimits(4, 1, draw(st.integers(1, 12))) for _ in range(2)]
        budget = draw(st.none() | st.integers(8, 60))
        fleet = Settings(
            OBJECTIVES, PROFILE.performance, *limits, PROFILE.kv_capacity_tokens, draw(st.sampled_from([8, 256])),
            gpu_budget=budget,
        )  # fmt: skip
        rate = draw(st.integers(0, 12))
        made.append(Region(name, rate, fleet, draw(st.sampled_from([1.0, 2.0])), draw(st.booleans())))
    return made


@settings(max_examples=12, deadline=None)
@given(worlds())
def test_demand_is_conserved_from_word_to_decision(world):
    """What helpers take up and what nobody can cover is what was uncoverable, for every region's own arithmetic."""
    now_s = START_S
    for one in world:
        one.live(now_s - 60, now_s)
    for _ in range(3):
        for one in world:
            one.decide(now_s)
        tell(world, now_s)
        wanted = sum(one.said.uncoverable.prefill_tokens_per_second for one in world if one.said.uncoverable)
        taken = sum(one.helped.prefill_tokens_per_s for one in world)
        left = sum((one.said.room.prefill_tokens_per_second for one in world if one.said.room), 0.0)
        assert taken <= wanted * (1 + 1e-9)
        assert taken <= left * (1 + 1e-9)
        for one in world:
            assert not (one.helped and one.said.uncoverable)
            assert not (one.gpus_lost and one.rate_rps and one.said.room)
        now_s += ROUND_S
        for one in world:
            one.live(now_s - ROUND_S, now_s)


@settings(max_examples=5, deadline=None)
@given(worlds(), st.integers(0, 99))
def test_words_do_not_answer_one_another(world, seed):
    """Under a steady load what is uncoverable, and what room there is, does not depend on who helps whom."""
    order = random.Random(seed)
    alone = [replace(one, history=one.history, memory=Memory(), words=RegionWords()) for one in world]
    now_s = START_S
    for one in world:
        one.live(now_s - 60, now_s)
    for _ in range(4):
        for one in order.sample(world, len(world)):
            one.decide(now_s)
        for one in alone:
            one.decide(now_s)
        tell(world, now_s)
        for one, other in zip(world, alone, strict=True):
            if not one.gpus_lost:
                assert build_region_status(other.decision.supply) == one.said


def test_a_lost_region_is_helped_by_what_it_lost_and_by_no_more():
    """Three equal regions; one has no GPUs. The others grow by half of its need each, and no more."""
    fleet = Settings(OBJECTIVES, PROFILE.performance, PoolLimits(4, 1, 40), PoolLimits(4, 1, 40), 449_000, 256)
    world = [Region(name, 10, fleet, 1.0, name == "eu") for name in ("eu", "us", "ap")]
    now_s = START_S
    for one in world:
        one.live(now_s - 60, now_s)
    for _ in range(2):
        for one in world:
            one.decide(now_s)
        tell(world, now_s)
    lost, *others = world
    for one in others:
        assert one.helped.requests_per_s == pytest.approx(lost.said.uncoverable.requests_per_second / 2)
        assert lost.decision.prefill.needed < one.decision.prefill.needed <= 2 * lost.decision.prefill.needed

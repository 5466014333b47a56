"""The loop: what routers tell becomes sizes, and what cannot be believed changes none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from unit.operator.demand_routers import (
    SCALED,
    START,
    DemandRouter,
    address_of,
    make_stage,
    put_fleet,
    put_pool,
    put_router,
)
from unit.operator.fleets import make_spec

from tandem_api import labels
from tandem_api.router import DemandAnswer, RegionFleetWord, RegionWord
from tandem_api.v1alpha1 import RegionLoad
from tandem_operator import router_client
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, POD
from tandem_operator.model import Home
from tandem_operator.validate import find_problem


async def test_a_fleet_grows_with_what_arrives_and_says_why() -> None:
    stage = make_stage()
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=6), b=DemandRouter(stage.clock, rate_rps=2)):
        await stage.rounds()
    prefill, decode = stage.sizes()
    assert prefill >= 4  # 8 prompts a second of 5,000 tokens keep 3.7 workers busy
    assert decode >= 1
    assert stage.decision.inputs["arrivalsPerSecond"] == pytest.approx(8)
    assert (stage.decision.inputs["routersExpected"], stage.decision.inputs["routersHeard"]) == (2, 2)
    assert stage.decision.acted
    assert stage.changed
    assert stage.cluster.scaled[0] == ("llama-prefill", prefill)
    assert stage.cluster.events[0]["reason"] == "ScaledUp"
    assert stage.cluster.events[0]["message"].startswith(f"prefill 2 → {prefill}: needs")
    assert b"tandem_operator_decision_workers" in stage.metrics.render()


async def test_each_second_is_read_once_however_often_routers_are_asked() -> None:
    stage = make_stage()
    router = DemandRouter(stage.clock, rate_rps=4)
    async with stage.routers(a=router):
        await stage.rounds(20)
    assert stage.decision.inputs["arrivalsPerSecond"] == pytest.approx(4)
    assert router.asked == sorted(router.asked)
    assert router.asked[0] == START + 5 - 900  # as far as a window reaches back


async def test_a_router_that_repeats_itself_is_not_counted_twice(caplog: pytest.LogCaptureFixture) -> None:
    stage = make_stage()
    router = DemandRouter(stage.clock, rate_rps=4)
    async with stage.routers(a=router):
        await stage.rounds(14)
        router.repeats = True
        await stage.rounds(2)
    assert stage.decision.inputs["arrivalsPerSecond"] <= 4
    assert "repeats second" in caplog.text


async def test_a_router_that_starts_again_goes_on_from_its_start() -> None:
    stage = make_stage()
    router = DemandRouter(stage.clock, rate_rps=4)
    async with stage.routers(a=router):
        await stage.rounds(3)
        router.epoch, router.started_s = "second", int(stage.clock.now_s) + 2
        await stage.rounds(12)
    assert stage.decision.hold is None
    assert 3.5 <= stage.decision.inputs["arrivalsPerSecond"] <= 4


async def test_routers_that_fall_silent_hold_the_sizes() -> None:
    stage = make_stage(sizes=(9, 9))
    router = DemandRouter(stage.clock, rate_rps=1)
    async with stage.routers(a=router):
        await stage.rounds()
        assert stage.decision.hold is None
        router.is_down = True
        await stage.rounds(10)
    assert stage.decision.hold.reason in ("NoData", "StaleData")
    assert stage.sizes() == (9, 9)


async def test_without_any_router_nothing_is_decided() -> None:
    stage = make_stage()
    async with stage.routers():
        await stage.rounds(2)
    assert stage.decision.hold.reason == "NoData"
    assert stage.cluster.scaled == []


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long; only one test is about time."""
    monkeypatch.setattr(router_client, "TIMEOUT", aiohttp.ClientTimeout(total=60))


@asynccontextmanager
async def hanging_listener(address: str) -> AsyncIterator[None]:
    """Takes connections, and never says a word."""
    server = await asyncio.start_server(lambda reader, writer: None, address, labels.ROUTER_INTERNAL_PORT)
    async with server:
        yield


async def test_a_router_that_does_not_answer_stops_shrinking_and_nothing_else() -> None:
    stage = make_stage(sizes=(9, 9))
    busy = DemandRouter(stage.clock, rate_rps=1)
    async with stage.routers(b=busy):
        await stage.rounds()
        put_router(stage.store, "c", address_of("c"))  # nobody listens there
        await stage.rounds(4, every_s=60.0)
        assert stage.decision.prefill.bound == "sourceMissing"
        assert stage.sizes() == (9, 9)
        busy.rate_rps = 40
        await stage.rounds(2, every_s=60.0)
        assert stage.sizes()[0] > 9


async def test_a_scrape_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_client, "TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    stage = make_stage(sizes=(9, 9))
    async with stage.routers(), hanging_listener(address_of("c")):
        put_router(stage.store, "c", address_of("c"))
        await stage.rounds()
    assert stage.decision.hold.reason == "NoData"
    assert stage.sizes() == (9, 9)


@pytest.mark.parametrize("bad", ["NaN", "-5", "Infinity", "1e999"])
async def test_a_number_that_cannot_be_holds_the_fleet_and_names_the_router(bad: str) -> None:
    stage = make_stage(sizes=(5, 5))
    router = DemandRouter(stage.clock, rate_rps=7)
    async with stage.routers(a=router):
        await stage.rounds()
        router.change = lambda answer: answer.model_dump_json().replace('"new_tokens":35000.0', f'"new_tokens":{bad}')
        before = stage.sizes()
        await stage.rounds(2)
        assert stage.decision.hold.reason == "BadData"
        assert "router a" in stage.decision.hold.message
        assert "new_tokens" in stage.decision.hold.message
        assert stage.sizes() == before
        router.change = None
        await stage.rounds(14)
        assert stage.decision.hold is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"replica": 1}', "\x00" * 1000])
async def test_an_answer_that_makes_no_sense_is_no_answer(text: str) -> None:
    stage = make_stage(sizes=(9, 9))
    router = DemandRouter(stage.clock, rate_rps=1, change=lambda answer: text)
    async with stage.routers(a=router):
        await stage.rounds(2)
    assert stage.decision.hold.reason == "NoData"
    assert stage.sizes() == (9, 9)


async def test_a_page_that_would_never_end_ends() -> None:
    """A router whose cursor does not move is asked a few times a round, not for ever."""
    stage = make_stage()

    def stand_still(answer: DemandAnswer) -> str:
        return answer.model_copy(update={"cursor": answer.covers_from, "fleets": ()}).model_dump_json()

    router = DemandRouter(stage.clock, change=stand_still)
    async with stage.routers(a=router):
        await stage.rounds()
    assert 0 < len(router.asked) <= 10


async def test_pods_that_wait_for_a_gpu_are_not_multiplied() -> None:
    stage = make_stage(sizes=(2, 2))
    waiting = {
        "metadata": {
            "name": "p",
            "namespace": "team",
            "uid": "p",
            "resourceVersion": "9999999",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {labels.FLEET: "llama", labels.POOL: "prefill"},
        },
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "1 Insufficient nvidia.com/gpu."}]
        },
    }
    stage.store.upsert(POD, waiting)
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=10)):
        await stage.rounds()
    assert stage.decision.prefill.bound == "noFreeGPUs"
    assert stage.decision.prefill.needed > 2
    assert stage.sizes()[0] == 2


async def test_the_measured_start_is_the_horizon() -> None:
    status = {
        "startup": [{"role": "prefill", "templateRevision": "a", "seconds": 33, "slowestSeconds": 40, "workers": 2}]
    }
    stage = make_stage(status=status)
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=4)):
        await stage.rounds()
    assert stage.decision.inputs["prefillStartupSeconds"] == 33
    assert stage.decision.inputs["decodeStartupSeconds"] == 120  # none has started yet


async def test_advisory_decides_and_writes_nothing() -> None:
    stage = make_stage(autoscaling={"mode": "Fixed", "advisory": True})
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=8)):
        await stage.rounds()
    assert stage.decision.prefill.workers > 2
    assert not stage.decision.acted
    assert stage.cluster.scaled == []


async def test_paused_keeps_the_sizes_and_shows_the_need() -> None:
    stage = make_stage(autoscaling={"mode": "Objectives", "paused": True})
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=8)):
        await stage.rounds()
    assert (stage.decision.prefill.bound, stage.sizes()) == ("paused", (2, 2))
    assert stage.decision.prefill.needed > 2


async def test_a_fleet_sleeps_when_nobody_asks_and_wakes_at_the_first_request() -> None:
    stage = make_stage(autoscaling={"mode": "Objectives", "scaleToZeroAfterSeconds": 120})
    router = DemandRouter(stage.clock, rate_rps=2, silent_from_s=START + 5)
    async with stage.routers(a=router):
        await stage.rounds(2)
        assert min(stage.sizes()) >= 1
        await stage.rounds(30)
        assert stage.sizes() == (0, 0)
        assert stage.decision.prefill.bound == "idle"
        router.silent_from_s = None  # routers hold the requests of a fleet at zero
        await stage.rounds(1)
        assert min(stage.sizes()) >= 1


async def test_who_listens_late_knows_less() -> None:
    """What routers told before is not known to a fleet that comes later, and not knowing is no silence."""
    stage = make_stage()
    async with stage.routers(a=DemandRouter(stage.clock)):
        assert stage.reader.covers_from(START) is None
        await stage.rounds(10)
    assert stage.reader.covers_from(START) == START - 120
    assert stage.reader.covers_from(START + 30.5) == START + 31


async def test_what_a_router_held_goes_with_it() -> None:
    """Else the requests of a router that was replaced would run for ever."""
    stage = make_stage()
    router, other = DemandRouter(stage.clock, rate_rps=8), DemandRouter(stage.clock)
    async with stage.routers(a=router, b=other):
        await stage.rounds(2)
        assert stage.decision.inputs["decodeSequences"] == 32
        router.is_down = True
        await stage.rounds(6)
        put_fleet(stage.store, generation=2, autoscaling={"mode": "Objectives", "paused": True})  # says so anew
        await stage.rounds(1)
    assert stage.decision.inputs["decodeSequences"] == 0


async def test_a_change_of_mode_starts_from_the_sizes_that_are() -> None:
    """Nothing is known of the load yet: what others decided stays for a start-up time."""
    stage = make_stage(sizes=(7, 5), autoscaling={"mode": "External"})
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=1)):
        await stage.rounds(2)
        put_fleet(stage.store, generation=2)
        await stage.rounds(3)
        assert stage.sizes() == (7, 5)
        assert stage.decision.prefill.bound == "hold"
        await stage.rounds(40)
        assert stage.sizes()[0] < 7
        put_fleet(stage.store, generation=3, autoscaling={"mode": "External"})
        left = stage.sizes()
        put_pool(stage.store, "decode", 9)
        await stage.rounds(3)
        assert stage.sizes() == (left[0], 9)
        assert stage.autoscaler.said("uid-fleet").decision is None  # type: ignore[union-attr]


async def test_a_new_leader_reads_again_what_the_last_one_knew() -> None:
    stage = make_stage()
    router = DemandRouter(stage.clock, rate_rps=8)
    async with stage.routers(a=router):
        await stage.rounds(30)
        before, said = stage.sizes(), stage.autoscaler.said("uid-fleet")
        assert said is not None
        assert said.memory is not None
        assert said.decision is not None
        status = {"autoscalerMemory": said.memory.to_wire(), "lastDecision": said.decision.to_wire()}
        put_fleet(stage.store, status=status)
        stage.new_leader()
        changes, stage.changed[:] = len(stage.cluster.scaled), []
        await stage.rounds(5)
        assert stage.sizes() == before
        assert len(stage.cluster.scaled) == changes
        assert stage.changed == []  # no write at a change of leader
        assert stage.decision.hold is None


async def test_a_clock_that_was_set_back_is_believed_after_a_while() -> None:
    stage = make_stage()
    router = DemandRouter(stage.clock, rate_rps=4)
    async with stage.routers(a=router):
        await stage.rounds(3)
        stage.clock.now_s -= 3000
        router.epoch = "second"
        await stage.rounds(2)
        assert stage.decision.hold.reason == "ClockWentBack"
        await stage.rounds(40)
        assert stage.decision.hold is None


async def test_at_rest_nothing_is_said_and_nothing_is_written() -> None:
    stage = make_stage(sizes=(1, 1))
    async with stage.routers(a=DemandRouter(stage.clock)):
        await stage.rounds(100, every_s=60.0)  # longer than anything is remembered
        stage.changed[:] = []
        await stage.rounds(50, every_s=60.0)
    assert stage.changed == []
    assert stage.cluster.scaled == []


async def test_a_fleet_that_nobody_asks_is_decided_on_once_a_minute_and_wakes_at_once() -> None:
    stage = make_stage(sizes=(1, 1))
    router = DemandRouter(stage.clock)
    async with stage.routers(a=router):
        await stage.rounds(60, every_s=60.0)
        before = stage.decisions
        await stage.rounds(24)
        assert stage.decisions - before <= 3 * 2  # two roles
        before, router.rate_rps = stage.decisions, 8
        await stage.rounds(2)
        assert stage.decisions - before == 2 * 2


async def test_a_fleet_that_is_gone_leaves_nothing() -> None:
    stage = make_stage()
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=5)):
        await stage.rounds()
        obj = stage.store.get(INFERENCE_DEPLOYMENT, "team", "llama")
        assert obj is not None
        stage.store.remove(INFERENCE_DEPLOYMENT, obj)
        await stage.rounds()
    assert stage.autoscaler.said("uid-fleet") is None
    assert b'fleet="team/llama"' not in stage.metrics.render()


async def test_a_fleet_without_objectives_is_left_alone() -> None:
    stage = make_stage(objectives=None, autoscaling={})
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=5)):
        await stage.rounds()
    assert stage.autoscaler.said("uid-fleet") is None


async def test_objectives_are_measured_in_every_mode() -> None:
    stage = make_stage(autoscaling={"mode": "Fixed"})
    async with stage.routers(a=DemandRouter(stage.clock, rate_rps=5, ttft_s=3.0)):
        await stage.rounds(15)
    said = stage.autoscaler.said("uid-fleet")
    assert said is not None
    assert said.objectives is not None
    assert said.objectives.ttft is not None
    assert said.objectives.ttft.attainment == 0.0
    assert said.objectives.ttft.seconds == pytest.approx(3.0, rel=0.02)
    assert said.decision is None


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"autoscaling": {"mode": "Objectives", "gpuBudget": 2}}, "spec.autoscaling", "gpuBudget is 2, but min needs"),
        ({"engine": {"performanceProfile": "9b-x"}}, "spec.engine.performanceProfile", "use one of"),
        (
            {
                "autoscaling": {
                    "mode": "Objectives",
                    "schedules": [{"start": "08:00", "end": "09:00", "timeZone": "Mars/Olympus"}],
                }
            },
            "spec.autoscaling.schedules",
            "Mars/Olympus",
        ),
    ],
)
def test_settings_that_cannot_be_are_a_problem_of_the_spec(change: dict[str, Any], field: str, text: str) -> None:
    problem = find_problem(make_spec(**{**SCALED, **change}))
    assert problem is not None
    assert problem.field == field
    assert text in problem.text


NEED = RegionLoad(
    requests_per_second=8, prefill_tokens_per_second=40_000, decode_sequences=2000, decode_kv_tokens=1_000_000
)


def telling(**regions: RegionWord) -> Any:
    """What a router adds to its answers."""
    return lambda answer: answer.model_copy(update={"regions": regions}).model_dump_json(by_alias=True)


def needy(*, fresh: bool = True) -> RegionWord:
    return RegionWord(fresh=fresh, fleets={"team/llama": RegionFleetWord(uncoverable=NEED)})


async def test_a_region_grows_for_a_peer_that_cannot_and_shrinks_when_its_word_is_old() -> None:
    stage = make_stage()
    stage.home = Home("home", "us")
    router = DemandRouter(stage.clock, rate_rps=1, change=telling(eu=needy(), us=RegionWord(fresh=True)))
    async with stage.routers(a=router):
        await stage.rounds(2)
        assert stage.word.room is not None  # told at once, so that peers can count on it
        prefill, decode = stage.sizes()
        assert prefill >= 4
        assert decode >= 8  # 2,000 sequences at 256 a worker
        router.change = telling(eu=needy(fresh=False), us=RegionWord(fresh=True))
        await stage.rounds(10)
        assert stage.sizes()[1] >= decode  # held for a minute, and then for one start-up time
        await stage.rounds(60)
    assert stage.sizes()[1] < decode


async def test_what_bounds_cut_off_is_told_at_once_and_only_where_there_are_regions() -> None:
    for region, is_told in (("us", True), ("", False)):
        stage = make_stage()
        stage.home = Home("home", region)
        put_fleet(stage.store, prefill={"max": 1, "parallelism": {"tensor": 4}})
        async with stage.routers(a=DemandRouter(stage.clock, rate_rps=8)):
            await stage.rounds()
        assert b'uncoverable_requests_per_second{fleet="team/llama"}' in stage.metrics.render()
        if is_told:
            assert stage.word.uncoverable.prefill_tokens_per_second > 20_000
        else:
            assert stage.word is None


async def test_a_need_that_comes_and_goes_at_a_bound_is_told_when_it_comes_and_once_a_minute() -> None:
    stage = make_stage()
    stage.home = Home("home", "us")
    put_fleet(stage.store, prefill={"max": 1, "parallelism": {"tensor": 4}})
    router = DemandRouter(stage.clock, rate_rps=8)
    async with stage.routers(a=router):
        await stage.rounds()
        assert stage.word.uncoverable is not None
        put_fleet(stage.store, generation=2, prefill={"max": 40, "parallelism": {"tensor": 4}})
        stage.changed.clear()
        await stage.rounds(2)
        assert stage.word.uncoverable is not None
        await stage.rounds(12)
    assert stage.word.uncoverable is None
    assert len(stage.changed) <= 4

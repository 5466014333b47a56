"""What a region says to its peers, and what it makes of their words."""

from dataclasses import replace

import pytest

from tandem_api.router import DemandAnswer, RegionFleetWord, RegionWord
from tandem_api.v1alpha1 import RegionDemandStatus, RegionLoad
from tandem_core.region_demand import NOTHING, RegionDemand
from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.demand import DemandHistory, Gauges
from tandem_operator.autoscale.memory import Memory
from tandem_operator.autoscale.observation import FromRegions, PoolState
from tandem_operator.autoscale.region_words import KEPT_S, RegionWords
from tandem_operator.autoscale.settings import PoolLimits

from .fleets import NOW, SETTINGS, seen, steady

LONG_RUNNING = Memory(last_decided_s=NOW - 10)
HELD = Gauges(decode_sequences=160, decode_kv_tokens=160_000)
SOME = RegionDemand(10.0, 10_000.0, 1e7, 80.0, 80_000.0)
FLEET = "team/llama"
NEED = RegionLoad(
    requests_per_second=10, prefill_tokens_per_second=10_000, decode_sequences=80, decode_kv_tokens=80_000
)
ROOM = RegionLoad(prefill_tokens_per_second=1e6, decode_sequences=1e4, decode_kv_tokens=1e7)


def decided(observation, settings=SETTINGS, memory=LONG_RUNNING):
    return decide(settings, observation, memory)[0]


def bounded(prefill: int, decode: int, **changes):
    return replace(SETTINGS, prefill=PoolLimits(4, 1, prefill), decode=PoolLimits(4, 1, decode), **changes)


def test_a_region_within_its_bounds_needs_nothing_and_tells_its_room():
    supply = decided(seen(steady(20.0), gauges=HELD)).supply
    assert not supply.uncoverable
    assert supply.room.prefill_tokens_per_s > 20_000
    assert supply.room.decode_sequences > 160


def test_what_a_maximum_cuts_off_is_uncoverable_in_proportion():
    free = decided(seen(steady(20.0), gauges=HELD))
    cut = decided(seen(steady(20.0), gauges=HELD), bounded(1, 100))
    part = 1 - 1 / free.prefill.needed
    # What is told is what is expected a start-up ahead: the arrivals, and the first margin for growth.
    assert cut.supply.uncoverable.prefill_tokens_per_s == pytest.approx(20_000 * 1.25 * part, rel=0.02)
    assert cut.supply.uncoverable.requests_per_s == pytest.approx(20 * 1.25 * part, rel=0.02)
    assert cut.supply.uncoverable.decode_sequences > 160 * part
    assert not cut.supply.room


def test_a_gpu_budget_counts_for_both_pools():
    supply = decided(seen(steady(20.0), gauges=HELD), bounded(100, 100, gpu_budget=8)).supply
    assert supply.uncoverable
    ample = decided(seen(steady(1.0)), bounded(100, 100, gpu_budget=80)).supply
    assert 0 < ample.room.prefill_tokens_per_s < decided(seen(steady(1.0))).supply.room.prefill_tokens_per_s


def test_without_gpus_all_is_uncoverable_until_workers_are_ready_again():
    lost = PoolState(desired=4, ready=0, pending_gpu_s=90.0, pending_gpu=4)
    decision, memory = decide(SETTINGS, replace(seen(steady(20.0), gauges=HELD), decode=lost), LONG_RUNNING)
    assert decision.supply.uncoverable.requests_per_s == pytest.approx(25, rel=0.02)
    starting = replace(seen(steady(20.0), gauges=HELD), now_s=NOW + 5, newest_s=NOW + 5, decode=PoolState(4, 0))
    still, memory = decide(SETTINGS, starting, memory)
    assert still.supply.uncoverable  # they have a GPU now, and serve nobody yet
    healed, _ = decide(SETTINGS, replace(starting, now_s=NOW + 10, decode=PoolState(4, 1)), memory)
    assert not healed.supply.uncoverable


def test_pods_that_found_no_gpu_are_believed_for_ten_minutes():
    """Asking for fewer makes nothing pend: that is no sign of more GPUs."""
    waiting = replace(seen(steady(1.0)), decode=PoolState(6, 4, pending_gpu_s=90.0, pending_gpu=2))
    decision, memory = decide(SETTINGS, waiting, LONG_RUNNING)
    room = decision.supply.room.decode_sequences
    assert 0 < room < 4 * 256
    for later_s, is_believed in ((300, True), (599, True), (601, False)):
        now_s = NOW + later_s
        settled = replace(seen(steady(1.0, until_s=now_s)), now_s=now_s, newest_s=now_s, decode=PoolState(4, 4))
        assert (decide(SETTINGS, settled, memory)[0].supply.room.decode_sequences < 4 * 256) is is_believed


@pytest.mark.parametrize("change", [{"paused": True}, {"acts": False}])
def test_a_region_that_writes_no_sizes_promises_none(change):
    supply = decided(seen(steady(20.0), prefill=1, decode=1, gauges=HELD), replace(SETTINGS, **change)).supply
    assert supply.uncoverable


def test_a_drained_region_sends_all_away():
    regions = FromRegions(is_drained=True)
    supply = decided(seen(steady(20.0), gauges=HELD, regions=regions)).supply
    assert supply.uncoverable.requests_per_s == pytest.approx(25, rel=0.02)


def test_help_adds_workers_and_changes_neither_need_nor_room():
    alone = decided(seen(steady(20.0), gauges=HELD))
    helping = decided(seen(steady(20.0), gauges=HELD, regions=FromRegions(SOME)))
    assert helping.prefill.workers > alone.prefill.workers
    assert helping.decode.workers >= alone.decode.workers
    assert helping.supply == alone.supply
    assert "helped" in {one.name for one in helping.prefill.terms}
    assert "helped" not in {one.name for one in alone.prefill.terms}


def test_a_region_at_zero_wakes_to_help_and_sleeps_after_its_idle_time():
    silent = DemandHistory()
    silent.cover(int(NOW) - 2000)
    settings = replace(SETTINGS, prefill=PoolLimits(4, 0, 9), decode=PoolLimits(4, 0, 9), scale_to_zero_after_s=600)
    asleep = decided(seen(silent, prefill=0, decode=0), settings)
    assert (asleep.prefill.workers, asleep.supply.room.decode_sequences > 0) == (0, True)
    woken, memory = decide(settings, seen(silent, prefill=0, decode=0, regions=FromRegions(SOME)), LONG_RUNNING)
    assert woken.prefill.workers >= 1
    assert woken.decode.workers >= 1
    for later_s, workers in ((599, 1), (601, 0)):
        now_s = NOW + later_s
        decision, _ = decide(settings, replace(seen(silent), now_s=now_s, newest_s=now_s), memory)
        assert decision.prefill.workers == workers


def words(**regions: RegionWord) -> dict[str, RegionWord]:
    return regions


def needy(**changes) -> RegionWord:
    return RegionWord(fresh=True, fleets={FLEET: RegionFleetWord(uncoverable=NEED)}, **changes)


def test_the_word_of_a_peer_becomes_demand_here():
    heard = RegionWords()
    heard.take(words(eu=needy(), us=RegionWord(fresh=True)), NOW)
    meant = heard.meant_for("us", FLEET, RegionDemandStatus(room=ROOM))
    assert meant.helped.requests_per_s == pytest.approx(10)
    assert heard.meant_for("us", "team/other", RegionDemandStatus(room=ROOM)).helped == NOTHING
    assert heard.meant_for("us", FLEET, None).helped == NOTHING


def test_two_peers_share_by_price_and_the_drained_one_takes_nothing():
    room = {FLEET: RegionFleetWord(room=ROOM)}
    own = RegionDemandStatus(room=ROOM)
    for peer, helped in (
        (RegionWord(fresh=True, price_weight=1.0, fleets=room), 5.0),
        (RegionWord(fresh=True, price_weight=0.5, fleets=room), 0.0),
        (RegionWord(fresh=True, price_weight=2.0, fleets=room), 10.0),
        (RegionWord(fresh=True, price_weight=0.5, drain=True, fleets=room), 10.0),
    ):
        heard = RegionWords()
        heard.take(words(eu=needy(), us=RegionWord(fresh=True), ap=peer), NOW)
        assert heard.meant_for("us", FLEET, own).helped.requests_per_s == pytest.approx(helped)


def test_a_word_outlives_its_stream_by_a_minute_and_no_more():
    heard = RegionWords()
    heard.take(words(eu=needy()), NOW)
    heard.take(words(eu=RegionWord(fresh=False)), NOW + KEPT_S)
    assert heard.meant_for("us", FLEET, RegionDemandStatus(room=ROOM)).helped
    heard.take(words(eu=needy().model_copy(update={"fresh": False})), NOW + KEPT_S + 1)
    assert not heard.meant_for("us", FLEET, RegionDemandStatus(room=ROOM)).helped


def test_a_word_that_cannot_be_read_costs_nothing_but_itself():
    answer = DemandAnswer.model_validate_json(
        '{"replica":"r","epoch":"e","now_s":1,"covers_from":1,"cursor":1,"regions":{'
        '"bad":{"fresh":true,"price_weight":-1},"worse":[],'
        '"nan":{"fresh":true,"fleets":{"team/llama":{"uncoverable":{"decodeSequences":"NaN"}}}},'
        '"good":{"fresh":true,"later":1,"fleets":{"team/llama":{"uncoverable":{"decodeSequences":3,"later":1}}}}}}'
    )
    assert {name: word.fresh for name, word in answer.regions.items()} == {
        "bad": False,
        "worse": False,
        "nan": False,
        "good": True,
    }

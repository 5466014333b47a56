"""The choice of a region: residency, home first, peers by seconds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_router.regions.choice import RegionAsk, RegionView, SpillRules, decide_region
from tandem_router.regions.load import FleetLoad

RULES = SpillRules(margin_s=0.1, stay_ratio=0.5, price_s=0.5)
IDLE = FleetLoad(0.0, 4, 10_000.0, 64, 0)
BUSY = replace(IDLE, queued_tokens=200_000.0)  # 5 s of work
EMPTY = FleetLoad()
ASK = RegionAsk(tokens=2000, target_s=1.0)


def choose(ask, home, *peers, leaning=False, draw=0.5):
    return decide_region(ask, home, peers, RULES, leaning=leaning, draw=draw)


def home(load=IDLE, **fields):
    return RegionView("eu", load, **fields)


def peer(name="us", load=IDLE, rtt_s=0.1, **fields):
    return RegionView(name, load, rtt_s, **fields)


def test_home_serves_while_it_is_content_also_when_a_peer_would_be_faster():
    relaxed = replace(ASK, target_s=10.0)
    choice = choose(relaxed, home(replace(IDLE, queued_tokens=20_000.0)), peer(rtt_s=0.01))
    assert (choice.region, choice.reason) == ("eu", "home_is_content")


def test_home_serves_while_no_peer_is_better_by_the_way_and_the_margin():
    choice = choose(ASK, home(replace(IDLE, queued_tokens=4_000.0)), peer())
    assert (choice.region, choice.reason) == ("eu", "not_worth_the_way")


def test_an_overloaded_home_gives_to_the_best_peer():
    far, near = peer("ap", rtt_s=0.2), peer("us", rtt_s=0.08)
    assert choose(ASK, home(BUSY), far, near).region == "us"


def test_the_round_trip_counts_as_waiting():
    home_view = home(replace(IDLE, queued_tokens=45_000.0))  # 1.3 s predicted, target 1 s
    assert choose(ASK, home_view, peer(rtt_s=1.05)).reason == "not_worth_the_way"
    assert choose(ASK, home_view, peer(rtt_s=0.5)).region == "us"


def test_once_requests_leave_half_the_margin_keeps_them_leaving():
    home_view = home(replace(IDLE, queued_tokens=45_000.0))
    between = peer(rtt_s=1.125 - 0.075)  # better by 0.075 s: between half the margin and all of it
    assert choose(ASK, home_view, between).region == "eu"
    assert choose(ASK, home_view, between, leaning=True).region == "us"


def test_capacity_is_normalised():
    small, large = (
        replace(BUSY, queued_tokens=50_000.0, prefill_workers=2),
        replace(BUSY, queued_tokens=80_000.0, prefill_workers=8),
    )
    assert choose(ASK, home(BUSY), peer("small", small), peer("large", large)).region == "large"


def test_a_peer_that_has_the_prompt_cached_is_preferred():
    long = replace(ASK, tokens=20_000)
    assert choose(long, home(BUSY), peer("us"), peer("ap", rtt_s=0.2, hit_tokens=16_000)).region == "ap"


def test_what_was_sent_since_the_digest_counts():
    flooded = peer("us", sent_tokens=400_000.0)
    assert choose(ASK, home(BUSY), flooded, peer("ap", rtt_s=0.3)).region == "ap"
    full = peer("us", sent=64)
    assert choose(ASK, home(BUSY), full).reason == "no_peer_has_room"


def test_a_dearer_region_must_be_better_by_what_its_price_is_worth():
    assert choose(ASK, home(BUSY), peer("dear", price_weight=2.0), peer("cheap", rtt_s=0.5)).region == "cheap"
    assert choose(ASK, home(BUSY), peer("dear", price_weight=2.0), peer("cheap", rtt_s=0.7)).region == "dear"


def test_a_tenant_without_budget_waits_at_home():
    assert choose(replace(ASK, may_spill=False), home(BUSY), peer()).reason == "no_spill_budget"


def test_a_home_without_workers_is_left_whatever_the_budget():
    choice = choose(replace(ASK, may_spill=False), home(EMPTY), peer())
    assert (choice.region, choice.reason) == ("us", "home_cannot_serve")


def test_with_nobody_anywhere_home_holds_the_request():
    assert choose(ASK, home(EMPTY), peer(load=EMPTY)).region == "eu"


def test_residency_comes_before_everything():
    bound = replace(ASK, allowed=frozenset({"ap"}))
    assert choose(bound, home(), peer("us"), peer("ap", rtt_s=0.3)).region == "ap"
    assert choose(bound, home(), peer("us")).region is None
    assert choose(bound, home(), peer("ap", accepts=0.0)).region is None


def test_a_forwarded_request_goes_no_further_and_residency_is_checked_again():
    assert choose(replace(ASK, hops=1), home(BUSY), peer()).region == "eu"
    assert choose(replace(ASK, hops=1, allowed=frozenset({"us"})), home(), peer()).region is None


@pytest.mark.parametrize(("draw", "region"), [(0.05, "us"), (0.15, "eu")])
def test_a_peer_that_comes_back_gets_its_ramps_share(draw, region):
    assert choose(ASK, home(BUSY), peer(accepts=0.1), draw=draw).region == region


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.99])
def test_a_ramp_never_keeps_the_only_region_idle_that_can_serve(draw):
    back = peer(accepts=0.05)
    assert choose(ASK, home(EMPTY), back, draw=draw).region == "us"
    assert choose(replace(ASK, allowed=frozenset({"us"})), home(), back, draw=draw).region == "us"


def test_a_drained_home_gives_everything_away_and_a_drained_peer_gets_nothing():
    assert choose(ASK, home(accepts=0.0), peer()).region == "us"
    assert choose(ASK, home(BUSY), peer(accepts=0.0)).region == "eu"


loads = st.builds(
    FleetLoad,
    queued_tokens=st.floats(0, 1e7),
    prefill_workers=st.integers(0, 64),
    worker_tokens_per_s=st.floats(0, 1e5),
    free_slots=st.integers(0, 500),
    waiting_decode=st.integers(0, 500),
)
views = st.builds(
    RegionView,
    name=st.sampled_from(["a", "b", "c", "d"]),
    load=loads,
    rtt_s=st.floats(0, 1),
    hit_tokens=st.integers(0, 10_000),
    sent=st.integers(0, 100),
    sent_tokens=st.floats(0, 1e6),
    price_weight=st.floats(0.1, 10),
    accepts=st.floats(0, 1),
)
asks = st.builds(
    RegionAsk,
    tokens=st.integers(1, 100_000),
    target_s=st.floats(0.01, 60),
    allowed=st.none() | st.frozensets(st.sampled_from(["home", "a", "b", "c", "d"])),
    may_spill=st.booleans(),
    hops=st.integers(0, 2),
)


@given(asks, views, st.lists(views, max_size=4, unique_by=lambda view: view.name), st.booleans(), st.floats(0, 0.999))
def test_no_choice_ever_breaks_residency_or_hops_twice(ask, home_view, peers, leaning, draw):
    home_view = replace(home_view, name="home")
    choice = decide_region(ask, home_view, peers, RULES, leaning=leaning, draw=draw)
    if choice.region is None:
        return
    assert ask.allows(choice.region)
    if choice.region != "home":
        assert ask.hops == 0
        chosen = next(view for view in peers if view.name == choice.region)
        assert chosen.accepts > 0
        assert chosen.load.can_serve


@given(asks, views, st.lists(views, max_size=4, unique_by=lambda view: view.name), st.floats(0, 0.999))
def test_a_request_that_leaves_home_for_speed_is_predicted_to_be_faster(ask, home_view, peers, draw):
    home_view = replace(home_view, name="home")
    choice = decide_region(ask, home_view, peers, RULES, leaning=False, draw=draw)
    if choice.reason == "spilled" and home_view.load.has_room(home_view.sent):
        chosen = next(view for view in peers if view.name == choice.region)
        assert chosen.ttft_s(ask.tokens) + RULES.margin_s < home_view.ttft_s(ask.tokens)

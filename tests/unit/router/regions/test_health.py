"""A peer's life as its streams tell it, spill budgets, and demand that is shared out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_router.regions.health import PeerHealth
from tandem_router.regions.spill_budget import AT_ONCE, SpillBudget


def heard(until_s=1.0):
    peer = PeerHealth()
    for tenth in range(int(until_s * 10) + 1):
        peer.hear("one", tenth / 10)
        peer.hear("two", tenth / 10)
    return peer


def test_an_unknown_peer_gets_nothing_and_a_new_one_all_of_its_share_at_once():
    peer = PeerHealth()
    assert peer.accepts(0.0) == 0.0
    peer.hear("one", 1.0)
    assert peer.accepts(1.0) == 1.0


def test_silence_alone_is_not_death():
    peer = heard()
    assert peer.accepts(5.0) == 1.0


def test_a_refused_reconnect_alone_is_not_death_while_the_other_stream_speaks():
    peer = heard()
    peer.refuse(1.05)
    peer.hear("two", 1.1)
    assert peer.accepts(1.2) == 1.0
    assert peer.accepts(2.0) == 1.0  # that refusal is older than the last word


def test_a_dead_peer_is_known_within_half_a_second():
    peer = heard(1.0)
    peer.refuse(1.1)
    assert peer.accepts(1.25) == 1.0
    assert peer.accepts(1.3) == 0.0


def test_a_rollout_of_the_peers_routers_is_none():
    peer = heard()
    peer.close("one")
    peer.hear("two", 1.1)
    peer.hear("one", 1.3)
    assert peer.accepts(1.31) == 1.0


def test_what_comes_back_is_ramped_over_thirty_seconds():
    peer = heard(1.0)
    peer.refuse(2.0)
    assert peer.accepts(2.0) == 0.0
    peer.hear("one", 10.0)
    assert peer.accepts(10.0) == pytest.approx(0.05)
    assert peer.accepts(25.0) == pytest.approx(0.5)
    assert peer.accepts(41.0) == 1.0


def test_who_was_away_for_a_moment_gets_its_share_back_sooner():
    peer = heard(1.0)
    peer.refuse(1.4)
    assert peer.accepts(1.4) == 0.0
    peer.hear("one", 1.5)
    assert peer.accepts(1.5 + 0.5 * 15 * 0.5) == pytest.approx(0.5)
    assert peer.accepts(1.5 + 0.5 * 15) == 1.0


def test_a_peer_that_speaks_and_does_not_answer_is_given_nothing_until_it_does():
    peer = heard(1.0)
    peer.miss(1.1)
    assert peer.accepts(1.1) == 1.0, "one answer may be late"
    peer.miss(1.2)
    peer.hear("one", 1.25)
    assert peer.accepts(1.25) == 0.0
    peer.answer(9.0)
    assert peer.accepts(9.0) == pytest.approx(0.05)
    peer.hear("one", 38.0)
    assert peer.accepts(39.0) == 1.0


def test_a_peer_whom_our_requests_do_not_reach_pauses_longer_each_time():
    peer = heard()
    for _ in range(3):
        peer.strike(1.0)
    assert peer.accepts(1.5) == 0.0
    assert peer.accepts(2.1) == 1.0
    peer.strike(2.1)
    assert peer.accepts(4.0) == 0.0
    assert peer.accepts(4.2) == 1.0
    peer.succeed()
    peer.strike(4.3)
    assert peer.accepts(4.3) == 1.0


def test_what_was_on_its_way_when_the_pause_began_makes_it_no_longer():
    peer = heard()
    for _ in range(50):
        peer.strike(1.0)
    assert peer.accepts(2.1) == 1.0


EVENTS = ("hear", "close", "refuse", "strike", "succeed", "answer", "miss")


def happen(peer, event, now_s):
    match event:
        case "hear":
            peer.hear("one", now_s)
        case "close":
            peer.close("one")
        case "succeed":
            peer.succeed()
        case _:
            getattr(peer, event)(now_s)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 1)), max_size=80))
def test_the_share_is_always_a_share(events):
    peer, now_s = PeerHealth(), 0.0
    for event, gap_s in events:
        now_s += gap_s
        happen(peer, event, now_s)
        assert 0.0 <= peer.accepts(now_s) <= 1.0


@given(st.floats(0, 0.99), st.lists(st.booleans(), max_size=500))
def test_a_budget_lets_its_share_out_and_a_burst(share, wants):
    budget, left = SpillBudget(share), 0
    for wants_out in wants:
        budget.earn()
        if wants_out and budget.has_room:
            budget.spend()
            left += 1
    assert left <= share * (len(wants) + AT_ONCE) + 1e-6


def test_a_budget_of_all_never_holds_back():
    budget = SpillBudget(1.0)
    for _ in range(1000):
        assert budget.has_room
        budget.spend()

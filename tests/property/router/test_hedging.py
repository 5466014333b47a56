"""How much is hedged, whatever workers do."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.policy.hedging import BURST, MIN_KNOWN, MIN_WAIT_S, Hedging

seconds = st.floats(0.0, 1e4)


@given(st.lists(st.booleans(), max_size=400), st.floats(0.0, 1.0))
def test_never_more_than_its_share_and_a_burst(spends, share):
    hedging, hedged = Hedging(share), 0
    for legs, wants in enumerate(spends, start=1):
        hedging.earn()
        hedged += wants and hedging.spend()
        assert hedged <= BURST + share * legs
    assert share > 0.0 or not hedged


@given(st.lists(st.tuples(seconds, seconds), max_size=300), seconds)
def test_it_waits_until_the_tail_is_known_and_never_less_than_the_least(legs, foretold_s):
    hedging = Hedging(0.05)
    for leg in legs:
        hedging.observe(*leg)
    wait_s = hedging.wait_s(foretold_s)
    known = sum(foretold > 0.0 for foretold, _ in legs)
    assert (wait_s is None) == (known < MIN_KNOWN)
    assert wait_s is None or wait_s >= MIN_WAIT_S


def test_late_is_later_than_99_of_100():
    hedging = Hedging(0.05)
    for number in range(MIN_KNOWN):
        hedging.observe(1.0, 1.0 + number / MIN_KNOWN)
    assert hedging.wait_s(2.0) == 2.0 * (1.0 + 98 / MIN_KNOWN)
    assert Hedging(0.0).wait_s(2.0) is None

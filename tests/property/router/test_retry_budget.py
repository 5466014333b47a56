"""Retries stay a share of the traffic, whatever fails."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.policy.retry_budget import PER_S, RESERVE, SHARE, RetryBudget

steps = st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 0.01)), max_size=1500)


@given(steps)
def test_retries_never_exceed_reserve_share_and_time(walk):
    budget, now_s, requests, retries = RetryBudget(), 0.0, 0, 0
    for kind, gap_s in walk:
        now_s += gap_s
        if kind == "request":
            budget.earn()
            requests += 1
        else:
            retries += budget.spend(now_s)
    assert retries <= RESERVE + SHARE * requests + PER_S * now_s + 1e-6


def test_a_burst_of_failures_is_met_and_a_storm_is_not():
    budget = RetryBudget()
    granted = sum(budget.spend(1000.0) for _ in range(1000))
    assert granted == RESERVE
    assert not budget.spend(1000.0)
    assert budget.spend(1000.0 + 1.1 / PER_S)


def test_a_clock_that_steps_back_earns_nothing():
    budget = RetryBudget()
    while budget.spend(50.0):
        pass
    assert not budget.spend(10.0)

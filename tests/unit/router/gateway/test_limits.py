"""Buckets, shares and what a refused request costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_router.gateway.limits import Bucket, Share, TenantLimits, retry_after


def limits(requests=None, tokens=None, concurrency=None):
    made = TenantLimits()
    made.set_requests(requests, 0.0)
    made.set_tokens(tokens, 0.0)
    made.concurrency = concurrency
    return made


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_the_rate():
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(1, 1.0) == 0.0


def test_a_debt_is_paid_before_more_is_admitted():
    bucket = Bucket(60, 0.0)
    bucket.take(90, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(31.0)


def test_a_request_greater_than_the_limit_needs_a_full_bucket_and_then_passes():
    bucket = Bucket(60, 0.0)
    assert bucket.wait_s(1000, 0.0) == 0.0
    bucket.take(1000, 0.0)
    assert bucket.wait_s(1, 0.0) > 900


def test_a_refused_request_costs_nothing():
    tenant = limits(requests=60, tokens=100)
    assert tenant.try_enter(100, 0.0) is None
    for _ in range(10):
        assert tenant.try_enter(100, 0.0).limit == "tokens"
    assert tenant.requests.level(0.0) == 59
    assert tenant.running == 1


def test_concurrency_comes_back_when_a_request_ends():
    tenant = limits(concurrency=1)
    assert tenant.try_enter(1, 0.0) is None
    refusal = tenant.try_enter(1, 0.0)
    assert (refusal.limit, retry_after(refusal)) == ("concurrency", 1)
    tenant.leave(0, 0.0)
    assert tenant.try_enter(1, 0.0) is None


def test_usage_settles_the_estimate_both_ways():
    tenant = limits(tokens=1000)
    tenant.try_enter(100, 0.0)
    tenant.leave(400, 0.0)
    assert tenant.tokens.level(0.0) == 500
    tenant.try_enter(100, 0.0)
    tenant.leave(-100, 0.0)
    assert tenant.tokens.level(0.0) == 500


def test_a_smaller_limit_keeps_what_was_used():
    tenant = limits(tokens=1000)
    tenant.try_enter(800, 0.0)
    tenant.set_tokens(500, 0.0)
    assert tenant.tokens.level(0.0) == -300


def test_a_clock_that_steps_back_refills_nothing():
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.level(50.0) == 0
    assert bucket.level(100.0) == 0


@given(whole=st.integers(0, 10_000), of=st.integers(1, 50))
def test_shares_of_a_count_sum_to_the_whole(whole, of):
    assert sum(Share(rank, of).of_count(whole) for rank in range(of)) == whole


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50), st.integers(-50, 50)), max_size=60),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_replicas_together_never_admit_more_than_the_limit(steps, per_minute, replicas):
    """Over any span, admitted requests stay within one full bucket plus what the rate gives in it."""
    parts = [limits(requests=Share(rank, replicas).of_rate(per_minute)) for rank in range(replicas)]
    now_s, admitted = 0.0, 0
    for number, (gap_s, _, _) in enumerate(steps):
        now_s += gap_s
        admitted += parts[number % replicas].try_enter(1, now_s) is None
    # A request needs one whole unit, or a full bucket when the share is smaller than one.
    assert admitted <= per_minute + per_minute * now_s / 60 + replicas


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-1e6, 1e6)), max_size=50))
def test_a_bucket_never_holds_more_than_its_limit(steps):
    bucket, now_s = Bucket(600, 0.0), 0.0
    for gap_s, amount in steps:
        now_s += gap_s
        bucket.take(amount, now_s)
        assert bucket.level(now_s) <= 600

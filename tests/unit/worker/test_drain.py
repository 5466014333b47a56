"""How a drain proceeds, as a value of time and of what remains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_worker.drain import DrainLimits, DrainPhase, Remaining, decide_drain

LIMITS = DrainLimits(race_window_s=3, timeout_s=60)
NOTHING, BUSY = Remaining(0, 0), Remaining(2, 0)

remainders = st.builds(Remaining, st.none() | st.integers(0, 5), st.none() | st.integers(0, 5))

UNHURRIED = settings(deadline=None, max_examples=50)  # test machines are busy


@pytest.mark.parametrize(
    ("elapsed_s", "remaining", "refusing", "phase"),
    [
        (0, NOTHING, False, DrainPhase.CLOSING),
        (2.9, BUSY, False, DrainPhase.CLOSING),
        (3, NOTHING, False, DrainPhase.REFUSING),
        (3.1, NOTHING, True, DrainPhase.DONE),
        (30, BUSY, True, DrainPhase.REFUSING),
        (30, Remaining(0, 1), True, DrainPhase.REFUSING),
        (30, Remaining(None, 0), True, DrainPhase.REFUSING),
        (60, BUSY, True, DrainPhase.DONE),
    ],
)
def test_a_drain_closes_then_refuses_then_ends(
    elapsed_s: float, remaining: Remaining, refusing: bool, phase: DrainPhase
) -> None:
    assert decide_drain(elapsed_s, remaining, LIMITS, refusing=refusing) is phase


@UNHURRIED
@given(st.floats(0, 59.9), remainders, st.booleans())
def test_nothing_that_may_still_run_is_cut_before_the_timeout(
    elapsed_s: float, remaining: Remaining, refusing: bool
) -> None:
    if decide_drain(elapsed_s, remaining, LIMITS, refusing=refusing) is DrainPhase.DONE:
        assert refusing
        assert remaining.is_nothing


@UNHURRIED
@given(st.floats(60, 1e6), remainders, st.booleans())
def test_every_drain_ends_at_its_timeout(elapsed_s: float, remaining: Remaining, refusing: bool) -> None:
    assert decide_drain(elapsed_s, remaining, LIMITS, refusing=refusing) is DrainPhase.DONE

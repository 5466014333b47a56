"""Percentiles in bounded memory."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.sketch import RELATIVE_ERROR, Sketch

VALUES = st.lists(st.floats(1e-4, 1e5), min_size=1, max_size=200)


def sketch_of(values):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(VALUES, st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_one_percent_of_the_exact_one(values, share):
    """The bound of the scheme, for any values."""
    exact = sorted(values)[math.floor(share * (len(values) - 1))]
    assert sketch_of(values).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.01)


@given(VALUES, VALUES)
def test_merging_equals_counting_together(left, right):
    """So sketches of several routers may be added."""
    merged = sketch_of(left)
    merged.merge(sketch_of(right))
    assert merged.to_counts() == sketch_of(left + right).to_counts()
    assert Sketch.from_counts(merged.to_counts()).quantile(0.5) == merged.quantile(0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
def test_what_is_no_duration_is_refused(bad):
    """NaN would silently vanish in a bucket."""
    with pytest.raises(ValueError, match="cannot count"):
        Sketch().add(bad)


def test_an_empty_sketch_knows_nothing():
    """NaN, not zero: zero would look like a perfect latency."""
    assert math.isnan(Sketch().quantile(0.99))


def test_zero_is_zero():
    """And a corrupt count is refused."""
    assert sketch_of([0.0, 0.0, 1.0]).quantile(0.5) == 0.0
    with pytest.raises(ValueError, match="bucket"):
        Sketch.from_counts({"3": 0})

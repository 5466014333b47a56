"""Growth that is certain, and noise that is none."""

import random

import pytest

from tandem_operator.autoscale.trend import certain_growth


def test_a_clean_ramp_is_carried_on():
    """One per ten seconds: twelve more after two minutes."""
    assert certain_growth([float(place) for place in range(18)], 10, 120) == pytest.approx(12.0)


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_growth_to_speak_of(seed):
    """Poisson counts of a steady load: none at all in nineteen of twenty."""
    rng = random.Random(seed)
    values = [sum(rng.random() < 0.1 for _ in range(1000)) / 10 for _ in range(18)]
    assert certain_growth(values, 10, 120) < 0.5


def test_falling_load_and_too_few_values_say_nothing():
    """Shrinking is the hold's business."""
    assert certain_growth([float(-place) for place in range(18)], 10, 120) == 0.0
    assert certain_growth([1.0, 2.0, 3.0], 10, 120) == 0.0

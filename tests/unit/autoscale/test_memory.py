"""Forecasts that have come due, and by how much the next one is raised."""

import pytest

from tandem_operator.autoscale.memory import ENOUGH_ERRORS, Error, Forecast, ForecastRecord

SHARE, PRIOR = 0.99, 1.25


def record(rising: int, falling: int) -> ForecastRecord:
    """Forecasts fell short by three workers while the load rose, and were one too high while it fell."""
    return ForecastRecord(errors=(Error(0.0, 3.0, True),) * rising + (Error(0.0, -1.0, False),) * falling)


def test_while_little_is_known_a_forecast_is_raised_by_a_factor():
    assert record(ENOUGH_ERRORS - 1, 0).raised(4.0, SHARE, PRIOR, is_rising=True) == 5.0


@pytest.mark.parametrize(
    ("rising", "falling", "is_rising", "raised"),
    [(60, 60, True, 7.0), (60, 60, False, 4.0), (60, 59, False, 7.0), (0, 60, True, 4.0)],
)
def test_while_the_load_falls_only_forecasts_made_as_it_fell_count(rising, falling, is_rising, raised):
    """Once enough of them are known; and none is ever lowered."""
    assert record(rising, falling).raised(4.0, SHARE, PRIOR, is_rising=is_rising) == raised


def test_a_forecast_is_judged_when_it_is_due_and_keeps_its_kind():
    waiting = ForecastRecord().with_open(Forecast(100.0, 2.0, is_rising=False)).with_open(Forecast(200.0, 2.0))
    judged = waiting.judged(150.0, 5.0)
    assert judged.errors == (Error(150.0, 3.0, False),)
    assert [one.due_s for one in judged.open] == [200.0]

"""Windows of demand: summed over routers, trimmed by age, closed to nonsense."""

import pytest

from tandem_operator.autoscale.demand import Arrival, BadDemandError, Bin, DemandHistory, quantile


def test_bins_of_two_routers_are_summed():
    """Each router sees its share of the requests."""
    history = DemandHistory()
    history.add_bin(Bin(10, arrivals=3, new_tokens=300))
    history.add_bin(Bin(10, arrivals=2, new_tokens=100))
    assert history.total(0, 20).arrivals == 5
    assert history.total(0, 20).new_tokens == 400


def test_a_bin_that_is_not_over_is_not_counted():
    """Half a second of arrivals would look like a falling rate."""
    history = DemandHistory()
    history.add_bin(Bin(10, arrivals=3))
    assert history.total(0, 10.9).arrivals == 0
    assert history.total(0, 11).arrivals == 3


def test_what_the_longest_window_needs_is_kept_and_no_more():
    """Memory is bounded, whatever comes."""
    history = DemandHistory()
    for second in range(0, 8000, 10):
        history.add_bin(Bin(second, arrivals=1))
        history.add_arrivals([Arrival(second, 1, 0, 1.0)])
    history.trim(8000)
    assert history.total(0, 9000).arrivals == 90
    assert len(history.arrivals(0, 10_000)) == 90
    history.add_arrivals(Arrival(8000, 1, 0, 1.0) for _ in range(20_000))
    assert len(history.arrivals(0, 30_000)) == 10_000


def test_silence_is_known_only_where_it_was_covered():
    """An idle fleet has no bins; what a young leader has not seen is not idle."""
    history = DemandHistory()
    assert not history.is_idle_since(100)
    history.cover(200)
    assert not history.is_idle_since(100)
    assert history.is_idle_since(200)
    history.add_bin(Bin(300, arrivals=1))
    assert not history.is_idle_since(250)
    history.trim(9000)
    assert history.is_idle_since(301)


def test_records_that_come_late_are_put_in_order():
    """Two routers are read one after the other."""
    history = DemandHistory()
    history.add_arrivals([Arrival(1, 1, 0, 1), Arrival(3, 1, 0, 1)])
    history.add_arrivals([Arrival(2, 1, 0, 1), Arrival(0, 1, 0, 1)])
    assert [record.arrival_s for record in history.arrivals(0, 10)] == [0, 1, 2, 3]


def test_the_newest_records_win_when_there_are_too_many():
    """A decision has bounded cost."""
    history = DemandHistory()
    history.add_arrivals(Arrival(at, 1, 0, 1) for at in range(100))
    assert [record.arrival_s for record in history.arrivals(0, 3)] == [97, 98, 99]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_a_bin_that_cannot_be_is_refused_by_field(bad):
    """A counter reset shows as a negative sum."""
    with pytest.raises(BadDemandError, match="new_tokens"):
        DemandHistory().add_bin(Bin(1, arrivals=1, new_tokens=bad))
    with pytest.raises(BadDemandError, match="target_s"):
        DemandHistory().add_arrivals([Arrival(1, 1, 0, -1.0)])
    with pytest.raises(BadDemandError, match="arrival_s"):
        DemandHistory().add_arrivals([Arrival(bad, 1, 0, 1.0)])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.5, 3), (0.95, 5), (1.0, 5)])
def test_quantiles_are_values_that_occurred(share, expected):
    """Sizes are integers; an interpolated size is none."""
    assert quantile([5, 3, 1, 4, 2], share) == expected

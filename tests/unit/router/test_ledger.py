"""The account of one request."""

import pytest

from tandem_router.demand.account import DemandAccount
from tandem_router.demand.recorder import DemandRecorder
from tandem_router.errand import Standing
from tandem_router.errors import (
    BadRequestError,
    DeadlineExceededError,
    OverloadedError,
    StreamBrokenError,
    UnavailableError,
    UpstreamFailedError,
)
from tandem_router.ledger import Outcome, RequestLedger, outcome_of
from tandem_router.metrics import Histogram, ModelMetrics


def opened(metrics: ModelMetrics, started_s: float = 0.0) -> RequestLedger:
    recorder = DemandRecorder(lambda: started_s, wall=lambda: started_s)
    account = DemandAccount(recorder.book("u"), recorder, started_s, Standing())
    return RequestLedger(metrics, account, started_s)


def test_closing_an_account_twice_is_a_fault_of_ours():
    metrics = ModelMetrics()
    ledger = opened(metrics)
    ledger.finish(Outcome.OK, 1.0)
    with pytest.raises(RuntimeError, match="ended twice"):
        ledger.finish(Outcome.BROKEN, 2.0)
    assert (metrics.inflight, metrics.outcomes) == (0, {"ok": 1})


def test_times_and_tokens_are_counted_as_the_client_sees_them():
    metrics = ModelMetrics()
    ledger = opened(metrics, 10.0)
    for now_s in (10.5, 11.0, 12.5):
        ledger.mark_token(now_s)
    ledger.count_usage({"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}})
    ledger.finish(Outcome.OK, 13.0)
    totals = {name: metrics.histograms[name].total for name in ("ttft", "tpot", "e2e")}
    assert totals == {"ttft": 0.5, "tpot": 0.5, "e2e": 3.0}
    assert metrics.tokens == {"prompt": 7, "cached": 3, "completion": 5}


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "7"}, {"completion_tokens": -1}, {"prompt_tokens_details": 3}]
)
def test_usage_that_makes_no_sense_counts_nothing(usage):
    metrics = ModelMetrics()
    opened(metrics).count_usage(usage)
    assert sum(metrics.tokens.values()) == 0


def test_failed_requests_do_not_flatter_the_latency_histograms():
    metrics = ModelMetrics()
    ledger = opened(metrics)
    ledger.mark_token(1.0)
    ledger.finish(Outcome.BROKEN, 2.0)
    assert metrics.histograms["ttft"].total == metrics.histograms["e2e"].total == 0.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BadRequestError("x"), Outcome.BAD_REQUEST),
        (OverloadedError("x"), Outcome.SHED),
        (UnavailableError("x"), Outcome.UNAVAILABLE),
        (DeadlineExceededError("x"), Outcome.DEADLINE),
        (StreamBrokenError("x"), Outcome.BROKEN),
        (UpstreamFailedError("x"), Outcome.UPSTREAM_FAILED),
    ],
)
def test_every_error_stands_for_one_outcome(error, outcome):
    assert outcome_of(error) is outcome


def test_histograms_count_each_value_once_and_cumulate():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0, -3.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 3.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 12.0

"""What routers tell: judged, summed, refused whole when a number cannot be."""

from dataclasses import replace

import pytest

from tandem_api.router import ArrivalRecord, DemandBin, DemandLevels, EndingRecord, FleetDemand
from tandem_operator.autoscale.demand import BadDemandError
from tandem_operator.autoscale.intake import DISTRUST_S, ENOUGH_SAMPLES, Intake
from tandem_operator.autoscale.judge import Judge

from .fleets import PROFILE

NAN = float("nan")
MODEL = PROFILE.performance
JUDGE = Judge(ttft_s=2.0, tpot_s=0.05, isolated_factor=3.0, model=MODEL)
ENDED = EndingRecord(10.5, ttft_s=1.0, tpot_s=0.02, prefilled_s=0.5, decode_s=4.0, prompt_tokens=1000)


def demand(**parts) -> FleetDemand:
    whole = {
        "bins": (DemandBin(second=10, arrivals=2, new_tokens=2000, square_tokens=2e6, prompt_tokens=2000, finished=1),),
        "arrivals": (ArrivalRecord(10.1, 1000), ArrivalRecord(10.2, 1000)),
        "endings": (ENDED,),
        "levels": DemandLevels(queued=3, queued_tokens=3000, decode_sequences=7, decode_kv_tokens=9000),
    }
    return FleetDemand(namespace="n", name="f", uid="u", **{**whole, **parts})


def taken(*demands: FleetDemand, judge: Judge = JUDGE) -> Intake:
    intake = Intake(MODEL)
    for number, one in enumerate(demands):
        intake.take(f"router-{number}", one, judge, 20.0)
    return intake


def test_routers_are_summed_and_their_levels_too():
    """Each sees its share."""
    intake = taken(demand(), demand())
    total = intake.history.total(0, 20)
    assert (total.arrivals, total.new_tokens, total.finished) == (4, 4000, 2)
    assert total.ended_prompt_tokens == 2000
    assert total.kv_token_s == 2 * 4.0 * 1000
    assert intake.gauges().decode_sequences == 14
    assert intake.gauges().queued_steps == 6


def test_a_router_that_is_silent_or_gone_holds_nothing():
    """Its last levels are of the past."""
    intake = taken(demand(), demand())
    intake.silence("router-1")
    assert intake.gauges().decode_sequences == 7
    intake.forget_others([])
    assert intake.gauges().decode_sequences == 0


@pytest.mark.parametrize(
    ("change", "misses"),
    [
        ({}, (0, 0)),
        ({"ttft_s": 4.0, "prefilled_s": 3.0}, (1, 0)),
        ({"ttft_s": 4.0, "prefilled_s": 1.0}, (0, 1)),
        ({"ttft_s": 4.0, "prefilled_s": None}, (1, 0)),
        ({"tpot_s": 0.06}, (0, 1)),
        ({"is_failed": True, "ttft_s": None, "tpot_s": None, "prefilled_s": None}, (1, 0)),
        ({"is_failed": True, "tpot_s": None}, (0, 1)),
        ({"ttft_s": None, "tpot_s": None, "prefilled_s": None}, (0, 0)),
        ({"ttft_s": 1.5, "ttft_target_s": 1.0, "prefilled_s": 1.2}, (1, 0)),
        ({"tpot_s": 0.04, "tpot_target_s": 0.03}, (0, 1)),
        ({"ttft_s": 5.0, "ttft_target_s": 9.0}, (0, 0)),
    ],
)
def test_a_miss_is_blamed_on_the_pool_that_was_late(change, misses):
    """Shed before a token: prefill. Prefilled in time and late all the same: decode. A client that left: nobody."""
    total = taken(demand(endings=(ENDED._replace(**change),))).history.total(0, 20)
    assert (total.prefill_misses, total.decode_misses) == misses


def test_long_prompts_may_take_longer():
    """isolatedFactor times what the prompt takes alone."""
    alone_s = MODEL.prefill_s(40_000)
    target_s = JUDGE.ttft_target_s(None, 40_000, 0)
    assert target_s == pytest.approx(3 * alone_s)
    assert target_s > 2.0
    assert replace(JUDGE, model=None).ttft_target_s(None, 40_000, 0) == 2.0


def test_sampled_records_stand_for_others():
    """Misses by weight; percentiles as well."""
    slow = ENDED._replace(ttft_s=9.0, prefilled_s=8.0, weight=3.0)
    intake = taken(demand(endings=(ENDED, slow)))
    assert intake.history.total(0, 20).prefill_misses == 3
    latency = intake.realised.latency()
    assert latency.requests == 4
    assert latency.ttft_attainment == 0.25
    assert latency.ttft.quantile(0.5) == pytest.approx(9.0, rel=0.02)


def test_prompts_longer_than_a_step_take_several():
    """p0 counts per step."""
    tokens = 3 * MODEL.step_tokens
    intake = taken(demand(arrivals=(ArrivalRecord(10.1, tokens), ArrivalRecord(10.2, 10))))
    assert intake.history.total(0, 20).steps == 4


@pytest.mark.parametrize(
    "bad",
    [
        {"bins": (DemandBin(second=10, arrivals=1, held_s=NAN),)},
        {"bins": (DemandBin(second=10, arrivals=-1),)},
        {"bins": (DemandBin(second=10, new_tokens=float("inf")),)},
        {"arrivals": (ArrivalRecord(NAN, 1),)},
        {"arrivals": (ArrivalRecord(10.0, -1),)},
        {"arrivals": (ArrivalRecord(10.0, 1, 0, NAN),)},
        {"endings": (ENDED._replace(ttft_s=NAN),)},
        {"endings": (ENDED._replace(decode_s=-1.0),)},
        {"endings": (ENDED._replace(ended_s=float("inf")),)},
        {"levels": DemandLevels(queued_tokens=NAN)},
        {"levels": DemandLevels(decode_sequences=-3)},
    ],
)
def test_what_cannot_be_is_refused_whole_and_remembered_for_a_minute(bad):
    """Not one number of such an answer is believed."""
    intake = taken(demand())
    before = intake.history.total(0, 20)
    with pytest.raises(BadDemandError):
        intake.take("liar", demand(**bad), JUDGE, 20.0)
    assert intake.history.total(0, 20) == before
    assert intake.gauges().decode_sequences == 7
    assert "liar" in (intake.fault(20.0) or "")
    assert intake.fault(20.0 + DISTRUST_S + 1) is None


def test_the_model_follows_what_prefill_legs_take():
    """A third slower than shipped, by legs that had a worker to themselves."""
    intake = Intake(MODEL)
    for number in range(400):
        tokens = 500 + 37 * (number % 60)
        ended = ENDED._replace(prompt_tokens=tokens, prefill_s=1.33 * MODEL.prefill_s(tokens))
        intake.take("r", demand(endings=(ended,)), JUDGE, 20.0)
    assert intake.model is not None
    assert intake.model.prefill_s(1500) == pytest.approx(1.33 * MODEL.prefill_s(1500), rel=0.03)
    assert intake.residual < 0.05


def test_a_few_measurements_are_no_residual():
    """One slow prompt after the start must not stop a pool from shrinking."""
    intake = Intake(MODEL)
    for _ in range(ENOUGH_SAMPLES - 1):
        intake.take("r", demand(endings=(ENDED._replace(prefill_s=30.0),)), JUDGE, 20.0)
    assert intake.residual == 0.0


def test_realised_latency_forgets_after_five_minutes():
    """And says nothing before the first request."""
    intake = taken(demand())
    intake.trim(10.5 + 400)
    latency = intake.realised.latency()
    assert latency.requests == 0
    assert latency.ttft_attainment != latency.ttft_attainment

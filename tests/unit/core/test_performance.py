"""The performance model against figures that others measured, and its refit against engines it has not seen."""

import random

import pytest

from tandem_core.performance import PerformanceModel
from tandem_core.profiles import PROFILES, UnknownProfileError, find_profile
from tandem_core.refit import BAND, Refit
from tandem_core.targets import Objectives, kv_limited_workers, tpot_limited_workers, ttft_target_s

SEVENTY = find_profile("70b-h100-tp4")


def test_70b_on_four_h100_prefills_2048_tokens_as_splitwise_measured():
    """Splitwise reports 201 ms; the model must lie within 10 %."""
    assert SEVENTY.performance.prefill_s(2048) == pytest.approx(0.201, rel=0.10)


def test_kv_capacity_is_what_is_left_beside_the_weights():
    """427k tokens for 8B on one H100, 449k for 70B on four (research/autoscaling.md §3.1)."""
    assert find_profile("8b-h100-tp1").kv_capacity_tokens == pytest.approx(427_000, rel=0.01)
    assert SEVENTY.kv_capacity_tokens == pytest.approx(449_000, rel=0.01)


def test_a_cached_prefix_costs_attention_but_no_matrix_work():
    """1,000 new tokens after 7,000 cached lie between 1,000 and 8,000 new ones."""
    model = SEVENTY.performance
    assert model.prefill_s(1000) < model.prefill_s(1000, 7000) < model.prefill_s(8000)


def test_a_long_prompt_pays_the_fixed_cost_once_per_step():
    """20,000 tokens are three steps of 8,192."""
    model = PerformanceModel(10, 0.001, 0, 10, 0, 0)
    assert model.prefill_s(20_000) == pytest.approx(0.030 + 0.020)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_impossible_coefficients_are_refused_by_name(bad):
    """The message names the coefficient."""
    with pytest.raises(ValueError, match="d2_ms"):
        PerformanceModel(1, 1, 1, 1, 1, bad)


def test_an_unknown_profile_lists_those_that_exist():
    """A typo costs one look at the message."""
    with pytest.raises(UnknownProfileError, match="70b-h100-tp4"):
        find_profile("70b-h100-tp3")


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_refit_finds_an_engine_that_is_a_fifth_off(name, factor):
    """300 noisy steps bring every prediction within 5 %, for each shipped profile."""
    shipped = PROFILES[name].performance
    truth, rng, refit = shipped.scaled(factor, factor), random.Random(7), Refit(shipped)
    for _ in range(300):
        tokens, batch = rng.randint(100, 8000), rng.randint(1, 200)
        kv = batch * rng.randint(200, 2000)
        refit = refit.with_prefill(1, tokens, tokens * tokens, truth.prefill_s(tokens) * rng.uniform(0.97, 1.03))
        refit = refit.with_decode(batch, kv, truth.decode_step_s(batch, kv) * rng.uniform(0.97, 1.03))
    learned = refit.model()
    for tokens in (300, 2000, 8000):
        assert learned.prefill_s(tokens) == pytest.approx(truth.prefill_s(tokens), rel=0.05)
    assert learned.decode_step_s(100, 100_000) == pytest.approx(truth.decode_step_s(100, 100_000), rel=0.05)
    assert refit.residual < 0.05


def test_refit_never_leaves_its_band_and_shows_that_it_does_not_fit():
    """An engine ten times slower than its profile is not believed, and the residual says so."""
    refit = Refit(SEVENTY.performance)
    for tokens in range(100, 8000, 20):
        refit = refit.with_prefill(1, tokens, tokens * tokens, 10 * SEVENTY.performance.prefill_s(tokens))
    assert all(1 / BAND <= gain <= BAND for gain in refit.prefill.gains)
    assert refit.residual > 0.25


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_refit_ignores_durations_that_cannot_be(bad):
    """A reset counter must not teach anything."""
    refit = Refit(SEVENTY.performance)
    assert refit.with_decode(10, 1000, bad) == refit


def test_a_long_prompt_gets_a_longer_target():
    """max(seconds, isolatedFactor × prefill alone)."""
    objectives = Objectives(ttft_s=2.0, tpot_s=0.05, isolated_factor=3.0)
    assert ttft_target_s(objectives, 0.1) == 2.0
    assert ttft_target_s(objectives, 4.0) == 12.0


def test_decode_capacity_is_the_scarcer_of_slots_and_kv():
    """Short prompts run out of slots long before KV."""
    assert kv_limited_workers(512, 10_000, 256, 400_000) == 2.0
    assert kv_limited_workers(10, 800_000, 256, 400_000) == 2.0


def test_workers_for_tpot_bring_the_step_exactly_to_the_objective():
    """Spread over that many workers, one step takes what the objective allows."""
    model = SEVENTY.performance
    workers = tpot_limited_workers(model, 2000, 2_000_000, 0.04)
    assert model.decode_step_s(2000 / workers, 2_000_000 / workers) == pytest.approx(0.04)
    assert tpot_limited_workers(model, 1, 1, 0.001) == float("inf")

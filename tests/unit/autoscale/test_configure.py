"""From fields of the object to settings; schedules by the wall clock of their place."""

from datetime import UTC, datetime

import pytest

from tandem_api.v1alpha1 import InferenceDeploymentSpec, Schedule
from tandem_operator.autoscale.configure import build_settings, is_decided, is_watched, may_act, read_profile
from tandem_operator.autoscale.schedules import UnknownTimeZoneError, find_minima
from tandem_operator.autoscale.settings import BadSettingsError

SPEC = {
    "model": {"name": "org/model"},
    "engine": {"performanceProfile": "70b-h100-tp4", "batching": {"maxNumSeqs": 64, "maxNumBatchedTokens": 4096}},
    "prefill": {"min": 2, "max": 20, "parallelism": {"tensor": 4}},
    "decode": {"max": 30, "parallelism": {"tensor": 4}, "engineOverrides": {"batching": {"maxNumSeqs": 128}}},
    "objectives": {"ttft": {"percentile": "p99", "seconds": 2}, "tpot": {"percentile": "p75", "seconds": 0.05}},
    "autoscaling": {"mode": "Objectives", "gpuBudget": 64, "ratio": {"max": 2}, "scaleToZeroAfterSeconds": 600},
}
MONDAY = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def spec(**changes) -> InferenceDeploymentSpec:
    wire = {**SPEC, **changes}
    return InferenceDeploymentSpec.model_validate({name: part for name, part in wire.items() if part is not None})


def test_every_field_finds_its_place():
    """One test reads the whole."""
    settings = build_settings(spec(), MONDAY)
    assert (settings.prefill.minimum, settings.prefill.maximum, settings.prefill.gpus) == (2, 20, 4)
    assert (settings.decode.minimum, settings.decode.maximum) == (1, 30)
    assert settings.objectives.ttft_share == 0.99
    assert settings.objectives.tpot_share == 0.75
    assert settings.objectives.isolated_factor == 3.0
    assert (settings.gpu_budget, settings.ratio.maximum, settings.scale_to_zero_after_s) == (64, 2, 600)
    assert settings.max_sequences == 128
    assert settings.performance.step_tokens == 4096


def test_an_inline_model_is_taken_as_it_is():
    """Coefficients in milliseconds."""
    model = {"p0Ms": 1, "p1Ms": 0.5, "d0Ms": 20, "d1Ms": 0.1, "kvCapacityTokens": 1234}
    profile = read_profile(spec(engine={"performanceModel": model}))
    assert profile.kv_capacity_tokens == 1234
    assert profile.performance.prefill_s(1000) == pytest.approx(0.501)


@pytest.mark.parametrize(
    ("change", "watched", "decided", "acts"),
    [
        ({}, True, True, True),
        ({"autoscaling": {"mode": "External"}}, True, False, False),
        ({"autoscaling": {"mode": "External", "advisory": True}}, True, True, False),
        ({"autoscaling": {"mode": "Objectives", "advisory": True}}, True, True, False),
        ({"objectives": None, "autoscaling": {}}, False, False, False),
        ({"objectives": {"ttft": {"seconds": 1}}, "autoscaling": {}}, True, False, False),
        ({"engine": {}, "autoscaling": {}}, True, False, False),
        ({"prefill": None, "autoscaling": {}}, True, False, False),
    ],
)
def test_who_is_watched_decided_on_and_acted_upon(change, watched, decided, acts):
    """Latency is told in every mode; sizes are decided where they can be."""
    read = spec(**change)
    assert (is_watched(read), is_decided(read), may_act(read)) == (watched, decided, acts)


def test_settings_that_contradict_name_the_field():
    """The fix is in the message."""
    with pytest.raises(BadSettingsError, match="gpuBudget is 4, but min needs 12"):
        build_settings(spec(autoscaling={"mode": "Objectives", "gpuBudget": 4}), MONDAY)


def schedule(**parts) -> Schedule:
    return Schedule.model_validate({"start": "08:00", "end": "18:00", "prefillMin": 5, **parts})


@pytest.mark.parametrize(
    ("parts", "hour", "minimum"),
    [
        ({}, 7, 0),
        ({}, 8, 5),
        ({}, 17, 5),
        ({}, 18, 0),
        ({"days": ["Mon"]}, 9, 5),
        ({"days": ["Tue"]}, 9, 0),
        ({"start": "22:00", "end": "06:00"}, 23, 5),
        ({"start": "22:00", "end": "06:00"}, 5, 5),
        ({"start": "22:00", "end": "06:00"}, 6, 0),
        ({"start": "22:00", "end": "06:00", "days": ["Sun"]}, 5, 5),
        ({"start": "22:00", "end": "06:00", "days": ["Mon"]}, 5, 0),
        ({"start": "22:00", "end": "06:00", "days": ["Mon"]}, 23, 5),
        ({"timeZone": "Asia/Tokyo"}, 0, 5),
        ({"timeZone": "Asia/Tokyo"}, 9, 0),
        ({"start": "00:00", "end": "00:00"}, 13, 5),
    ],
)
def test_a_schedule_holds_by_the_clock_of_its_place(parts, hour, minimum):
    """One that ends the next day belongs to the day on which it began."""
    assert find_minima([schedule(**parts)], MONDAY.replace(hour=hour)) == (minimum, 0)


def test_a_schedule_follows_the_change_to_summer_time():
    """08:00 in Berlin is 07:00 UTC in winter, and 06:00 in summer."""
    berlin = schedule(timeZone="Europe/Berlin")
    assert find_minima([berlin], datetime(2026, 1, 5, 6, 30, tzinfo=UTC)) == (0, 0)
    assert find_minima([berlin], datetime(2026, 7, 6, 6, 30, tzinfo=UTC)) == (5, 0)


def test_the_largest_of_several_schedules_counts_and_sleep_waits_for_their_end():
    """Also above max, where max wins."""
    both = [schedule().to_wire(), schedule(prefillMin=50, decodeMin=3).to_wire()]
    autoscaling = {**SPEC["autoscaling"], "gpuBudget": None, "schedules": both}
    settings = build_settings(spec(autoscaling=autoscaling), MONDAY)
    assert (settings.prefill.minimum, settings.decode.minimum) == (20, 3)
    assert settings.prefill.scheduled
    assert settings.scale_to_zero_after_s is None
    assert build_settings(spec(autoscaling=autoscaling), MONDAY.replace(hour=20)).scale_to_zero_after_s == 600


@pytest.mark.parametrize("name", ["Mars/Olympus", "Europe", "../etc/passwd", "+", "europe//berlin"])
def test_a_time_zone_that_does_not_exist_is_named(name):
    """Admission knows no time zones."""
    with pytest.raises(UnknownTimeZoneError, match=r"schedules\[0\]"):
        find_minima([schedule(timeZone="UTC").model_copy(update={"time_zone": name})], MONDAY)

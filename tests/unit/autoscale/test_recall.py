"""What outlives a leader: small, bounded, and enough to go on with."""

import json
from dataclasses import replace

import pytest

from tandem_api.v1alpha1 import AutoscalerMemoryStatus
from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.memory import ENOUGH_ERRORS, Memory
from tandem_operator.autoscale.recall import build_memory_status, format_time, read_memory

from .fleets import NOW, SETTINGS, seen, steady


def lived(rounds: int = 100) -> Memory:
    """An hour of decisions on a steady load."""
    memory, history = Memory(), steady(20.0)
    for number in range(rounds):
        moment = seen(history, prefill=5, decode=2)
        at_s = NOW - 36.0 * (rounds - number)
        _, memory = decide(SETTINGS, replace(moment, now_s=at_s, newest_s=at_s), memory)
    return memory


@pytest.fixture(scope="module")
def memory():
    return lived()


def test_an_hour_of_decisions_is_a_few_hundred_bytes(memory):
    """It is written into a status."""
    status = build_memory_status(memory, NOW)
    assert len(json.dumps(status.to_wire())) < 700
    assert len(status.prefill.needed) <= 12


def test_a_new_leader_needs_what_the_old_one_needed(memory):
    """Same load, one decision later: with what was written down, and with all of it."""
    status = AutoscalerMemoryStatus.model_validate(build_memory_status(memory, NOW).to_wire())
    taken_over = read_memory(status, NOW + 20)
    now = seen(steady(20.0, until_s=NOW + 30), prefill=5, decode=2, now_s=NOW + 30, newest_s=NOW + 30)
    old, new = decide(SETTINGS, now, memory)[0], decide(SETTINGS, now, taken_over)[0]
    assert (old.prefill.needed, old.decode.needed) == (new.prefill.needed, new.decode.needed)
    assert new.prefill.workers >= old.prefill.workers  # and holds what it found, for one start-up time


def test_forecast_errors_count_as_known(memory):
    """Else the first guess of a margin would come back with each leader."""
    status = build_memory_status(memory, NOW)
    assert status.prefill.shortfall is not None
    assert len(read_memory(status, NOW).prefill.forecasts.errors) == ENOUGH_ERRORS


@pytest.mark.parametrize("at_s", [NOW - 3601, NOW + 5])
def test_what_is_old_or_of_the_future_is_not_taken_over(memory, at_s):
    """Then the sizes that are found are what was needed."""
    status = build_memory_status(memory, at_s)
    assert read_memory(status, NOW) == Memory()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_time_that_is_none_is_not_taken_over(text):
    """Somebody edited the status."""
    assert read_memory(AutoscalerMemoryStatus(time=text), NOW) == Memory()


def test_no_status_is_no_memory():
    """The first leader ever."""
    assert read_memory(None, NOW) == Memory()
    assert format_time(0.0) == "1970-01-01T00:00:00Z"

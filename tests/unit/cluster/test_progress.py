"""People always see what is going on, and where it stopped."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from cluster import progress as progress_module
from cluster.progress import Progress, Step


def build_progress(force_terminal: bool = False) -> tuple[Progress, StringIO]:
    output = StringIO()
    return Progress(Console(file=output, width=200, force_terminal=force_terminal)), output


def test_a_finished_step_is_one_line_with_its_result() -> None:
    """Logs of a CI run stay short."""
    progress, output = build_progress()
    with progress.step("Building [x]") as step:
        step.update("half")
        step.result = "25 MB"
    assert re.fullmatch(r"✓ Building \[x\]: 25 MB \(\d+\.\d s\)\n", output.getvalue())


def test_a_failed_step_is_marked_and_the_error_goes_on() -> None:
    """The step that failed can be told from those that worked."""
    progress, output = build_progress()
    with pytest.raises(RuntimeError), progress.step("Building"):
        raise RuntimeError
    assert re.fullmatch(r"✗ Building \(\d+\.\d s\)\n", output.getvalue())


def test_long_steps_report_at_intervals_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain line now and then, however often the step is updated."""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    output = StringIO()
    step = Step("Building", Console(file=output, width=200), None)
    for number in range(6):
        step.update(f"part {number}")
    lines = output.getvalue().splitlines()
    assert 1 <= len(lines) < 6
    assert lines[0].startswith("… Building: part ")


def test_a_terminal_shows_the_live_line() -> None:
    """The spinner's text follows the step."""
    progress, output = build_progress(force_terminal=True)
    with progress.step("Building") as step:
        step.update("3 of 4")
    assert "✓ Building (" in output.getvalue()  # the seconds are the machine's, which may be busy

"""Progress for people: a live line on a terminal, plain lines with elapsed seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

PLAIN_INTERVAL_S = 10.0


class Step:
    """One running step; call :meth:`update` as often as you like, it throttles itself."""

    def __init__(self, title: str, console: Console, live: Status | None) -> None:
        self.title = title
        self.result = ""
        self._console = console
        self._live = live
        self._started = time.monotonic()
        self._printed = self._started

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def update(self, detail: str) -> None:
        """Show what the step is doing now."""
        line = f"{self.title}: {detail} ({self.elapsed_s:.0f} s)"
        if self._live:
            self._live.update(escape(line))
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            self._print(f"… {line}")

    def finish(self, mark: str) -> None:
        result = f": {self.result}" if self.result else ""
        self._print(f"{mark} {self.title}{result} ({self.elapsed_s:.1f} s)")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Prints steps to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show ``title`` while the block runs, then how long it took and the step's ``result``."""
        live = self._console.status(escape(title)) if self._console.is_terminal else None
        step = Step(title, self._console, live)
        if live:
            live.start()
        try:
            yield step
        except BaseException:
            self._end(step, live, "✗")
            raise
        self._end(step, live, "✓")

    def note(self, line: str) -> None:
        """Print one line that is not a step."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @staticmethod
    def _end(step: Step, live: Status | None, mark: str) -> None:
        if live:
            live.stop()
        step.finish(mark)


def build_silent_progress() -> Progress:
    """Progress that prints nothing, for tests and libraries."""
    return Progress(Console(quiet=True))

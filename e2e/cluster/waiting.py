"""Waiting for the world, with a deadline and a sentence for when it passes."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.05


def wait_until(condition: Callable[[], bool], patience_s: float, on_timeout: Callable[[], Exception]) -> None:
    """Poll until ``condition`` holds; raises what ``on_timeout`` returns when it does not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= deadline:
            raise on_timeout()
        time.sleep(POLL_S)

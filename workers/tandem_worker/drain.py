"""How a worker that was told to stop comes to its end: pure; time arrives as an argument.

    serving ── SIGTERM ──► closing ── race window ──► refusing ── nothing left, or timeout ──► done

Readiness is false from the first moment. Requests that were on their way are served; only later ones are refused.
"""

from dataclasses import dataclass
from enum import StrEnum


class DrainPhase(StrEnum):
    """Where in its drain a worker is."""

    CLOSING = "closing"
    REFUSING = "refusing"
    DONE = "done"


@dataclass(frozen=True)
class DrainLimits:
    """`race_window_s`: how long routers may take to see that we leave. `timeout_s`: when the streams are cut."""

    race_window_s: float
    timeout_s: float


@dataclass(frozen=True)
class Remaining:
    """What still needs this worker. None: not known right now, which counts as something."""

    streams: int | None
    leases: int | None

    @property
    def is_nothing(self) -> bool:
        return self.streams == 0 and self.leases == 0


def decide_drain(elapsed_s: float, remaining: Remaining, limits: DrainLimits, *, refusing: bool) -> DrainPhase:
    """The phase `elapsed_s` seconds after the order to stop.

    Args:
        refusing: whether `remaining` was counted after new requests began to be refused. Only such a count may end
            the drain: before, another request can arrive between the count and the end.
    """
    if elapsed_s >= limits.timeout_s:
        return DrainPhase.DONE
    if elapsed_s < limits.race_window_s:
        return DrainPhase.CLOSING
    return DrainPhase.DONE if refusing and remaining.is_nothing else DrainPhase.REFUSING

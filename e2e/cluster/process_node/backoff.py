"""Delays before a container starts again, or an image is looked up again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 10.0
LONGEST_S = 300.0


@dataclass(frozen=True)
class Backoff:
    """The kubelet's rule: the first retry is immediate, then first_s, doubling to longest_s.

    A container that ran for twice the longest delay is taken for healthy, and the row begins anew.
    """

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    delay_s: float = 0.0

    def after(self, ran_for_s: float) -> Backoff:
        """The back-off for the next start but one, given how long the last run was; `delay_s` was its wait."""
        if ran_for_s >= 2 * self.longest_s:
            return Backoff(self.first_s, self.longest_s)
        grown = min(self.longest_s, max(self.first_s, 2 * self.delay_s))
        return Backoff(self.first_s, self.longest_s, grown)


def should_restart(policy: str, exit_code: int) -> bool:
    """Whether restartPolicy Always, OnFailure or Never starts the container again after this exit."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

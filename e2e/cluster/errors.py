"""The one error that the cluster tool shows to people.

ClusterError            what went wrong, what to do about it, where the log is
└── AddressInUseError   a port was taken between choosing and binding it; the start is tried again
"""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """One sentence for a person: ``problem``, ``fix``, and the ``log`` to read where there is one."""

    def __init__(self, problem: str, fix: str, log: Path | None = None) -> None:
        self.problem = problem
        self.fix = fix
        self.log = log
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f" (log: {self.log})" if self.log else ""
        return f"{self.problem}; {self.fix}{where}"


class AddressInUseError(ClusterError):
    """A component found its port taken."""

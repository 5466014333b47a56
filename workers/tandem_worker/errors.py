"""Faults that end a worker, each with a reason that the operator can put into a condition."""

from tandem_api.conditions import Reason

MISCONFIGURED_EXIT_CODE = 2  # what argparse uses: told wrongly, and starting again will not help


class WorkerError(Exception):
    """A worker cannot start or go on. `str(error)` is one sentence that names the field and the fix.

    Attributes:
        reason: stable CamelCase reason, as in the conditions of an InferenceDeployment.
        exit_code: what PID 1 exits with.
    """

    def __init__(self, reason: Reason, message: str, exit_code: int = MISCONFIGURED_EXIT_CODE) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code

    def to_termination_message(self) -> str:
        """`Reason: message`, the form that the operator reads from the container's status."""
        return f"{self.reason}: {self}"

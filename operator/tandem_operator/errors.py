"""Errors of the control plane.

OperatorError
├── ConfigurationError     the operator was started wrongly; ends the process with one sentence
├── PartEnded              something that runs for ever has ended; a new process is the cure
├── NotLeader              a write was refused because the lease may be another's
└── ApiError               the API server refused, or did not answer
    ├── Unreachable        no answer at all
    ├── NotFound           404
    ├── Conflict           409: newer object, other uid, or a field that another manager owns
    └── Rejected           400, 403, 422: the same request will be refused again
"""


class OperatorError(Exception):
    """Base of all errors that the operator raises on purpose."""


class ConfigurationError(OperatorError):
    """A flag, a file or an environment variable is wrong."""


class PartEnded(OperatorError):  # noqa: N818
    """The process cannot go on, and does not know why; what failed has been logged."""


class NotLeader(OperatorError):  # noqa: N818
    """Writing needs the lease."""


class ApiError(OperatorError):
    """The API server answered with an error status.

    Attributes:
        retry_after_s: how long it wants to be left alone, 0 when it does not say.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Unreachable(ApiError):  # noqa: N818
    """Connection refused, reset or timed out, or an answer that is cut or garbled."""


class NotFound(ApiError):  # noqa: N818
    """The object does not exist."""


class Conflict(ApiError):  # noqa: N818
    """The object is not what we took it for."""

    @property
    def is_taken(self) -> bool:
        """Whether another field manager owns the object's fields: a name clash that trying again does not mend."""
        return ("conflict" in self.message and "conflicts with" in self.message) or "conflict with" in self.message


class Rejected(ApiError):  # noqa: N818
    """The request itself is refused."""


def api_error(status: int, reason: str, message: str, retry_after_s: float = 0.0) -> ApiError:
    """The error class that fits an HTTP status."""
    kinds = {404: NotFound, 409: Conflict, 400: Rejected, 403: Rejected, 422: Rejected}
    return kinds.get(status, ApiError)(status, reason, message, retry_after_s)

"""Keeps requests away from a worker that fails: for a time that doubles, then one request at a time is tried."""

FIRST_S = 0.5
MAX_S = 10.0
MAX_FAILURES = 8


class Ejection:
    """State of one worker. Times are of one clock, given by the caller.

    Attributes:
        failures: weighs failures of late; a success halves it.
    """

    __slots__ = ("_is_tried", "_until_s", "failures")

    def __init__(self) -> None:
        self.failures = 0
        self._until_s = 0.0
        self._is_tried = False

    def note_failure(self, now_s: float) -> None:
        """A leg failed through the worker's fault."""
        self._until_s = now_s + min(MAX_S, FIRST_S * 2**self.failures)
        self.failures = min(self.failures + 1, MAX_FAILURES)
        self._is_tried = False

    def note_success(self) -> None:
        """A leg succeeded: it may take requests like any other."""
        self.failures //= 2
        self._until_s = 0.0
        self._is_tried = False

    def note_given(self) -> None:
        """A request was given to it."""
        self._is_tried = self._until_s > 0.0

    def note_unknown(self) -> None:
        """That request ended without telling anything of the worker, as when its client left."""
        self._is_tried = False

    def is_open(self, now_s: float) -> bool:
        """Requests go elsewhere: it is ejected, or half-open with a request on trial."""
        return now_s < self._until_s or self._is_tried

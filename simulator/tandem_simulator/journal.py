"""What happened to each request, and the sums that policies may see. Written on the hot path: plain lists only."""

from dataclasses import dataclass, field
from typing import NamedTuple

UNKNOWN = float("nan")


class Ended(NamedTuple):
    """One request that ended, as the router tells it."""

    at_s: float
    request: int
    prefill_miss: bool
    decode_miss: bool
    decode_s: float


@dataclass(slots=True)
class Journal:
    """Times per request in seconds; NaN when it never came so far.

    Attributes:
        prefill_done_s: end of its prefill batch.
        joined_s: start on a decode worker.
        first_token_s, last_token_s: as the client sees them.
        failed: ended without an answer.
        ended: all endings in order of time.
    """

    prefill_done_s: list[float]
    joined_s: list[float]
    first_token_s: list[float]
    last_token_s: list[float]
    failed: list[bool]
    ended: list[Ended] = field(default_factory=list)


def empty_journal(requests: int) -> Journal:
    """Nothing has happened yet."""
    unknown = [UNKNOWN] * requests
    return Journal(unknown.copy(), unknown.copy(), unknown.copy(), unknown.copy(), [False] * requests)

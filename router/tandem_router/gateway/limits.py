"""What a tenant may use of this replica: token buckets and a cap on concurrency. Pure; times are seconds of one clock.

Several replicas own shares of each limit that never sum above the whole: a replica knows how many there are and which
one it is, so that no limit is exceeded when they cannot talk to each other.
"""

import math
from dataclasses import dataclass

WINDOW_S = 60.0  # limits are per minute; a bucket holds one minute's worth


@dataclass(frozen=True, slots=True)
class Share:
    """This replica's part: number `rank` (from 0) of `of` replicas."""

    rank: int = 0
    of: int = 1

    def of_rate(self, whole: float) -> float:
        """An equal part of a rate."""
        return whole / self.of

    def of_count(self, whole: int) -> int:
        """A whole part of a count; the parts of all ranks sum to the count."""
        return whole // self.of + (1 if self.rank < whole % self.of else 0)


class Bucket:
    """A token bucket that may go into debt: what was estimated too low is paid back before more is admitted."""

    __slots__ = ("_at_s", "_level", "_per_minute")

    def __init__(self, per_minute: float, now_s: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._at_s = now_s

    @property
    def per_minute(self) -> float:
        """The limit."""
        return self._per_minute

    def resize(self, per_minute: float, now_s: float) -> None:
        """Another limit: what has been used stays used."""
        used = self._per_minute - self.level(now_s)
        self._per_minute = per_minute
        self._level = per_minute - used

    def level(self, now_s: float) -> float:
        """What may be taken now; negative while in debt. A clock that steps back refills nothing."""
        elapsed_s = now_s - self._at_s
        if elapsed_s > 0.0:
            self._level = min(self._per_minute, self._level + elapsed_s * self._per_minute / WINDOW_S)
            self._at_s = now_s
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` may be taken; 0 when now. More than a minute's worth needs a full bucket."""
        missing = min(amount, self._per_minute) - self.level(now_s)
        return max(0.0, missing * WINDOW_S / self._per_minute)

    def take(self, amount: float, now_s: float) -> None:
        """Take `amount`, into debt if need be; a negative amount gives back."""
        self._level = min(self._per_minute, self.level(now_s) - amount)


def resized(bucket: Bucket | None, per_minute: float | None, now_s: float) -> Bucket | None:
    """`bucket` under another limit; a new limit begins full."""
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now_s)
    bucket.resize(per_minute, now_s)
    return bucket


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit is reached, and when to ask again."""

    limit: str  # requests, tokens or concurrency
    retry_after_s: float


class TenantLimits:
    """The limits of one tenant on this replica; a limit of None does not limit."""

    def __init__(self) -> None:
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.concurrency: int | None = None
        self.running = 0

    def set_requests(self, per_minute: float | None, now_s: float) -> None:
        """Another limit of requests."""
        self.requests = resized(self.requests, per_minute, now_s)

    def set_tokens(self, per_minute: float | None, now_s: float) -> None:
        """Another limit of tokens."""
        self.tokens = resized(self.tokens, per_minute, now_s)

    def try_enter(self, tokens: float, now_s: float) -> Refusal | None:
        """Admit a request of about `tokens` input tokens, or say what forbids it; a refused one costs nothing."""
        if self.concurrency is not None and self.running >= self.concurrency:
            return Refusal("concurrency", 1.0)
        if self.requests is not None and (wait_s := self.requests.wait_s(1.0, now_s)) > 0.0:
            return Refusal("requests", wait_s)
        if self.tokens is not None and (wait_s := self.tokens.wait_s(tokens, now_s)) > 0.0:
            return Refusal("tokens", wait_s)
        self.running += 1
        if self.requests is not None:
            self.requests.take(1.0, now_s)
        if self.tokens is not None:
            self.tokens.take(tokens, now_s)
        return None

    def leave(self, correction: float, now_s: float) -> None:
        """A request ended: charge `correction` tokens more (or fewer) than were estimated."""
        self.running -= 1
        if self.tokens is not None:
            self.tokens.take(correction, now_s)


def retry_after(refusal: Refusal) -> int:
    """Whole seconds for the header Retry-After, at least 1."""
    return max(1, math.ceil(refusal.retry_after_s))

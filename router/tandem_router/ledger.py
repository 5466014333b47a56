"""The account of one request: opened when it is accepted, closed exactly once, with a typed outcome that is counted."""

from enum import StrEnum
from typing import Any

from tandem_router.demand.account import DemandAccount
from tandem_router.errors import (
    BadRequestError,
    DeadlineExceededError,
    OverloadedError,
    RequestError,
    StreamBrokenError,
    UnavailableError,
    UpstreamFailedError,
)
from tandem_router.metrics import ModelMetrics
from tandem_router.token_counts import TokenCounts, read_counts


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REJECTED = "rejected"  # the engine called the request wrong (4xx)
    BAD_REQUEST = "bad_request"  # we did
    SHED = "shed"
    UNAVAILABLE = "unavailable"
    UPSTREAM_FAILED = "upstream_failed"
    ENGINE_ERROR = "engine_error"  # the engine's own 5xx, or its error inside a stream
    BROKEN = "broken"  # lost after bytes had been sent
    DEADLINE = "deadline"
    CLIENT_GONE = "client_gone"
    INTERNAL = "internal"


FAILED = frozenset(
    (
        Outcome.SHED, Outcome.UNAVAILABLE, Outcome.UPSTREAM_FAILED, Outcome.ENGINE_ERROR, Outcome.BROKEN,
        Outcome.DEADLINE, Outcome.INTERNAL,
    )
)  # fmt: skip

_OUTCOMES: tuple[tuple[type[RequestError], Outcome], ...] = (
    (BadRequestError, Outcome.BAD_REQUEST),
    (OverloadedError, Outcome.SHED),
    (UnavailableError, Outcome.UNAVAILABLE),
    (DeadlineExceededError, Outcome.DEADLINE),
    (StreamBrokenError, Outcome.BROKEN),
    (UpstreamFailedError, Outcome.UPSTREAM_FAILED),
)


def outcome_of(error: RequestError) -> Outcome:
    """The outcome that `error` stands for."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), Outcome.INTERNAL)


class RequestLedger:
    """Account of one request of one model. Times are seconds of one monotonic clock."""

    __slots__ = ("_metrics", "_started_s", "counts", "demand", "first_token_s", "last_token_s", "outcome")

    def __init__(self, metrics: ModelMetrics, demand: DemandAccount, started_s: float) -> None:
        self._metrics = metrics
        self.demand = demand
        self._started_s = started_s
        self.counts = TokenCounts()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.outcome: Outcome | None = None
        metrics.inflight += 1

    def observe(self, name: str, seconds: float) -> None:
        """Add to one of the model's histograms."""
        self._metrics.histograms[name].observe(seconds)

    def count_route(self, reason: str) -> None:
        """The request was placed, for this reason."""
        self._metrics.routes[reason] += 1

    def count_retry(self, leg: str) -> None:
        """A leg failed before the first byte and is tried elsewhere."""
        self._metrics.retries[leg] += 1

    def count_hedge(self, event: str) -> None:
        """A late prefill was begun on a second worker too, or that one won."""
        self._metrics.hedges[event] += 1

    def mark_token(self, now_s: float) -> None:
        """Output reached the client's connection."""
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.last_token_s = now_s
        self.demand.produce()

    def count_usage(self, usage: dict[str, Any] | None) -> None:
        """Take the engine's own token counts; TPOT follows from them."""
        if usage is None:
            return
        counts = self.counts = read_counts(usage)
        tokens = self._metrics.tokens
        tokens["prompt"] += counts.prompt
        tokens["cached"] += counts.cached
        tokens["completion"] += counts.completion
        tpot_s = self.tpot_s()
        if tpot_s is not None:
            self.observe("tpot", tpot_s)

    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        completion = self.counts.completion
        if completion < 2 or self.first_token_s is None or self.last_token_s is None:
            return None
        return (self.last_token_s - self.first_token_s) / (completion - 1)

    def finish(self, outcome: Outcome, now_s: float) -> None:
        """Close the account.

        Raises:
            RuntimeError: it is closed already: the caller has two ways to end.
        """
        if self.outcome is not None:
            raise RuntimeError(f"request ended twice: {self.outcome}, then {outcome}")
        self.outcome = outcome
        self._metrics.inflight -= 1
        self._metrics.outcomes[outcome] += 1
        ttft_s = None if self.first_token_s is None else self.first_token_s - self._started_s
        self.demand.close(now_s, self.counts, is_failed=outcome in FAILED, ttft_s=ttft_s, tpot_s=self.tpot_s())
        if outcome is Outcome.OK:
            self.observe("e2e", now_s - self._started_s)
            if ttft_s is not None:
                self.observe("ttft", ttft_s)

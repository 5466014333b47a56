"""One request's part in its fleet's demand: it comes once, may hold a decode worker several times, and ends once."""

from typing import Protocol

from tandem_router.demand.book import DemandBook
from tandem_router.errand import Standing
from tandem_router.token_counts import TokenCounts


class Scribe(Protocol):
    """Writes demand down: knows the Unix time, and draws the lots of the sample."""

    def unix_s(self, now_s: float) -> float:
        """Unix time of a moment of the loop's clock."""

    def draw(self) -> float:
        """A number in [0, 1)."""


class DemandAccount:
    """Times are of the loop's clock. Closing it twice counts once."""

    __slots__ = (
        "_began_s", "_book", "_cached", "_decode_s", "_held_tokens", "_is_closed", "_new", "_prefill_s", "_prefilled_s",
        "_scribe", "_standing", "_started_s",
    )  # fmt: skip

    def __init__(self, book: DemandBook, scribe: Scribe, started_s: float, standing: Standing) -> None:
        self._book, self._scribe, self._started_s, self._standing = book, scribe, started_s, standing
        self._new = self._cached = self._held_tokens = 0
        self._decode_s = 0.0
        self._began_s: float | None = None
        self._prefilled_s: float | None = None
        self._prefill_s: float | None = None
        self._is_closed = False

    def arrive(self, new_tokens: int, cached_tokens: int) -> None:
        """The request is accepted, whether or not there is a worker for it."""
        self._new, self._cached = new_tokens, cached_tokens
        at_s = self._scribe.unix_s(self._started_s)
        self._book.arrive((at_s, new_tokens, cached_tokens, self._standing.ttft_s), self._scribe.draw())

    def prefilled(self, now_s: float, alone_s: float | None) -> None:
        """Its prefill leg ended; `alone_s`: seconds that took, if the worker had nothing else to do."""
        self._prefilled_s, self._prefill_s = now_s - self._started_s, alone_s

    def hold(self, now_s: float) -> None:
        """A decode worker has it from now on."""
        self._began_s = now_s
        self._held_tokens = self._new + self._cached
        self._book.hold(self._held_tokens, self._scribe.unix_s(now_s))

    def produce(self) -> None:
        """One more token (an event, until the usage tells better) is in the KV cache."""
        if self._began_s is not None:
            self._held_tokens += 1
            self._book.held_tokens += 1

    def let_go(self, now_s: float) -> None:
        """The decode worker has it no more; without a `hold` before, nothing."""
        if self._began_s is None:
            return
        self._decode_s += now_s - self._began_s
        self._began_s = None
        self._book.let_go(self._held_tokens, self._scribe.unix_s(now_s))

    def close(
        self, now_s: float, counts: TokenCounts, *, is_failed: bool, ttft_s: float | None, tpot_s: float | None
    ) -> None:
        """It ended. `counts` are the engine's, zeros where it did not tell."""
        self.let_go(now_s)
        if self._is_closed or not self._new:
            return
        self._is_closed = True
        prompt = (counts.prompt, counts.cached) if counts.prompt else (self._new + self._cached, self._cached)
        self._book.end(
            (
                self._scribe.unix_s(now_s), is_failed, ttft_s, tpot_s, self._prefilled_s, self._decode_s, *prompt,
                counts.completion, self._standing.ttft_s, self._standing.tpot_s, self._prefill_s,
            ),
            self._scribe.draw(),
        )  # fmt: skip

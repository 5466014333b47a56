"""How fast a worker is, learned from what it did: three terms, fitted by bounded recursive least squares.

    seconds ≈ k0 + k1 · x + k2 · y

The first measurements anchor the terms; from then on `tandem_core.refit` moves each within a factor of three around its
anchor, so that no run of bad measurements makes a worker look free. A worker that has really changed is anchored anew.
"""

from math import inf
from statistics import median

from tandem_core.refit import LinearRefit

ANCHORS = 3
MIN_SECONDS, MAX_SECONDS = 1e-6, 1e5  # what cannot have been measured
CHANGED_RESIDUAL = 0.6  # mean relative error above which the anchor is not believed any more…
CHANGED_SAMPLES = 50  # …once so many measurements have been made
MIN_PREFILL_TOKENS = 256  # shorter prompts measure the round trip: no anchor is made of them

Terms = tuple[float, float, float]
PREFILL_SHARES: Terms = (0.1, 0.8, 0.1)  # of an anchor's seconds: fixed, per token to compute, per squared token
DECODE_SHARES: Terms = (0.7, 0.15, 0.15)  # fixed, per sequence, per KV token
TRANSFER_SHARES: Terms = (0.5, 0.5, 0.0)  # fixed, per token


class LearnedSeconds:
    """One fit of one worker.

    Attributes:
        terms: (k0, k1, k2), None before it has been anchored.
        samples: measurements since then.
    """

    __slots__ = ("_anchor", "_fresh", "_min_x", "_refit", "_shares", "terms")

    def __init__(self, shares: Terms, min_x: float = 0.0) -> None:
        """`min_x`: measurements with a smaller x make no anchor."""
        self._shares = shares
        self._min_x = min_x
        self._fresh: list[Terms] = []
        self._anchor: Terms | None = None
        self._refit = LinearRefit()
        self.terms: Terms | None = None

    @property
    def samples(self) -> int:
        """Measurements since the anchor."""
        return self._refit.samples

    def observe(self, x: float, y: float, seconds: float) -> None:
        """It took `seconds`. Impossible measurements are ignored."""
        if not (MIN_SECONDS <= seconds <= MAX_SECONDS and 0 <= x < inf and 0 <= y < inf):
            return
        if self._anchor is None or self._has_changed():
            self._gather(x, y, seconds)
        if self._anchor is not None:
            a0, a1, a2 = self._anchor
            self._refit = self._refit.updated((a0, a1 * x, a2 * y), seconds)
            g0, g1, g2 = self._refit.gains
            self.terms = (a0 * g0, a1 * g1, a2 * g2)

    def _has_changed(self) -> bool:
        return self._refit.samples >= CHANGED_SAMPLES and self._refit.residual > CHANGED_RESIDUAL

    def _gather(self, x: float, y: float, seconds: float) -> None:
        """Collect what the next anchor is made of, and make it."""
        if x < self._min_x:
            return
        self._fresh.append((x, y, seconds))
        if len(self._fresh) < ANCHORS:
            return
        mid_x, mid_y, mid_s = (median(column) for column in zip(*self._fresh, strict=True))
        s0, s1, s2 = self._shares
        self._anchor = (s0 * mid_s, s1 * mid_s / max(1.0, mid_x), s2 * mid_s / max(1.0, mid_y))
        self._refit = LinearRefit()
        self._fresh = []


LEARN_INTERVAL_S = 0.05  # per worker and fit: a busy worker teaches no more by teaching at every request


class WorkerFits:
    """What is being learned of one worker. `now_s` thins the measurements out: a refit costs some microseconds."""

    __slots__ = ("_next_s", "decode", "far", "near", "prefill")

    def __init__(self) -> None:
        self.prefill = LearnedSeconds(PREFILL_SHARES, MIN_PREFILL_TOKENS)
        self.decode = LearnedSeconds(DECODE_SHARES)
        self.near = LearnedSeconds(TRANSFER_SHARES)
        self.far = LearnedSeconds(TRANSFER_SHARES)
        self._next_s: dict[LearnedSeconds, float] = {}

    def observe_prefill(self, ahead_tokens: int, tokens: int, seconds: float, now_s: float) -> None:
        """`tokens` were computed in `seconds`, behind `ahead_tokens` of others."""
        self._observe(self.prefill, ahead_tokens + tokens, tokens * tokens, seconds, now_s)

    def observe_decode(self, batch: float, kv_tokens: float, tpot_s: float, now_s: float) -> None:
        """Tokens came every `tpot_s` in a batch that held so many KV tokens."""
        self._observe(self.decode, batch, kv_tokens, tpot_s, now_s)

    def observe_transfer(self, tokens: int, seconds: float, now_s: float, *, is_near: bool) -> None:
        """KV of `tokens` came within `seconds`."""
        self._observe(self.near if is_near else self.far, tokens, 0.0, seconds, now_s)

    def _observe(self, fit: LearnedSeconds, x: float, y: float, seconds: float, now_s: float) -> None:
        if now_s < self._next_s.get(fit, 0.0):
            return
        self._next_s[fit] = now_s + LEARN_INTERVAL_S
        fit.observe(x, y, seconds)


def predict_s(terms: Terms, x: float, y: float = 0.0) -> float:
    """Seconds by a fit."""
    return terms[0] + terms[1] * x + terms[2] * y


def typical_terms(fits: list[Terms]) -> Terms | None:
    """What a worker that is not known yet is taken for: term by term the median of its peers; None without any."""
    if not fits:
        return None
    first, second, third = zip(*fits, strict=True)
    return median(first), median(second), median(third)

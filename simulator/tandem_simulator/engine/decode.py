"""A decode worker: continuous batching, advanced analytically between the moments at which its batch changes.

While b sequences decode, step k takes a + c k with a = d0 + d1 b + d2 K and c = d2 b, because each step adds b tokens
to the K that the next one reads. So x steps take a x + c x²/2, and the steps done in a time follow from a quadratic.
Steps are treated as continuous: a request that joins in the middle of one is at most half a step early.
"""

from heapq import heappop, heappush
from math import sqrt

from tandem_core.performance import MS_PER_S, PerformanceModel

NEVER = float("inf")
NEARLY = 1e-6  # of a step; rounding of the quadratic


class DecodeWorker:
    """One engine that decodes.

    Attributes:
        sequences: in the batch now.
        reserved_tokens: KV that they will hold when they end; admission never exceeds the capacity.
        step: steps done since the start, a real number.
        kv_tokens: held now.
        tokens: produced since the start.
        wake_s: when the worker has asked to be looked at next.
    """

    __slots__ = (
        "_at_s",
        "_base_s",
        "_ends",
        "_per_sequence_s",
        "_per_token_s",
        "kv_tokens",
        "reserved_tokens",
        "sequences",
        "step",
        "tokens",
        "wake_s",
    )

    def __init__(self, model: PerformanceModel, now_s: float) -> None:
        self._base_s = model.d0_ms / MS_PER_S
        self._per_sequence_s = model.d1_ms / MS_PER_S
        self._per_token_s = model.d2_ms / MS_PER_S
        self._at_s = now_s
        self._ends: list[tuple[float, int, int]] = []
        self.sequences = 0
        self.reserved_tokens = 0
        self.kv_tokens = 0.0
        self.step = 0.0
        self.tokens = 0.0
        self.wake_s = NEVER

    def advance(self, now_s: float) -> None:
        """Do the steps that fit between the last look and now."""
        elapsed_s = now_s - self._at_s
        self._at_s = now_s
        batch = self.sequences
        if batch == 0 or elapsed_s <= 0.0:
            return
        first_s = self._base_s + self._per_sequence_s * batch + self._per_token_s * self.kv_tokens
        growth_s = self._per_token_s * batch
        if growth_s > 0.0:
            steps = (sqrt(first_s * first_s + 2.0 * growth_s * elapsed_s) - first_s) / growth_s
        else:
            steps = elapsed_s / first_s
        self.step += steps
        self.kv_tokens += steps * batch
        self.tokens += steps * batch

    def join(self, request: int, prompt_tokens: int, output_tokens: int, now_s: float) -> float:
        """Take a request whose KV has arrived. Returns when its first token leaves."""
        self.advance(now_s)
        self.sequences += 1
        self.kv_tokens += prompt_tokens
        self.reserved_tokens += prompt_tokens + output_tokens
        heappush(self._ends, (self.step + output_tokens, request, prompt_tokens + output_tokens))
        return now_s + self._base_s + self._per_sequence_s * self.sequences + self._per_token_s * self.kv_tokens

    def next_end_s(self) -> float:
        """When the next request ends if the batch stays as it is; infinite when there is none."""
        if not self._ends:
            return NEVER
        steps = self._ends[0][0] - self.step
        first_s = self._base_s + self._per_sequence_s * self.sequences + self._per_token_s * self.kv_tokens
        return self._at_s + max(0.0, steps * (first_s + 0.5 * self._per_token_s * self.sequences * steps))

    def take_ended(self) -> list[int]:
        """Remove and return the requests that have produced their last token."""
        ended = []
        ends, reached = self._ends, self.step + NEARLY
        while ends and ends[0][0] <= reached:
            _, request, held_tokens = heappop(ends)
            self.sequences -= 1
            self.kv_tokens = max(0.0, self.kv_tokens - held_tokens)
            self.reserved_tokens -= held_tokens
            ended.append(request)
        return ended

    def abandon(self) -> list[int]:
        """The worker dies: return the requests that were on it."""
        lost = [request for _, request, _ in self._ends]
        self._ends = []
        self.sequences = self.reserved_tokens = 0
        self.kv_tokens = 0.0
        return lost

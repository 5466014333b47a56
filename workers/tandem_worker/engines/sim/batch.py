"""Continuous batching with chunked prefill, one step at a time. Pure: the caller waits for a step's duration.

Differs from a real engine in one thing: a sequence reserves KV for its longest possible answer when it is admitted,
so that nothing is ever preempted.
"""

from dataclasses import dataclass, field

from tandem_worker.engines.sim.settings import SimSettings
from tandem_worker.engines.sim.timing import decode_ms, prefill_ms


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the engine. `to_compute`: prompt tokens whose KV is neither cached nor received."""

    prompt_tokens: int
    to_compute: int
    max_tokens: int
    produced: int = 0

    @property
    def reserved_tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens

    @property
    def context_tokens(self) -> int:
        return self.prompt_tokens + self.produced

    @property
    def is_finished(self) -> bool:
        return self.produced >= self.max_tokens


@dataclass(frozen=True)
class Step:
    """What the engine does next, and how long it takes. `yields`: sequences that get a token at its end."""

    duration_ms: float
    chunks: dict[Sequence, int] = field(default_factory=dict)
    yields: tuple[Sequence, ...] = ()


class Batch:
    """Waiting and running sequences.

    Args:
        slots: sequences that run at once.
        step_tokens: prompt tokens computed in one step.
    """

    def __init__(self, settings: SimSettings, slots: int, step_tokens: int) -> None:
        self._settings = settings
        self._slots = slots
        self._step_tokens = step_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.leased_tokens = 0  # kept for decode workers; the caller keeps it true

    @property
    def reserved_tokens(self) -> int:
        """KV that running sequences and leases hold."""
        return self.leased_tokens + sum(sequence.reserved_tokens for sequence in self.running)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        used = self.leased_tokens + sum(sequence.context_tokens for sequence in self.running)
        return min(1.0, used / self._settings.kv_tokens)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is: finished, or its client went away."""
        for place in (self.waiting, self.running):
            if sequence in place:
                place.remove(sequence)

    def plan_step(self) -> Step | None:
        """Admit what fits, first come first served, and say what to do; None when there is nothing to do."""
        self._admit()
        if not self.running:
            return None
        chunks = self._plan_chunks()
        decoding = [sequence for sequence in self.running if sequence.to_compute == 0]
        ending = [sequence for sequence, tokens in chunks.items() if tokens == sequence.to_compute]
        context = sum(sequence.context_tokens for sequence in decoding)
        duration = prefill_ms(self._settings, sum(chunks.values())) + decode_ms(self._settings, len(decoding), context)
        return Step(duration, chunks, (*decoding, *ending))

    def finish_step(self, step: Step) -> list[Sequence]:
        """Book what `step` did; returns the sequences that got a token, those that are gone excepted."""
        for sequence, tokens in step.chunks.items():
            sequence.to_compute -= tokens
        got_token = [sequence for sequence in step.yields if sequence in self.running]
        for sequence in got_token:
            sequence.produced += 1
            if sequence.is_finished:
                self.running.remove(sequence)
        return got_token

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._slots and self._has_room(self.waiting[0]):
            self.running.append(self.waiting.pop(0))

    def _has_room(self, sequence: Sequence) -> bool:
        return self.reserved_tokens + sequence.reserved_tokens <= self._settings.kv_tokens

    def _plan_chunks(self) -> dict[Sequence, int]:
        budget, chunks = self._step_tokens, {}
        for sequence in self.running:
            if (tokens := min(budget, sequence.to_compute)) > 0:
                chunks[sequence] = tokens
                budget -= tokens
        return chunks

"""The one form that every trace takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem_simulator.errors import TraceError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        arrival_s: seconds from the start of the trace; float64, ascending.
        input_tokens: prompt length; at least 1.
        output_tokens: answer length; at least 1.
        blocks: per request the ids of its prompt's 512-token blocks (equal ids = equal KV prefix); None if unknown.
        truncated: the file holds more than was taken.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    blocks: Sequence[Sequence[int]] | None = None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """From zero to the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def faster(self, speedup: float) -> "Trace":
        """The same requests in 1/speedup of the time."""
        return replace(self, arrival_s=self.arrival_s / speedup)

    def between(self, from_s: float, until_s: float) -> "Trace":
        """Arrivals of [from, until), with `from` as the new zero."""
        low, high = (int(np.searchsorted(self.arrival_s, at)) for at in (from_s, until_s))
        return self._take(slice(low, high), -from_s)

    def only(self, numbers: Ints) -> "Trace":
        """These requests alone, in order."""
        return replace(
            self,
            arrival_s=self.arrival_s[numbers],
            input_tokens=self.input_tokens[numbers],
            output_tokens=self.output_tokens[numbers],
            blocks=None if self.blocks is None else [self.blocks[number] for number in numbers.tolist()],
        )

    def _take(self, part: slice, shift_s: float) -> "Trace":
        return replace(
            self,
            arrival_s=self.arrival_s[part] + shift_s,
            input_tokens=self.input_tokens[part],
            output_tokens=self.output_tokens[part],
            blocks=None if self.blocks is None else self.blocks[part],
        )

    def superposed(self, copies: int, seed: int, jitter_s: float = 5.0) -> "Trace":
        """`copies` times the traffic: each copy shifted by up to `jitter_s` per request.

        Prefix blocks of a copy are its own, so that copying adds no hits.
        """
        rng = np.random.default_rng(seed)
        count = len(self)
        times = np.concatenate([self.arrival_s, *(self._jittered(rng, jitter_s) for _ in range(copies - 1))])
        order = np.argsort(times, kind="stable")
        blocks = None
        if self.blocks is not None:
            widest = 1 + max((max(ids, default=0) for ids in self.blocks), default=0)
            blocks = [[one + widest * (i // count) for one in self.blocks[i % count]] for i in order.tolist()]
        return Trace(
            times[order],
            np.tile(self.input_tokens, copies)[order],
            np.tile(self.output_tokens, copies)[order],
            blocks,
            self.truncated,
        )

    def _jittered(self, rng: np.random.Generator, jitter_s: float) -> Floats:
        shifted = self.arrival_s + rng.uniform(-jitter_s, jitter_s, len(self))
        return np.clip(shifted, 0.0, self.span_s)


def build_trace(
    arrival_s: Floats, input_tokens: Ints, output_tokens: Ints, blocks: Sequence[Sequence[int]] | None, source: str
) -> Trace:
    """Sort and check.

    Raises:
        TraceError: empty, or a number that cannot be.
    """
    if len(arrival_s) == 0:
        raise TraceError(f"{source}: no request in it; check the file, --from-s and --duration-s")
    if not np.all(np.isfinite(arrival_s)):
        raise TraceError(f"{source}: an arrival time is not finite")
    for name, values in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if np.any(values < 0):
            row = int(np.argmax(values < 0)) + 1
            raise TraceError(f"{source}: {name} is negative in request {row}; give whole numbers of zero or more")
    order = np.argsort(arrival_s, kind="stable")
    ordered = arrival_s[order] - min(0.0, float(arrival_s.min()))
    return Trace(
        ordered,
        np.maximum(input_tokens[order], 1),
        np.maximum(output_tokens[order], 1),
        None if blocks is None else [blocks[i] for i in order.tolist()],
    )

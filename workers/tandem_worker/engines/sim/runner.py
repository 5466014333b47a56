"""Drives the batch through time and hands each sequence its tokens."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from tandem_worker.engines.sim.batch import Batch, Sequence


class Runner:
    """One loop; idle when there is nothing to do.

    Args:
        speed: modelled milliseconds that pass in one real one.
        refresh: called before each step, to tell the batch how much KV leases hold.
    """

    def __init__(self, batch: Batch, speed: float, refresh: Callable[[], None]) -> None:
        self._batch = batch
        self._speed = speed
        self._refresh = refresh
        self._work = asyncio.Event()
        self._tokens: dict[Sequence, asyncio.Queue[int]] = {}

    async def run(self) -> None:
        """Step for ever."""
        while True:
            self._refresh()
            step = self._batch.plan_step()
            if step is None:
                await self._wait_for_work()
                continue
            await asyncio.sleep(step.duration_ms / 1000 / self._speed)
            for sequence in self._batch.finish_step(step):
                self._tokens[sequence].put_nowait(sequence.produced)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[int]:
        """Yields 1, 2, … as the tokens of `sequence` are made. Leaving early aborts it."""
        self._tokens[sequence] = asyncio.Queue()
        self._batch.add(sequence)
        self._work.set()
        try:
            for _ in range(sequence.max_tokens):
                yield await self._tokens[sequence].get()
        finally:
            self._batch.remove(sequence)
            del self._tokens[sequence]
            self._work.set()

    async def _wait_for_work(self) -> None:
        """New work wakes us; so does the clock, because a lease that ends may make room for what waits."""
        self._work.clear()
        if self._batch.waiting:
            await asyncio.sleep(0.01)
        else:
            await self._work.wait()

"""Holds requests until a worker can start them: one bounded queue per fleet, earliest deadline first."""

import asyncio
import math
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tandem_router.errors import OverloadedError, RequestError, UnavailableError

MAX_RETRY_AFTER_S = 60


class Releasable(Protocol):
    """A claim on workers that must be given back."""

    def release(self) -> None:
        """Give it back; more than once does nothing more."""


P = TypeVar("P", bound=Releasable)


@dataclass(order=True, slots=True)
class _Waiter(Generic[P]):
    deadline_s: float
    order: int
    is_retry: bool = field(compare=False)
    place: Callable[[], P | None] = field(compare=False)
    placed: asyncio.Future[P] = field(compare=False)


class AdmissionQueue(Generic[P]):
    """Late binding: a request is given to a worker only when `place` finds one that can start it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiters: list[_Waiter[P]] = []
        self._order = 0
        self._finished = 0
        self._since_s: float | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    async def admit(
        self,
        place: Callable[[], P | None],
        *,
        deadline_s: float,
        timeout_s: float,
        can_serve: Callable[[], bool],
        is_retry: bool = False,
    ) -> P:
        """Wait for a placement, at most `timeout_s`.

        Args:
            place: tries to claim workers; None when all are busy or there are none yet. May raise RequestError.
            can_serve: there are workers at all.
            is_retry: workers have failed this request; it may wait for another while others are placed on those.

        Raises:
            OverloadedError: all workers stayed busy, or the queue is full.
            UnavailableError: no worker appeared.
        """
        if all(waiter.is_retry for waiter in self._waiters) and (claim := place()) is not None:
            return claim
        if len(self) >= self._limit:
            raise OverloadedError(
                "Too many requests are waiting.", code="queue_full", retry_after_s=self.retry_after_s()
            )
        self._order += 1
        placed: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(deadline_s, self._order, is_retry, place, placed)
        insort(self._waiters, waiter)
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await placed
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        except TimeoutError:
            self._leave(waiter)
            raise self._expired(timeout_s, can_serve()) from None

    def wake(self) -> None:
        """Capacity may have come free: place waiting requests in order, as many as fit."""
        still: list[_Waiter[P]] = []
        is_full = False
        for waiter in self._waiters:
            if is_full or not self._try_place(waiter):
                still.append(waiter)
                is_full = is_full or not waiter.is_retry
        self._waiters = still

    def _try_place(self, waiter: _Waiter[P]) -> bool:
        """Whether `waiter` need not wait any longer."""
        if waiter.placed.done():
            return True
        try:
            claim = waiter.place()
        except RequestError as error:
            waiter.placed.set_exception(error)
            return True
        if claim is not None:
            waiter.placed.set_result(claim)
        return claim is not None

    def count_finished(self, now_s: float) -> None:
        """A request ended: measures the drain rate."""
        if self._since_s is None or now_s - self._since_s > MAX_RETRY_AFTER_S:
            self._since_s, self._finished = now_s, 0
        self._finished += 1

    def retry_after_s(self) -> int:
        """Seconds until the queue of now has probably drained, from 1 to 60."""
        elapsed_s = MAX_RETRY_AFTER_S if self._since_s is None else asyncio.get_running_loop().time() - self._since_s
        if not self._finished or elapsed_s <= 0:
            return 1
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(len(self) * elapsed_s / self._finished)))

    def _leave(self, waiter: _Waiter[P]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        placed = waiter.placed
        if placed.done() and not placed.cancelled() and placed.exception() is None:
            placed.result().release()  # placed in the very moment in which the request was given up

    def _expired(self, timeout_s: float, can_serve: bool) -> RequestError:
        retry_after_s = self.retry_after_s()
        if can_serve:
            message = f"All workers stayed busy for {timeout_s:g} s."
            return OverloadedError(message, code="queue_timeout", retry_after_s=retry_after_s)
        message = f"No worker became ready within {timeout_s:g} s."
        return UnavailableError(message, code="no_workers", retry_after_s=retry_after_s)

"""Holds requests until a worker can start them: one bounded queue per fleet, in the order of `policy.waiting`."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tandem_router.errors import OverloadedError, RequestError, UnavailableError
from tandem_router.policy.drain_rate import DrainRate
from tandem_router.policy.waiting import WaitingLine


class Releasable(Protocol):
    """A claim on workers that must be given back."""

    def release(self) -> None:
        """Give it back; more than once does nothing more."""


P = TypeVar("P", bound=Releasable)
LOOK_AHEAD = 15  # requests that may pass one that waits for the worker it prefers


@dataclass(frozen=True, slots=True)
class Wish:
    """What decides when a request may start. Times are of the loop's clock.

    Attributes:
        tokens: prompt tokens that it wants computed.
        cached_tokens: those that a prefix hit saves.
        latest_start_s, target_s: see `tandem_core.discipline`.
        tenant, priority: who asks, and of which class; higher classes first.
        weight: the tenant's fair share beside others of its class.
        is_retry: workers have failed it; it may wait for another one while others are placed on those.
        blocked_on: role of the worker that it waits for.
        may_leave: it can be served elsewhere; see `AdmissionQueue.send_away`.
    """

    tokens: int
    latest_start_s: float
    target_s: float
    cached_tokens: int = 0
    tenant: str = ""
    priority: int = 0
    weight: float = 1.0
    is_retry: bool = False
    blocked_on: Callable[[], str | None] = lambda: None
    may_leave: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request may wait, and what is to be said then.

    Attributes:
        timeout_s: the longest wait.
        can_serve: whether there are workers at all.
        retry_after_s: when a fleet without workers may have some; None: by the drain rate.
    """

    timeout_s: float
    can_serve: Callable[[], bool]
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait in one fleet's queue."""

    requests: int = 1024
    tokens: int = 8_000_000


@dataclass(eq=False, slots=True)
class _Waiter(Generic[P]):
    wish: Wish
    place: Callable[[], P | None]
    placed: asyncio.Future[P]

    @property
    def tenant(self) -> str:
        return self.wish.tenant

    @property
    def priority(self) -> int:
        return self.wish.priority

    @property
    def tokens(self) -> int:
        return self.wish.tokens

    @property
    def latest_start_s(self) -> float:
        return self.wish.latest_start_s

    @property
    def target_s(self) -> float:
        return self.wish.target_s


class AdmissionQueue(Generic[P]):
    """Late binding: a request is given to a worker only when `place` finds one that can start it."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._line: WaitingLine[_Waiter[P]] = WaitingLine()
        self._retries: list[_Waiter[P]] = []
        self._drain = DrainRate()

    def __len__(self) -> int:
        return len(self._line) + len(self._retries)

    def wishes(self) -> Iterable[Wish]:
        """Of all that wait."""
        return [waiter.wish for waiter in (*self._retries, *self._line)]

    def place_now(self, place: Callable[[], P | None], tenant: str, tokens: float) -> P | None:
        """Place a request that need not wait; None when nobody can start it, or others wait.

        Args:
            tokens: what its tenant is charged with.
        """
        claim = None if self._line else place()
        if claim is not None:
            self._line.charge(tenant, tokens)
        return claim

    async def admit(self, place: Callable[[], P | None], wish: Wish, patience: Patience) -> P:
        """Wait for a placement.

        Args:
            place: tries to claim workers; None when all are busy or there are none yet. May raise RequestError.

        Raises:
            OverloadedError: all workers stayed busy, or too many wait.
            UnavailableError: no worker appeared.
        """
        claim = self.place_now(place, wish.tenant, wish.tokens / wish.weight)
        if claim is not None:
            return claim
        waiter = self._join(place, wish)
        self.wake()
        try:
            async with asyncio.timeout(patience.timeout_s):
                return await waiter.placed
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        except TimeoutError:
            self._leave(waiter)
            raise self._expired(patience) from None

    def wake(self) -> None:
        """Capacity may have come free: place waiting requests in order, as many as fit."""
        if self._retries:
            self._retries = [waiter for waiter in self._retries if not self._try_place(waiter)]
        line = self._line
        while line:
            waiter = line.first(asyncio.get_running_loop().time())
            if not self._try_place(waiter):
                break
            line.remove(waiter)
        if line and waiter.wish.blocked_on() == "affinity":
            self._place_others()

    def _place_others(self) -> None:
        """The first prefers a worker that is busy: those after it may have the ones that are free."""
        for waiter in self._line.after_first(LOOK_AHEAD):
            if self._try_place(waiter):
                self._line.remove(waiter)
            elif waiter.wish.blocked_on() != "affinity":
                return

    def send_away(self, error: RequestError) -> None:
        """There is nobody left to wait for: those that can be served elsewhere end their wait with `error`."""
        for waiter in [one for one in (*self._retries, *self._line) if one.wish.may_leave]:
            self._drop(waiter)
            if not waiter.placed.done():
                waiter.placed.set_exception(error)

    def count_finished(self, now_s: float) -> None:
        """A request ended: measures the drain rate."""
        self._drain.note_end(now_s)

    def retry_after_s(self) -> int:
        """Seconds until the queue of now has probably drained, from 1 to 60."""
        return self._drain.retry_after_s(len(self), asyncio.get_running_loop().time())

    def _join(self, place: Callable[[], P | None], wish: Wish) -> _Waiter[P]:
        waiter: _Waiter[P] = _Waiter(wish, place, asyncio.get_running_loop().create_future())
        if wish.is_retry:
            self._retries.append(waiter)
            return waiter
        while self._is_too_much(wish):
            victim = self._line.find_victim(waiter)
            if victim is waiter:
                raise self._too_many("Too many requests are waiting.")
            self._line.remove(victim)
            if not victim.placed.done():
                victim.placed.set_exception(self._too_many("Requests of a higher class, or of others, took its place."))
        self._line.push(waiter)
        return waiter

    def _is_too_much(self, wish: Wish) -> bool:
        limits = self._limits
        if len(self) >= limits.requests:
            return True
        return len(self._line) > 0 and self._line.tokens + wish.tokens > limits.tokens

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
            self._line.charge(waiter.wish.tenant, waiter.wish.tokens / waiter.wish.weight)
            waiter.placed.set_result(claim)
        return claim is not None

    def _drop(self, waiter: _Waiter[P]) -> None:
        self._line.remove(waiter)
        if waiter in self._retries:
            self._retries.remove(waiter)

    def _leave(self, waiter: _Waiter[P]) -> None:
        self._drop(waiter)
        placed = waiter.placed
        if placed.done() and not placed.cancelled() and placed.exception() is None:
            placed.result().release()  # placed in the very moment in which the request was given up

    def _too_many(self, message: str) -> RequestError:
        return OverloadedError(message, code="queue_full", retry_after_s=self.retry_after_s())

    def _expired(self, patience: Patience) -> RequestError:
        after_s = self.retry_after_s()
        if patience.can_serve():
            message = f"All workers stayed busy for {patience.timeout_s:g} s."
            return OverloadedError(message, code="queue_timeout", retry_after_s=after_s)
        message = f"No worker became ready within {patience.timeout_s:g} s."
        return UnavailableError(message, code="no_workers", retry_after_s=patience.retry_after_s or after_s)

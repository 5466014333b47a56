"""A second prefill of the same prompt, begun on another worker when the first is late: the first to end is taken."""

import asyncio
from collections.abc import Awaitable, Callable

from tandem_router.claims import Claim, Placement
from tandem_router.errors import RequestError
from tandem_router.legs import LegError, PrefillResult


class Hedge:
    """Beside the first leg, which runs in the task that makes this. Always `stop` it.

    Attributes:
        claim: on the second worker; None while it has not begun.
        result: what the second brought, if it was first.
    """

    def __init__(
        self, find: Callable[[], Claim | None], run: Callable[[Claim], Awaitable[PrefillResult]], wait_s: float | None
    ) -> None:
        """`find` claims another worker, if there is one to spare, after `wait_s`; None: never."""
        self._find, self._run = find, run
        self._loop = asyncio.get_running_loop()
        self._first = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        self._has_first_failed = False
        self._timer = None if wait_s is None else self._loop.call_later(wait_s, self._begin)
        self.claim: Claim | None = None
        self.result: PrefillResult | None = None

    def has_won(self) -> bool:
        """The first leg's task was cancelled by us and by nobody else: go on with the second's result.

        Call it once, where that task met the cancellation.
        """
        return self.result is not None and self._first is not None and self._first.uncancel() == 0

    async def outlives(self) -> bool:
        """The first leg has failed: whether the second, if there is one, brings a result after all."""
        self._has_first_failed = True
        if self._task is not None:
            await self._task
        return self.result is not None

    def take(self, placement: Placement) -> PrefillResult:
        """The second has won: its worker takes the place of the first's."""
        assert self.result is not None, "it has won"
        placement.replace_prefill(self.claim, placement.reason)
        return self.result

    def stop(self) -> None:
        """The race is over; a second leg that has not ended is cancelled, and one that lost gives its worker back."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self.claim is not None and self.result is None:
            self.claim.release()

    def _begin(self) -> None:
        self.claim = self._find()
        if self.claim is not None:
            self._task = self._loop.create_task(self._race(self.claim))

    async def _race(self, claim: Claim) -> None:
        try:
            self.result = await self._run(claim)
        except (LegError, RequestError):
            return  # the first goes on; who runs the legs has charged this one
        if not self._has_first_failed and self._first is not None:
            self._first.cancel()

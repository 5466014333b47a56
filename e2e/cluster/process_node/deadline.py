"""A point in time that may move while others wait for it: the end of a grace period."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any


class Deadline:
    def __init__(self) -> None:
        self._at_s = math.inf
        self._moved = asyncio.Event()

    def shorten_to(self, from_now_s: float) -> None:
        self._move(min(self._at_s, self._now_s() + from_now_s))

    def leave_at_least(self, from_now_s: float) -> None:
        self._move(max(self._at_s, self._now_s() + from_now_s))

    async def passed(self) -> None:
        while (left_s := self._at_s - self._now_s()) > 0:
            self._moved.clear()
            try:
                async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def cuts(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Runs work until it ends or the deadline passes, which cancels it; whether it was cut."""
        task, end = asyncio.create_task(work), asyncio.create_task(self.passed())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return False
            return True
        finally:
            for other in (task, end):
                other.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    def _move(self, at_s: float) -> None:
        self._at_s = at_s
        self._moved.set()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

"""Keys wait, are processed one at a time each, and come back later and later when they fail."""

from __future__ import annotations

import asyncio

import pytest

from tandem_operator.workqueue import LAST_DELAY_S, WorkQueue


async def test_a_key_that_is_added_often_is_given_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(100):
        queue.add("a")
    assert queue.depth == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.depth == 0


async def test_a_key_that_changes_while_in_work_is_given_out_once_more_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    for _ in range(100):
        queue.add("a")
    assert queue.depth == 0
    queue.done("a")
    assert queue.depth == 1
    assert await queue.get() == "a"


async def test_a_waiting_worker_wakes_up() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


async def test_failures_double_the_delay_up_to_a_limit_and_success_forgets() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == LAST_DELAY_S
    queue.forget("a")
    assert queue.retry("a") == pytest.approx(0.2)
    queue.close()


async def test_a_server_that_wants_to_be_left_alone_is_heard() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.retry("a", 7.0) == 7.0
    assert queue.retry("a", 0.1) == pytest.approx(0.4)
    queue.close()


async def test_of_several_timers_the_earliest_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 30)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    queue.done("a")
    queue.close()
    await asyncio.sleep(0.02)
    assert queue.depth == 0

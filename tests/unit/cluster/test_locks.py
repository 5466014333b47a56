"""Locks exclude one another, also when their file is removed meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.locks import exclusive_lock


def test_a_second_holder_waits_and_is_told(tmp_path: Path) -> None:
    """People see why nothing happens."""
    path, waiting, order = tmp_path / "lock", threading.Event(), list[str]()

    def hold_second() -> None:
        with exclusive_lock(path, waiting.set):
            order.append("second")

    with ThreadPoolExecutor() as pool:
        with exclusive_lock(path):
            second = pool.submit(hold_second)
            assert waiting.wait(5)
            order.append("first")
        second.result(5)
    assert order == ["first", "second"]


def test_a_removed_lock_still_excludes(tmp_path: Path) -> None:
    """Holders that remove the file on their way out never let two in at once."""
    path, inside, worst = tmp_path / "lock", list[int](), list[int]()

    def hold(number: int) -> None:
        with exclusive_lock(path):
            inside.append(number)
            worst.append(len(inside))
            inside.remove(number)
            path.unlink()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(200)))
    assert max(worst) == 1
    assert len(worst) == 200
    assert not path.exists()

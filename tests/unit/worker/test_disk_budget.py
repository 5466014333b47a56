"""Offloaded KV on disk stays within its size."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.kv_offload import disk_budget
from tandem_worker.kv_offload.disk_budget import LOW_WATER, KVFile, apply_budget, plan_evictions, watch_disk

FILES = st.lists(
    st.builds(KVFile, st.uuids().map(str), st.integers(1, 1000), st.floats(0, 1e9, allow_nan=False)),
    unique_by=lambda file: file.path,
)


@given(FILES, st.integers(1, 20_000))
def test_what_stays_fits_and_was_used_after_what_goes(files: list[KVFile], budget_bytes: int) -> None:
    chosen = plan_evictions(files, budget_bytes)
    kept = [file for file in files if file not in chosen]
    assert sum(file.size_bytes for file in kept) <= budget_bytes
    assert all(gone.used_s <= stays.used_s for gone in chosen for stays in kept)
    if chosen:  # the last one was still needed
        kept_before = sum(file.size_bytes for file in kept) + chosen[-1].size_bytes
        assert kept_before > int(budget_bytes * LOW_WATER) - 1


def test_files_are_deleted_oldest_first_and_unfinished_ones_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model_r0" / "abc"
    folder.mkdir(parents=True)
    for number in range(10):
        path = folder / f"{number}.bin"
        path.write_bytes(b"x" * 8192)
        os.utime(path, (number, number))
    (folder / "9.bin.tmp").write_bytes(b"x" * 8192)
    assert apply_budget(tmp_path, 4 * 8192) == 7 * 8192
    assert sorted(path.name for path in folder.iterdir()) == ["7.bin", "8.bin", "9.bin", "9.bin.tmp"]
    assert apply_budget(tmp_path, 4 * 8192) == 0


def count_files(directory: Path) -> int:
    return len(list(directory.iterdir()))


async def test_the_watch_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_budget, "INTERVAL_S", 0.01)
    watch = asyncio.create_task(watch_disk(tmp_path, 8192))
    for _ in range(2):
        for number in range(3):
            (tmp_path / f"{number}.bin").write_bytes(b"x" * 8192)
        for _ in range(500):
            if count_files(tmp_path) < 2:
                break
            await asyncio.sleep(0.01)
        assert count_files(tmp_path) < 2
    watch.cancel()


def test_a_directory_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert apply_budget(tmp_path / "later", 1) == 0

"""Keeps offloaded KV on disk within its size: vLLM writes a file per block and never deletes one."""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
BUSY_SHARE = 0.05  # of a core, at most: looking at a hundred thousand files takes a second
LOW_WATER = 0.9  # delete down to this share, so that deleting is not all that we do
_FINISHED = ".bin"  # others are being written


@dataclass(frozen=True, slots=True)
class KVFile:
    """One offloaded block. `used_s`: when it was last written or read."""

    path: str
    size_bytes: int
    used_s: float


def plan_evictions(files: Sequence[KVFile], budget_bytes: int) -> list[KVFile]:
    """What to delete: the longest unused, until LOW_WATER of the budget is left; nothing while all fits."""
    excess_bytes = sum(file.size_bytes for file in files) - budget_bytes
    if excess_bytes <= 0:
        return []
    excess_bytes += int(budget_bytes * (1 - LOW_WATER))
    chosen: list[KVFile] = []
    for file in sorted(files, key=lambda file: file.used_s):
        if excess_bytes <= 0:
            break
        chosen.append(file)
        excess_bytes -= file.size_bytes
    return chosen


async def watch_disk(directory: Path, budget_bytes: int) -> None:
    """For ever. A block that is deleted while vLLM wants it is a miss to vLLM, and computed again."""
    took_s = 0.0
    while True:
        await asyncio.sleep(max(INTERVAL_S, took_s / BUSY_SHARE))
        began_s = time.monotonic()
        await asyncio.to_thread(apply_budget, directory, budget_bytes)
        took_s = time.monotonic() - began_s


def apply_budget(directory: Path, budget_bytes: int) -> int:
    """Delete what is too much; returns the bytes that were freed."""
    chosen = plan_evictions(list(_find_files(directory)), budget_bytes)
    freed_bytes = sum(file.size_bytes for file in chosen if _delete(file))
    if freed_bytes:
        log.info("deleted %d MiB of offloaded KV from %s", freed_bytes >> 20, directory)
    return freed_bytes


def _find_files(directory: Path) -> Iterator[KVFile]:
    for folder, _, names in os.walk(directory):
        yield from _look_at(folder, (name for name in names if name.endswith(_FINISHED)))


def _look_at(folder: str, names: Iterable[str]) -> Iterator[KVFile]:
    for name in names:
        path = os.path.join(folder, name)
        try:
            status = os.stat(path)
        except OSError:
            continue  # deleted meanwhile
        yield KVFile(path, status.st_blocks * 512, max(status.st_atime, status.st_mtime))


def _delete(file: KVFile) -> bool:
    try:
        os.unlink(file.path)
    except OSError as error:
        log.warning("offloaded KV stays: %s", error)
        return False
    return True

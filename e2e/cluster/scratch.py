"""Where Go compiles: in memory where there is plenty, because it reads again and again what it has just written.

On a virtual machine that gives its page cache back to the host, compilers waited for the disk a third of the time.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.places import SHARED_MEMORY

PREFIX = "tandem-go-"
NEEDED_BYTES = 10 << 30  # all four families leave 8.2 GiB there before it is removed
SPARE_BYTES = 16 << 30  # of all memory: compilers, linkers and what else the machine does want theirs
MEMINFO = Path("/proc/meminfo")


@contextmanager
def go_scratch(memory: Path = SHARED_MEMORY) -> Iterator[Mapping[str, str]]:
    """Environment variables for Go while the block runs; none where its own places have to do."""
    if not has_room(memory):
        yield {}
        return
    remove_abandoned(memory)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=memory) as folder:
        places = {"GOCACHE": Path(folder, "cache"), "GOTMPDIR": Path(folder, "tmp")}
        for place in places.values():
            place.mkdir()
        yield {name: str(place) for name, place in places.items()}


def has_room(memory: Path, meminfo: Path = MEMINFO) -> bool:
    """Whether a whole build fits into memory with room to spare."""
    if not memory.is_dir() or not meminfo.is_file() or shutil.disk_usage(memory).free < NEEDED_BYTES:
        return False
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return found is not None and int(found[1]) * 1024 >= SPARE_BYTES


def remove_abandoned(memory: Path) -> None:
    """What builds that were killed have left; memory is too dear to wait for a reboot."""
    for folder in memory.glob(f"{PREFIX}*-*"):
        if not Path("/proc", folder.name.removeprefix(PREFIX).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)

"""The fake libnccl and libcudart of fake_gpu.c: how they are built and asked."""

import ctypes
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_gpu.c")


def find_compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_fake(compiler: str, directory: Path) -> Path:
    """Compile once; a second in all."""
    library = directory / "libfake_gpu.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE), "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Ledger:
    """What the library counts in this process."""

    def __init__(self, path: Path) -> None:
        """Violations of before are forgotten."""
        self._library = ctypes.CDLL(str(path))
        self._library.fakeForgetViolations()
        self._library.fakeViolations.restype = ctypes.c_char_p
        self._library.fakeLongestLonelyMs.restype = ctypes.c_long

    @property
    def violations(self) -> str:
        return str(self._library.fakeViolations().decode())

    @property
    def longest_lonely_ms(self) -> int:
        """Longest that a kernel of a chunk that did arrive had to wait for its peer's."""
        return int(self._library.fakeLongestLonelyMs())

    @property
    def communicators(self) -> int:
        return int(self._library.fakeLiveComms())

    @property
    def pending_copies(self) -> int:
        """Enqueued, and not done."""
        return int(self._library.fakePendingCopies())

    @property
    def kernels_done(self) -> int:
        return int(self._library.fakeKernelsDone())

    @property
    def held(self) -> tuple[int, int, int, int]:
        """Communicators, allocations, streams and events that were made and not given back."""
        library = self._library
        return (
            library.fakeLiveComms(),
            library.fakeLiveMemory(),
            library.fakeLiveStreams(),
            library.fakeLiveEvents(),
        )

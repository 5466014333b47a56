"""Where everything of a node and of a pod lies on disk.

ROOT/pods/UID/           pids/CONTAINER, c/CONTAINER/{N.log, home, tmp, work, termination-log}, v/VOLUME
/dev/shm/tn-HASH/UID8/   volumes of medium Memory
/tmp/tn-HASH/UID8        link to ROOT/pods/UID: what programs are given. A socket's path may have 107
                         characters, and engines put sockets with long names into TMPDIR and mounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MEMORY_FILE_SYSTEM = Path("/dev/shm")
_SHORT_FOLDER = Path("/tmp")


class FolderError(Exception):
    """A folder of the node that somebody else holds."""


@dataclass(frozen=True)
class NodeFolders:
    """`root` is absolute and resolved: it is also the mark by which processes are found again."""

    root: Path

    @property
    def pods(self) -> Path:
        return self.root / "pods"

    @property
    def memory(self) -> Path:
        return _MEMORY_FILE_SYSTEM / self._name

    @property
    def short(self) -> Path:
        return _SHORT_FOLDER / self._name

    def make(self) -> None:
        """Raises FolderError when the short folder, whose name can be guessed, is another user's."""
        for folder in (self.root, self.pods, self.memory, self.short):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                raise FolderError(f"{folder} belongs to someone else: remove it, or choose another --root")

    def pod(self, uid: str) -> PodFolders:
        return PodFolders(self.pods / uid, self.memory / uid[:8], self.short / uid[:8])

    def remove(self) -> None:
        remove_tree(self.pods)
        self.remove_outside_root()

    def remove_outside_root(self) -> None:
        for folder in (self.memory, self.short):
            remove_tree(folder)

    @property
    def _name(self) -> str:
        return "tn-" + hashlib.sha256(str(self.root).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class PodFolders:
    base: Path
    memory: Path
    short: Path

    @property
    def volumes(self) -> Path:
        return self.base / "v"

    def make(self) -> None:
        self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.short.is_symlink():
            self.short.symlink_to(self.base)

    def seen_by_programs(self, path: Path) -> Path:
        """The short name of a path below the pod's folder."""
        return self.short / path.relative_to(self.base)

    def container(self, name: str) -> Path:
        return self.base / "c" / name

    def log(self, container: str, run: int) -> Path:
        return self.container(container) / f"{run}.log"

    def pid_file(self, container: str) -> Path:
        return self.base / "pids" / container

    def runs(self, container: str) -> list[int]:
        """Numbers of the runs whose logs are kept, oldest first."""
        return sorted(int(file.stem) for file in self.container(container).glob("*.log"))

    def remove(self) -> None:
        self.short.unlink(missing_ok=True)
        remove_tree(self.memory)
        remove_tree(self.base)


def remove_tree(folder: Path) -> None:
    """Removes a folder, also where a pod took away the right to write; no error if there is none."""

    def allow_and_retry(function: Callable[[str], object], path: str, _: object) -> None:
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it, too
            Path(path).parent.chmod(0o700)
            function(path)

    if os.path.lexists(folder):
        shutil.rmtree(folder, onerror=allow_and_retry)

"""Where everything lies: the cache of built programs, and one run folder per cluster."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
SHARED_MEMORY = Path("/dev/shm")
# etcd preallocates 64 MiB segments; containers often give /dev/shm only 64 MiB in all.
SHARED_MEMORY_NEEDED_BYTES = 1 << 30


@dataclass(frozen=True)
class RunFolder:
    """All that one cluster keeps on disk; the path itself marks its processes (see :mod:`cluster.processes`)."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def keys(self) -> Path:
        return self.path / "pki"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens.csv"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def pids(self) -> Path:
        return self.path / "pids"

    @property
    def programs(self) -> Path:
        return self.path / "bin"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.jsonl"

    @property
    def image_table(self) -> Path:
        return self.path / "images.json"

    @property
    def memory(self) -> Path:
        """Folder in shared memory, found from the path alone so that teardown needs no record of it."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return SHARED_MEMORY / f"tandem-{os.getuid()}-{digest}"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def kubeconfig(self, identity: str) -> Path:
        return self.path / f"{identity}.kubeconfig"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    def node(self, node_name: str) -> Path:
        return self.nodes / node_name

    def choose_etcd_data(self) -> Path:
        """Shared memory where there is room (no disk flushes at all), else the run folder."""
        if os.access(SHARED_MEMORY, os.W_OK) and (shutil.disk_usage(SHARED_MEMORY).free >= SHARED_MEMORY_NEEDED_BYTES):
            return self.memory / "etcd"
        return self.path / "etcd"


@dataclass(frozen=True)
class Places:
    """Folders below one cache root."""

    cache: Path

    @property
    def binaries(self) -> Path:
        return self.cache / "cluster"

    @property
    def runs(self) -> Path:
        return self.cache / "run"

    def run(self, name: str) -> RunFolder:
        """The folder of one cluster. Raises ClusterError for a name that could lead elsewhere."""
        if not NAME.fullmatch(name):
            raise ClusterError(
                f"name: {name!r} is not usable",
                "take at most 30 lower-case letters, digits and inner dashes",
            )
        return RunFolder(self.runs / name)

    def lock(self, name: str) -> Path:
        return self.runs / f".{name}.lock"


def places_from_environment(environment: Mapping[str, str]) -> Places:
    """``$TANDEM_CACHE``, else ``$XDG_CACHE_HOME/tandem``, else ``~/.cache/tandem``.

    Links are resolved, because run folders mark processes and two spellings of one would not match.
    """
    if chosen := environment.get("TANDEM_CACHE"):
        return Places(Path(chosen).resolve())
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Places((Path(base) / "tandem").resolve())

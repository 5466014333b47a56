"""Give each process node a /24 of 127.0.0.0/8 that no other cluster on this machine uses.

A claim is a file named after the subnet, created exclusively in a folder that all users share; it
names the run folder that holds it. A claim whose run folder is gone may be taken over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from cluster.errors import ClusterError
from cluster.locks import exclusive_lock
from cluster.places import RunFolder

# 127.0.x.y is left to everything else that lives on loopback.
FIRST, LAST = 1, 254


def find_claims_folder() -> Path:
    """One folder for the whole machine: two users' clusters share the loopback interface too."""
    return Path(tempfile.gettempdir()) / "tandem-subnets"


def claim_subnets(run: RunFolder, count: int, claims: Path) -> list[str]:
    """Claim ``count`` subnets as ``127.A.B.0/24`` for this run. Raises ClusterError when none is left."""
    open_to_all(claims)
    with exclusive_lock(claims / f".lock-{os.getuid()}"):
        free = (subnet for subnet in subnet_names() if claim(claims / subnet, run))
        taken = [f"{subnet}.0/24" for subnet in islice(free, count)]
    if len(taken) < count:
        raise ClusterError("no loopback subnet is left", f"remove stale claims from {claims}")
    return taken


def release_subnets(run: RunFolder, claims: Path) -> None:
    """Give back what this run holds."""
    for file in claims.glob("127.*"):
        if read_holder(file) == run.path:
            file.unlink(missing_ok=True)


def subnet_names() -> Iterator[str]:
    return (f"127.{second}.{third}" for second in range(FIRST, LAST + 1) for third in range(LAST + 1))


def claim(file: Path, run: RunFolder) -> bool:
    """Take one subnet; True when it is ours now."""
    drop_if_stale(file)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except (FileExistsError, PermissionError):
        return False
    with os.fdopen(descriptor, "w") as claimed:
        claimed.write(str(run.path))
    return True


def drop_if_stale(file: Path) -> None:
    """Remove a claim of a run that is gone; other users' claims cannot be removed, and stay."""
    holder = read_holder(file)
    if holder and not holder.exists():
        with suppress(PermissionError, FileNotFoundError):
            file.unlink()


def read_holder(file: Path) -> Path | None:
    try:
        return Path(file.read_text())
    except (FileNotFoundError, PermissionError):
        return None


def open_to_all(claims: Path) -> None:
    with suppress(FileExistsError):
        claims.mkdir()
        claims.chmod(0o1777)

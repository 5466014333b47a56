"""Files of a ConfigMap, Secret or projected volume, replaced all at once like the kubelet does.

VOLUME/..data is a link to a folder named by time; VOLUME/NAME is a link to ..data/NAME. A reader sees
all old or all new files, and one who watches the folder sees ..data change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

_DATA = "..data"


@dataclass(frozen=True)
class FileContent:
    data: bytes
    mode: int


Payload = Mapping[str, FileContent]
"""Relative path -> content."""


def write_payload(volume: Path, payload: Payload, now: datetime) -> bool:
    """Makes the folder hold exactly this payload; returns whether anything had to change."""
    volume.mkdir(parents=True, exist_ok=True)
    before = _current(volume)
    if before is not None and _read(before) == dict(payload):
        return False
    fresh = volume / now.strftime("..%Y_%m_%d_%H_%M_%S.%f")
    _write(fresh, payload)
    _point(volume, fresh.name)
    _link_names(volume, {PurePosixPath(path).parts[0] for path in payload})
    if before is not None:
        shutil.rmtree(before)
    return True


def _current(volume: Path) -> Path | None:
    link = volume / _DATA
    return volume / os.readlink(link) if link.is_symlink() else None


def _read(folder: Path) -> dict[str, FileContent]:
    return {
        str(file.relative_to(folder)): FileContent(file.read_bytes(), file.stat().st_mode & 0o777)
        for file in folder.rglob("*")
        if file.is_file()
    }


def _write(folder: Path, payload: Payload) -> None:
    folder.mkdir(mode=0o755)
    for path, content in payload.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.data)
        file.chmod(content.mode)


def _point(volume: Path, name: str) -> None:
    staged = volume / "..data_tmp"
    staged.unlink(missing_ok=True)
    staged.symlink_to(name)
    staged.replace(volume / _DATA)


def _link_names(volume: Path, names: set[str]) -> None:
    for name in names:
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"{_DATA}/{name}")
    for entry in volume.iterdir():
        if entry.name not in names and not entry.name.startswith(".."):
            entry.unlink()

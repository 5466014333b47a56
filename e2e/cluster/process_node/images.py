"""Images without images: a table maps an image name to a virtual environment.

The file is JSON: {"NAME": {"venv": "/path", "env": {"A": "b"}, "entrypoint": ["python", "-m", "x"]}};
`env` and `entrypoint` are optional. It is read anew at every look-up, so a name can be added later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ImageError(Exception):
    """An image that the table does not have, or whose entry is wrong."""


@dataclass(frozen=True)
class Image:
    name: str
    venv: Path
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()

    @property
    def search_path(self) -> str:
        return f"{self.venv / 'bin'}:/usr/bin:/bin"


@dataclass(frozen=True)
class ImageTable:
    file: Path

    def find(self, name: str) -> Image:
        """The image of this name. Raises ImageError."""
        entries = self._read()
        if name not in entries:
            known = ", ".join(sorted(entries)) or "none"
            raise ImageError(f"image {name!r} is not in the image table {self.file}; it has: {known}")
        return parse_image(name, entries[name])

    def check(self) -> None:
        """Raises ImageError for the first entry that is wrong."""
        for name, entry in self._read().items():
            parse_image(name, entry)

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.file.read_text())
        except (OSError, ValueError) as error:
            raise ImageError(f"image table {self.file} cannot be read: {error}") from error
        if not isinstance(entries, dict):
            raise ImageError(f"image table {self.file} must be one JSON object: image name -> entry")
        return entries


def parse_image(name: str, entry: Any) -> Image:
    """One entry of the table. Raises ImageError naming the field."""
    if not isinstance(entry, dict) or not isinstance(entry.get("venv"), str):
        raise ImageError(f"image {name!r}: needs a field venv, the path of a virtual environment")
    unknown = set(entry) - {"venv", "env", "entrypoint"}
    if unknown:
        raise ImageError(f"image {name!r}: unknown field {min(unknown)!r}; known: venv, env, entrypoint")
    env, entrypoint = entry.get("env", {}), entry.get("entrypoint", [])
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ImageError(f"image {name!r}: env must map names to strings")
    if not isinstance(entrypoint, list) or not all(isinstance(word, str) for word in entrypoint):
        raise ImageError(f"image {name!r}: entrypoint must be a list of strings")
    venv = Path(entry["venv"])
    if not (venv / "bin").is_dir():
        raise ImageError(f"image {name!r}: {venv} is no virtual environment (it has no bin folder)")
    return Image(name, venv, env, tuple(entrypoint))

"""Mount paths without mount namespaces: rewriting them inside texts. Pure.

A container believes that /models is a mount. Here it is some folder of the pod, so wherever the pod's
author wrote /models (a flag, a list such as /a:/b, JSON, a shell line) the real folder is put instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

# A path starts where no longer path, word or substitution can still be going on ("x/models" and
# "$(ROOT)/models" name something else), or right after "file://".
_STARTS = r"(?:(?<![\w.\-/~)}])|(?<=file://))"
_ENDS = r"(?![\w.\-~+@%])"


class MountPathError(ValueError):
    """A volumeMount that cannot be mapped to a folder."""


@dataclass(frozen=True)
class PathMap:
    """Where each mount path of one container really is: absolute path -> absolute path."""

    real_paths: Mapping[str, str]

    def rewrite(self, text: str) -> str:
        """Text with every mount path replaced; each place is replaced once, the longest path wins."""
        if not self.real_paths:
            return text
        return self._pattern().sub(lambda found: self.real_paths[found.group()], text)

    def rewrite_all(self, texts: Iterable[str]) -> list[str]:
        return [self.rewrite(text) for text in texts]

    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.real_paths, key=len, reverse=True)
        return re.compile(_STARTS + "(?:" + "|".join(map(re.escape, longest_first)) + ")" + _ENDS)


def normal_mount_path(mount_path: str) -> str:
    """The mount path without trailing or doubled slashes. Raises MountPathError for "/" or a relative one."""
    path = PurePosixPath(mount_path)
    if not path.is_absolute() or len(path.parts) < 2 or ".." in path.parts:
        raise MountPathError(
            f"mountPath {mount_path!r} cannot be given to a local process: use an absolute path below /"
        )
    return "/" + "/".join(path.parts[1:])


def safe_sub_path(sub_path: str) -> PurePosixPath:
    """A subPath that stays inside its volume. Raises MountPathError."""
    path = PurePosixPath(sub_path)
    if path.is_absolute() or ".." in path.parts:
        raise MountPathError(f"subPath {sub_path!r} leaves its volume: it must be relative and without '..'")
    return path

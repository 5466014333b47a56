"""Who may call the engine: the bearer token of the fleet, mounted as files and rotated under us."""

import hmac
import os
from pathlib import Path

from tandem_api.conditions import Reason
from tandem_core.key_files import ENGINE_KEY_FILE, ENGINE_PREVIOUS_FILE
from tandem_worker.errors import WorkerError

_SCHEME = "bearer "

_Stamp = tuple[int, int, int]


class BearerKeys:
    """The current and the previous token in a directory, read again when a file changes.

    A directory that cannot be read holds no token: then nobody is let in.
    """

    def __init__(self, keys_dir: Path) -> None:
        self._paths = (keys_dir / ENGINE_KEY_FILE, keys_dir / ENGINE_PREVIOUS_FILE)
        self._stamps: tuple[_Stamp | None, ...] | None = None
        self._tokens: tuple[bytes, ...] = ()

    def is_authorized(self, authorization: str | None) -> bool:
        """Whether the value of an Authorization header carries one of the tokens. Takes equal time for each."""
        if not authorization or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        presented = authorization[len(_SCHEME) :].strip().encode()
        self._refresh()
        matches = [hmac.compare_digest(presented, token) for token in self._tokens]
        return any(matches)

    def fetch_current(self) -> str:
        """The token with which to call the engine.

        Raises:
            WorkerError: SecretMissing, when there is none.
        """
        path = self._paths[0]
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise _missing(path, str(error)) from error
        if not token:
            raise _missing(path, "it is empty")
        return token

    def _refresh(self) -> None:
        stamps = tuple(_stamp(path) for path in self._paths)
        if stamps != self._stamps:
            self._tokens = tuple(token for path in self._paths if (token := _read_token(path)))
            self._stamps = stamps


def _stamp(path: Path) -> _Stamp | None:
    """Changes when the kubelet swaps the directory behind a Secret's files, or somebody writes one in place."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_token(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError:
        return b""


def _missing(path: Path, why: str) -> WorkerError:
    return WorkerError(
        Reason.SECRET_MISSING,
        f"The fleet's key {path} cannot be used ({why}): check that Secret <fleet>-keys exists and holds {path.name}",
    )

"""Bearer tokens: what this router shows to engines, and what callers of its internal listener must show."""

import hmac
from pathlib import Path

from tandem_core.keys import (
    ROUTER_KEY_FILE,
    ROUTER_PREVIOUS_FILE,
    decode_key,
    derive_engine_token,
    derive_internal_token,
)
from tandem_router.snapshot import FleetSpec

_Stamp = tuple[int, int] | None


class KeyFileError(Exception):
    """The router key is missing or malformed; the message names the file and the fix."""


class KeyRing:
    """Tokens derived from the router key, and from another that is accepted too while keys are being rotated.

    Both are read again when a file changes.
    """

    def __init__(self, keys_dir: Path, *, required: bool) -> None:
        self._file, self._other_file = keys_dir / ROUTER_KEY_FILE, keys_dir / ROUTER_PREVIOUS_FILE
        self._required = required
        self._keys: tuple[bytes, ...] = ()  # the one that is used first
        self._stamps: tuple[_Stamp, _Stamp] = (None, None)
        self._engine_tokens: dict[str, tuple[str, ...]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the keys again if a file has changed. A key that vanished is kept; a previous one is not.

        Raises:
            KeyFileError: the file is missing although it is required, or holds no key.
        """
        stamps = _stamp(self._file), _stamp(self._other_file)
        if stamps[0] is None:
            if self._required and not self._keys:
                raise KeyFileError(
                    f"{self._file} is missing: mount the Secret tandem-router there, or name its place with --keys-dir"
                )
            return
        if stamps == self._stamps:
            return
        current = _read_key(self._file)
        other = _read_key(self._other_file) if _holds_text(self._other_file) else None
        self._keys = (current,) if other is None else (current, other)
        self._stamps = stamps
        self._engine_tokens.clear()

    def engine_tokens(self, fleet: FleetSpec) -> tuple[str | None, ...]:
        """Bearers for the engines of `fleet`, the usual one first; (None,) without a key (open engines).

        Raises:
            OSError: the token file that a static fleet names cannot be read.
        """
        if fleet.token_file is not None:
            return (Path(fleet.token_file).read_text().strip(),)
        if not self._keys:
            return (None,)
        tokens = self._engine_tokens.get(fleet.uid)
        if tokens is None:
            tokens = tuple(derive_engine_token(key, fleet.uid) for key in self._keys)
            self._engine_tokens[fleet.uid] = tokens
        return tokens

    @property
    def current(self) -> bytes | None:
        """The router key in use; None without one. Only to derive from."""
        return self._keys[0] if self._keys else None

    def internal_token(self) -> str | None:
        """What we show at internal listeners of other routers; None without a key."""
        return derive_internal_token(self._keys[0]) if self._keys else None

    def is_internal_token(self, shown: str) -> bool:
        """`shown` opens the internal listener; nothing does when there is no key. Compared in constant time."""
        return any([hmac.compare_digest(shown.encode(), derive_internal_token(key).encode()) for key in self._keys])


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


def _holds_text(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False


def _read_key(path: Path) -> bytes:
    try:
        return decode_key(path.read_text())
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path} holds no router key: {error}") from error

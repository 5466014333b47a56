"""The fleet's KV keys: two files that the operator may replace at any time."""

import base64
import binascii
import hashlib
import hmac
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

MIN_KEY_BYTES = 16


class KeyFileError(ValueError):
    """A key file is missing or malformed; the message names the file and what it must hold."""


class Signer(Protocol):
    """What the session layer needs of the keys."""

    def sign(self, message: bytes) -> tuple[str, str]:
        """Returns (key id, hexadecimal HMAC-SHA256)."""

    def is_authentic(self, message: bytes, mac: str) -> bool:
        """True when `mac` was made with the current key or the one before it."""


@dataclass(frozen=True)
class KeyRing:
    """The current key, its name, and the key before it, which still verifies."""

    kid: str
    current: bytes
    previous: bytes | None = None

    def sign(self, message: bytes) -> tuple[str, str]:
        return self.kid, _mac(self.current, message)

    def is_authentic(self, message: bytes, mac: str) -> bool:
        keys = (self.current, self.previous)
        return any([hmac.compare_digest(_mac(key, message), mac) for key in keys if key is not None])


def _mac(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()


class KeyFiles:
    """A Signer that re-reads the key files when they change, and keeps the last good keys when that fails."""

    def __init__(self, keys_dir: Path) -> None:
        self._dir = keys_dir
        self._stamp = self._read_stamp()
        self._ring = fetch_keys(keys_dir)

    def sign(self, message: bytes) -> tuple[str, str]:
        return self._fresh().sign(message)

    def is_authentic(self, message: bytes, mac: str) -> bool:
        return self._fresh().is_authentic(message, mac)

    def _fresh(self) -> KeyRing:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._ring = fetch_keys(self._dir)
            except KeyFileError as error:  # a rotation gone wrong must not end requests that are under way
                logger.error("the KV keys changed and cannot be read; the former ones stay in use: %s", error)
        return self._ring

    def _read_stamp(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(self._dir / name) for name in ("kv.key", "kv.previous", "kid"))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def fetch_keys(keys_dir: Path) -> KeyRing:
    """Raises KeyFileError."""
    current = _read_key(keys_dir / "kv.key")
    if current is None:
        raise KeyFileError(f"{keys_dir / 'kv.key'} is missing: mount the fleet's keys Secret there")
    kid_file = keys_dir / "kid"
    kid = kid_file.read_text().strip() if kid_file.exists() else hashlib.sha256(current).hexdigest()[:8]
    return KeyRing(kid, current, _read_key(keys_dir / "kv.previous"))


def _read_key(path: Path) -> bytes | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    if not text and path.name == "kv.previous":
        return None  # no key came before this one
    try:
        key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise KeyFileError(f"{path} must hold one key as base64url text") from error
    if len(key) < MIN_KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(key)} bytes; a key has at least {MIN_KEY_BYTES}")
    return key

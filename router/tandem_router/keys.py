"""Bearer tokens: what this router shows to engines, and what callers of its internal listener must show."""

import hmac
from pathlib import Path

from tandem_core.keys import ROUTER_KEY_FILE, decode_key, derive_engine_token, derive_internal_token
from tandem_router.snapshot import FleetSpec


class KeyFileError(Exception):
    """The router key is missing or malformed; the message names the file and the fix."""


class KeyRing:
    """Tokens derived from the router key; read again when the file changes."""

    def __init__(self, keys_dir: Path, *, required: bool) -> None:
        self._file = keys_dir / ROUTER_KEY_FILE
        self._required = required
        self._key: bytes | None = None
        self._stamp: tuple[int, int] | None = None
        self._engine_tokens: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the key again if its file has changed. A key that vanished is kept.

        Raises:
            KeyFileError: the file is missing although it is required, or holds no key.
        """
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return
            self._key = decode_key(self._file.read_text())
        except FileNotFoundError:
            if self._required and self._key is None:
                raise KeyFileError(
                    f"{self._file} is missing: mount the Secret tandem-router there, or name its place with --keys-dir"
                ) from None
            return
        except (OSError, ValueError) as error:
            raise KeyFileError(f"{self._file} holds no router key: {error}") from error
        self._stamp = stamp
        self._engine_tokens.clear()

    def engine_token(self, fleet: FleetSpec) -> str | None:
        """Bearer for the engines of `fleet`, None when there is no key (static fleets of open engines).

        Raises:
            OSError: the token file that a static fleet names cannot be read.
        """
        if fleet.token_file is not None:
            return Path(fleet.token_file).read_text().strip()
        if self._key is None:
            return None
        token = self._engine_tokens.get(fleet.uid)
        if token is None:
            token = self._engine_tokens[fleet.uid] = derive_engine_token(self._key, fleet.uid)
        return token

    def is_internal_token(self, shown: str) -> bool:
        """`shown` opens the internal listener; nothing does when there is no key. Compared in constant time."""
        if self._key is None:
            return False
        return hmac.compare_digest(shown.encode(), derive_internal_token(self._key).encode())

"""What regions show each other: bearer tokens and certificates, from files that are followed while we run."""

import hmac
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from tandem_router.http1.messages import Headers
from tandem_router.http1.tls import TlsFileError, build_client_context

LOG = logging.getLogger(__name__)
TOKEN_FILE = "token"  # noqa: S105 - the name of a file
CA_FILE = "ca.crt"
_Stamp = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """What we show where a peer's listener asks for a certificate."""

    certificate: Path
    key: Path


class AcceptedTokens:
    """Tokens that peers' routers may show at our region endpoints: one per line, so that they can be rotated.

    A file that is not there yet, or holds none, accepts nobody; one that goes away leaves the tokens as they were.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: _Stamp = None
        self._tokens: tuple[bytes, ...] = ()
        self.refresh()
        if path is not None and not self._tokens:
            LOG.warning("no other region is let in yet: %s holds no token; write one per line", path)

    @property
    def is_configured(self) -> bool:
        """There is a file of tokens."""
        return self._path is not None

    def accepts(self, shown: bytes) -> bool:
        """`shown` is one of them; compared in constant time."""
        return any([hmac.compare_digest(shown, token) for token in self._tokens])

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        stamp = None if self._path is None else _stamp(self._path)
        if self._path is None or stamp in (None, self._stamp):
            return
        try:
            self._tokens = tuple(self._path.read_bytes().split())
            self._stamp = stamp
        except OSError as error:
            LOG.error("region tokens kept as they were: %s: %s", self._path, error.strerror)


class PeerCredentials:
    """What is shown to one peer, and by what it is known: `token` and `ca.crt` in a directory of its name."""

    def __init__(self, folder: Path | None, own: OwnCertificate | None) -> None:
        self._folder, self._own = folder, own
        self._stamps: tuple[_Stamp, ...] = ()
        self.headers: Headers = []
        self.tls: ssl.SSLContext | None = None
        self.fault = ""

    def refresh(self) -> bool:
        """Read the files again if they have changed; whether they had. `fault` says what is wrong with them."""
        stamps = tuple(_stamp(file) for file in self._files())
        if self.tls is not None and stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self.headers, self.tls = self._read_token(), self._build_tls()
            self.fault = ""
        except (OSError, TlsFileError) as error:
            self.fault = str(error)
            LOG.error("credentials of a peer region not usable: %s", error)
        return True

    def _files(self) -> tuple[Path, ...]:
        own = () if self._own is None else (self._own.certificate, self._own.key)
        return own if self._folder is None else (self._folder / TOKEN_FILE, self._folder / CA_FILE, *own)

    def _read_token(self) -> Headers:
        if self._folder is None or not (self._folder / TOKEN_FILE).exists():
            return []
        shown = (self._folder / TOKEN_FILE).read_bytes().split()
        return [(b"Authorization", b"Bearer " + shown[0])] if shown else []

    def _build_tls(self) -> ssl.SSLContext:
        """Trusts the peer's own CA, or those of the system where none is given."""
        certificate, key = (None, None) if self._own is None else (self._own.certificate, self._own.key)
        ca = None if self._folder is None else self._folder / CA_FILE
        return build_client_context(ca if ca is not None and ca.exists() else None, certificate, key)


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino

"""Certificates: of our listeners, followed while we run, and those that we accept from workers."""

import ssl
from pathlib import Path


class TlsFileError(Exception):
    """A certificate, key or CA file cannot be used; the message names it."""


class ServerTls:
    """The certificate of a listener. Connections made after a change of its files get the new one.

    Args:
        client_ca: clients must show a certificate of this authority; None: they need none.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate, self._key = certificate, key
        self._stamps = self._read_stamps()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        if client_ca is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            _load_ca(self.context, client_ca)
        self._load()

    def refresh(self) -> None:
        """Take over changed files; call now and then.

        Raises:
            TlsFileError: they cannot be used; the certificate stays as it was.
        """
        stamps = self._read_stamps()
        if stamps == self._stamps or None in stamps:
            return
        self._stamps = stamps
        self._load()

    def _load(self) -> None:
        try:
            # Into another context first: one that fails halfway would answer with half of a pair.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except OSError as error:
            raise TlsFileError(
                f"{self._certificate} and {self._key} are no certificate with its key: {error}"
            ) from error

    def _read_stamps(self) -> tuple[int | None, int | None]:
        return _stamp(self._certificate), _stamp(self._key)


def build_client_context(ca: Path | None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """For connections to servers whose certificates are of `ca` (None: of an authority that this system trusts).

    With a certificate of our own where they ask for one.

    Raises:
        TlsFileError: a file cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if ca is not None:
        _load_ca(context, ca)
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise TlsFileError(f"{certificate} cannot be used: {error}") from error
    return context


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise TlsFileError(f"{ca} holds no certificate of an authority: {error}") from error


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None

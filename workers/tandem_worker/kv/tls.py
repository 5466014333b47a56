"""Mutual TLS between the workers of a fleet: who holds no certificate of its authority does not get to say hello.

The certificate says that a peer belongs to the authority's circle; that it belongs to this fleet is proved by the
fleet's key inside. Names are not checked: pods have addresses, and all workers of a fleet share one certificate.
"""

import asyncio
import logging
import socket
import ssl
from pathlib import Path

from tandem_worker.kv.guards import TLS_CONTROL, TLS_DATA
from tandem_worker.kv.line import Line, TlsLine
from tandem_worker.kv.transport import TransportError

logger = logging.getLogger(__name__)

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"  # as cert-manager names them in a Secret
_HAS_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED

_Stamp = tuple[tuple[int, int], ...]


class TlsFilesError(ValueError):
    """The certificate files are missing or unusable; the message names the directory and the files."""


class TlsGuard:
    """Reads the files anew when they change, and keeps the former ones when that fails: certificates are rotated."""

    control_magic, data_magic = TLS_CONTROL, TLS_DATA
    refusal = "tls_required"

    def __init__(self, directory: Path) -> None:
        """Raises TlsFilesError."""
        self._directory = directory
        self._stamp = self._read_stamp()
        self._contexts = _load_contexts(directory)

    def admit(self, connection: socket.socket, timeout_s: float) -> Line:
        return _wrap(self._fresh()[0], connection, timeout_s, is_server=True)

    def enter(self, connection: socket.socket, timeout_s: float) -> Line:
        return _wrap(self._fresh()[1], connection, timeout_s, is_server=False)

    def server_context(self) -> ssl.SSLContext | None:
        return self._fresh()[0]

    async def secure(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        await writer.start_tls(self._fresh()[1], server_hostname="", ssl_handshake_timeout=timeout_s)

    def _fresh(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._contexts = _load_contexts(self._directory)
            except TlsFilesError as error:
                logger.error("the TLS files changed and cannot be used; the former ones stay in use: %s", error)
        return self._contexts

    def _read_stamp(self) -> _Stamp:
        found = (self._directory / name for name in (CERTIFICATE, KEY, AUTHORITY))
        return tuple((status.st_mtime_ns, status.st_ino) for path in found if path.exists() and (status := path.stat()))


def name_tls_fault(error: ssl.SSLError) -> str:
    """A bounded name for what went wrong, as counted on the side that noticed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls_expired" if error.verify_code == _HAS_EXPIRED else "tls_untrusted"
    reason = error.reason or ""
    if "ALERT" in reason:
        return "tls_refused"  # the peer did not like our certificate
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "tls_not_offered"  # the peer speaks, but not TLS
    return "tls_failed"


def _load_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the accepting and for the dialing side."""
    try:
        return _load_context(directory, is_server=True), _load_context(directory, is_server=False)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        needed = f"{CERTIFICATE}, {KEY} and {AUTHORITY} as PEM, the key unencrypted and of that certificate"
        raise TlsFilesError(f"{directory} must hold {needed}: {error}") from error


def _load_context(directory: Path, *, is_server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=directory / AUTHORITY)
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY, password=_refuse_password)
    return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")  # else OpenSSL would ask a terminal


def _wrap(context: ssl.SSLContext, connection: socket.socket, timeout_s: float, *, is_server: bool) -> Line:
    connection.settimeout(timeout_s)
    try:
        return TlsLine(context.wrap_socket(connection, server_side=is_server, suppress_ragged_eofs=False))
    except ssl.SSLError as error:
        connection.close()
        raise TransportError(name_tls_fault(error), f"no TLS with the peer: {error}") from error
    except OSError as error:
        connection.close()
        raise TransportError("tls_failed", f"the peer left during the TLS handshake: {error}") from error

"""Which certificates this router shows and trusts: at its listeners, to replicas, to workers, to other regions."""

import ssl
from pathlib import Path

from tandem_router.http1.tls import ServerTls, build_client_context
from tandem_router.regions.credentials import OwnCertificate
from tandem_router.settings import Settings


def load_tls(certificate: Path | None, key: Path | None, client_ca: Path | None = None) -> ServerTls | None:
    """A listener's certificate, None for plain HTTP.

    Raises:
        TlsFileError: the files cannot be used.
    """
    return None if certificate is None or key is None else ServerTls(certificate, key, client_ca)


def build_peer_tls(settings: Settings) -> ssl.SSLContext | None:
    """What other replicas are spoken to with; None: plain HTTP.

    Pods come and go with their addresses, so a certificate proves membership of the installation and its name is not
    looked at. Without a CA the line is encrypted, and the bearer token alone says who is there.

    Raises:
        TlsFileError: a file cannot be used.
    """
    if settings.internal_tls_cert is None:
        return None
    if settings.internal_tls_ca is None:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context = build_client_context(settings.internal_tls_ca, settings.internal_tls_cert, settings.internal_tls_key)
    context.check_hostname = False
    return context


def build_upstream_tls(settings: Settings) -> ssl.SSLContext | None:
    """What workers with TLS are spoken to with.

    Raises:
        TlsFileError: the file cannot be used.
    """
    return None if settings.upstream_ca is None else build_client_context(settings.upstream_ca)


def own_certificate(settings: Settings) -> OwnCertificate | None:
    """What is shown to another region whose listener asks for a certificate."""
    if settings.internal_tls_cert is None or settings.internal_tls_key is None:
        return None
    return OwnCertificate(settings.internal_tls_cert, settings.internal_tls_key)

"""Authorities, and worker certificates of theirs, as files that a Secret would be mounted as."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def build_authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _begin(name, name, key, NOW + DAY).add_extension(x509.BasicConstraints(True, None), critical=True)
    return Authority(certificate.sign(key, hashes.SHA256()), key)


def write_worker_certificate(directory: Path, issuer: Authority, *, is_expired: bool = False) -> Path:
    """`tls.crt`, `tls.key` and `ca.crt` of one worker, as a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    until = NOW - DAY if is_expired else NOW + DAY
    subject = issuer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    certificate = _begin("worker", str(subject), key, until).sign(issuer.key, hashes.SHA256())
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "ca.crt").write_bytes(issuer.certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory


def _begin(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, until: dt.datetime) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=_name(subject),
        issuer_name=_name(issuer),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW - 10 * DAY,
        not_valid_after=until,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

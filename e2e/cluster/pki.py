"""Keys and certificates of one cluster: a CA, what it signs, and the key of service-account tokens."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
# A fresh certificate is valid a little in the past, for clocks that disagree.
CLOCK_SKEW = datetime.timedelta(hours=1)
API_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
API_SERVER_ADDRESSES = ("127.0.0.1", "10.96.0.1")


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and its private key."""

    certificate: Path
    key: Path


class CertificateAuthority:
    """Signs what one cluster needs, into ``folder``. Its own key stays in memory: nothing is signed later."""

    def __init__(self, folder: Path, now: datetime.datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = build_name("tandem-cluster-ca")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._builder(self._name, self._key).add_extension(basic, critical=True)
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(encode(certificate.sign(self._key, hashes.SHA256())))

    def issue_server(self, name: str, dns_names: tuple[str, ...], addresses: tuple[str, ...]) -> KeyPair:
        """A serving certificate for these DNS names and IP addresses."""
        return self._issue(name, build_name(name), [ExtendedKeyUsageOID.SERVER_AUTH], build_names(dns_names, addresses))

    def issue_client(self, name: str, group: str) -> KeyPair:
        """A client certificate: Kubernetes reads the user from CN and the group from O."""
        return self._issue(name, build_name(name, group), [ExtendedKeyUsageOID.CLIENT_AUTH], [])

    def issue_peer(self, name: str, dns_names: tuple[str, ...], addresses: tuple[str, ...]) -> KeyPair:
        """A certificate for one that serves, and shows it where it asks."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, build_name(name), usages, build_names(dns_names, addresses))

    def _issue(
        self, name: str, subject: x509.Name, usages: list[x509.ObjectIdentifier], names: list[x509.GeneralName]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key).add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(encode(builder.sign(self._key, hashes.SHA256())))
        write_secret(pair.key, encode_key(key))
        return pair

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - CLOCK_SKEW)
            .not_valid_after(self._now + LIFETIME)
        )


def write_service_account_keys(folder: Path) -> KeyPair:
    """The key pair that signs and checks service-account tokens; ``certificate`` is the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pair = KeyPair(folder / "service-account.pub", folder / "service-account.key")
    pair.certificate.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    write_secret(pair.key, encode_key(key))
    return pair


def build_names(dns_names: tuple[str, ...], addresses: tuple[str, ...]) -> list[x509.GeneralName]:
    """What a serving certificate is good for."""
    names: list[x509.GeneralName] = [x509.DNSName(dns) for dns in dns_names]
    return names + [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]


def build_name(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def encode(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)

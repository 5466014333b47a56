"""Keys and certificates are what Kubernetes and TLS clients expect."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cluster.pki import CertificateAuthority, KeyPair, write_service_account_keys

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "pki", NOW)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_serving_certificate_is_for_its_names_and_addresses(authority: CertificateAuthority) -> None:
    """Clients that check host names accept it, by name and by address."""
    certificate = load(authority.issue_server("api", ("kubernetes",), ("127.0.0.1",)).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    certificate.verify_directly_issued_by(load(authority.certificate))


def test_a_client_certificate_carries_user_and_group(authority: CertificateAuthority) -> None:
    """Kubernetes takes the user from CN and the group from O."""
    pair = authority.issue_client("kubelet-client", "system:masters")
    certificate = load(pair.certificate)
    subject = {attribute.oid: attribute.value for attribute in certificate.subject}
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert subject == {NameOID.COMMON_NAME: "kubelet-client", NameOID.ORGANIZATION_NAME: "system:masters"}
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert is_private(pair.key)


def test_another_clusters_certificate_is_not_accepted(authority: CertificateAuthority, tmp_path: Path) -> None:
    """Authorities of different clusters have the same name but not the same key."""
    other = CertificateAuthority(tmp_path / "other", NOW)
    certificate = load(other.issue_server("api", ("kubernetes",), ()).certificate)
    store = Store([load(authority.certificate)])
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("kubernetes"))
    with pytest.raises(VerificationError):
        verifier.verify(certificate, [])


def test_certificates_are_valid_already_and_for_a_year(authority: CertificateAuthority) -> None:
    """Clocks that disagree a little do not make a fresh cluster fail."""
    certificate = load(authority.certificate)
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=365)


def test_the_service_account_key_is_private_and_its_public_half_is_not(tmp_path: Path) -> None:
    """The API server signs with one file and checks with the other."""
    pair: KeyPair = write_service_account_keys(tmp_path)
    assert is_private(pair.key)
    assert b"BEGIN PUBLIC KEY" in pair.certificate.read_bytes()

from __future__ import annotations

import ssl
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpredict.errors import CertificateError
from fedpredict.security import certs
from fedpredict.security.authority import Authority, new_leaf
from fedpredict.security.certs import CaFiles
from fedpredict.security.tls import read_tls
from tests.unit.security.federation import DESK, HOSPITAL, LAB, NOW, Certificates, odd_certificate

LAB_URI = x509.UniformResourceIdentifier("fedpredict://party/lab")
BANK_URI = x509.UniformResourceIdentifier("fedpredict://party/bank")
LAB_DNS = x509.DNSName("lab.party.fedpredict")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def write_request(
    path: Path,
    names: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
    extension: x509.ExtensionType | None = None,
) -> Path:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    path.write_bytes(builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM))
    return path


def test_a_party_signs_nothing_itself_and_its_key_never_moves(certificates: Certificates, tmp_path: Path) -> None:
    made = certs.create_request(LAB, tmp_path)
    key = made.key.read_bytes()
    report = certs.sign_request(
        certificates.ca, made.request, tmp_path / "lab.pem", key_fingerprint=made.key_fingerprint.upper()
    )
    (tmp_path / "ca.pem").write_bytes(certificates.ca.certificate.read_bytes())

    assert read_tls(certs.leaf_files(tmp_path, "lab")).identity == LAB
    assert report.key_fingerprint == made.key_fingerprint
    assert made.key.read_bytes() == key
    assert b"PRIVATE" not in made.request.read_bytes()


def test_a_party_s_certificate_is_for_both_ends_and_names_it_twice(certificates: Certificates) -> None:
    extensions = load(certificates.lab.certificate).extensions
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [LAB_URI, LAB_DNS]
    uses = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_client_s_certificate_is_for_no_server(certificates: Certificates) -> None:
    extensions = load(certificates.desk.certificate).extensions
    names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    assert names == [x509.UniformResourceIdentifier("fedpredict://client/risk-desk")]
    uses = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_ca_may_sign_leaves_and_no_other_ca(certificates: Certificates) -> None:
    extensions = load(certificates.ca.certificate).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_are_p256_and_readable_by_their_owner_only(certificates: Certificates) -> None:
    for path in (certificates.ca.key, certificates.lab.key):
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_certificate_begins_a_little_before_it_is_made_and_ends_with_its_ca(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ca = certs.create_ca(tmp_path / "ca", "short", days=100, now=now)
    usual = certs.issue(ca, LAB, tmp_path / "a", days=10, now=now)
    longer = certs.issue(ca, LAB, tmp_path / "b", days=825, now=now)
    assert load(usual.certificate).not_valid_before_utc == now - timedelta(hours=1)
    assert load(usual.certificate).not_valid_after_utc == now + timedelta(days=10)
    assert load(longer.certificate).not_valid_after_utc == now + timedelta(days=100)


def test_an_expired_ca_signs_nothing(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    ca = certs.create_ca(tmp_path / "ca", "short", days=100, now=now)
    with pytest.raises(CertificateError, match=r"ca\.pem: expired at 2026-06-09"):
        certs.issue(ca, LAB, tmp_path / "lab", now=now + timedelta(days=101))
    assert not (tmp_path / "lab").exists()


def test_nothing_that_is_there_is_replaced_unless_forced(certificates: Certificates, tmp_path: Path) -> None:
    ca = certs.create_ca(tmp_path / "ca", "one")
    made = certs.create_request(LAB, tmp_path / "lab")
    issued = certs.issue(ca, HOSPITAL, tmp_path / "hospital")
    watched = [ca.key, ca.certificate, made.key, made.request, issued.key, issued.certificate, issued.ca]
    before = [path.read_bytes() for path in watched]

    with pytest.raises(CertificateError, match=r"ca\.key: exists already.*--force"):
        certs.create_ca(tmp_path / "ca", "two")
    with pytest.raises(CertificateError, match=r"lab\.key: exists already"):
        certs.create_request(LAB, tmp_path / "lab")
    with pytest.raises(CertificateError, match=r"hospital\.key: exists already"):
        certs.issue(ca, HOSPITAL, tmp_path / "hospital")
    with pytest.raises(CertificateError, match=r"hospital\.pem: exists already"):
        certs.sign_request(ca, made.request, issued.certificate)
    with pytest.raises(CertificateError, match=r"ca\.pem: exists already"):
        certs.issue(certificates.ca, LAB, tmp_path / "hospital")
    assert [path.read_bytes() for path in watched] == before

    certs.create_request(LAB, tmp_path / "lab", force=True)
    assert made.key.read_bytes() != before[2]
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "states 0 identities"),
        ([LAB_DNS], "states 0 identities"),
        ([LAB_URI, BANK_URI], "states 2 identities"),
        ([LAB_URI, LAB_URI], "states 2 identities"),
        ([LAB_URI, x509.DNSName("bank.party.fedpredict")], "asks for 1 names beside party lab"),
        ([LAB_URI, LAB_DNS, x509.DNSName("localhost")], "asks for 1 names beside party lab"),
        ([LAB_URI, x509.RFC822Name("a@example.org")], "asks for 1 names beside party lab"),
        ([LAB_URI, x509.UniformResourceIdentifier("https://example.org")], "asks for 1 names beside party lab"),
        ([x509.UniformResourceIdentifier("fedpredict://party/Lab")], "'Lab' is not a party id"),
        ([x509.UniformResourceIdentifier("fedpredict://admin/lab")], "not an identity"),
        ([x509.DNSName("fedpredict://party/lab")], "states 0 identities"),
    ],
)
def test_a_request_for_anything_but_one_identity_is_refused(
    certificates: Certificates, tmp_path: Path, names: list[x509.GeneralName], problem: str
) -> None:
    request = write_request(tmp_path / "r.csr", names)
    with pytest.raises(CertificateError, match=problem):
        certs.sign_request(certificates.ca, request, tmp_path / "out.pem")
    assert not (tmp_path / "out.pem").exists()


@pytest.mark.parametrize("names", [[LAB_URI], [LAB_URI, LAB_DNS], [LAB_DNS, LAB_URI]])
def test_a_request_may_leave_out_the_dns_name(
    certificates: Certificates, tmp_path: Path, names: list[x509.GeneralName]
) -> None:
    report = certs.sign_request(certificates.ca, write_request(tmp_path / "r.csr", names), tmp_path / "out.pem")
    assert (report.identity, report.dns_names) == (LAB, ("lab.party.fedpredict",))


def test_a_request_to_become_a_ca_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    wish = x509.BasicConstraints(ca=True, path_length=None)
    request = write_request(tmp_path / "r.csr", [LAB_URI], extension=wish)
    with pytest.raises(CertificateError, match=r"asks for extensions \(2\.5\.29\.19\)"):
        certs.sign_request(certificates.ca, request, tmp_path / "out.pem")


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["rsa", "ed25519", "p384"],
)
def test_a_request_with_another_kind_of_key_is_refused(
    certificates: Certificates,
    tmp_path: Path,
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    request = write_request(tmp_path / "r.csr", [LAB_URI], key=key)
    with pytest.raises(CertificateError, match="not P-256"):
        certs.sign_request(certificates.ca, request, tmp_path / "out.pem")


def test_a_request_that_was_changed_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    request = write_request(tmp_path / "r.csr", [LAB_URI])
    der = x509.load_pem_x509_csr(request.read_bytes()).public_bytes(serialization.Encoding.DER)
    changed = x509.load_der_x509_csr(der.replace(b"party/lab", b"party/tab"))
    request.write_bytes(changed.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(CertificateError, match="not signed by the key"):
        certs.sign_request(certificates.ca, request, tmp_path / "out.pem")


@pytest.mark.parametrize("content", [b"", b"not a request", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_what_is_no_request_is_refused(certificates: Certificates, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.csr").write_bytes(content)
    with pytest.raises(CertificateError, match=r"r\.csr: not a certificate request"):
        certs.sign_request(certificates.ca, tmp_path / "r.csr", tmp_path / "out.pem")


def test_a_request_of_another_key_than_the_party_told_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    told = certs.create_request(LAB, tmp_path / "real").key_fingerprint
    forged = certs.create_request(LAB, tmp_path / "forged").request
    with pytest.raises(CertificateError, match="do not sign it"):
        certs.sign_request(certificates.ca, forged, tmp_path / "out.pem", key_fingerprint=told)
    assert not (tmp_path / "out.pem").exists()


def test_only_a_ca_with_its_own_key_signs(certificates: Certificates, tmp_path: Path) -> None:
    leaf = CaFiles(certificates.lab.certificate, certificates.lab.key)
    with pytest.raises(CertificateError, match="not a CA"):
        certs.issue(leaf, HOSPITAL, tmp_path)
    with pytest.raises(CertificateError, match="not the key of"):
        certs.issue(CaFiles(certificates.ca.certificate, certificates.lab.key), HOSPITAL, tmp_path)
    with pytest.raises(CertificateError, match=r"ca\.key: the CA key cannot be read: No such file"):
        certs.issue(CaFiles(certificates.ca.certificate, tmp_path / "ca.key"), HOSPITAL, tmp_path)


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_a_lifetime_out_of_range_is_refused(certificates: Certificates, tmp_path: Path, days: int) -> None:
    with pytest.raises(CertificateError, match=f"{days} days; allowed: 1 to 36500"):
        certs.issue(certificates.ca, LAB, tmp_path, days=days)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_ca_needs_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="cannot name a CA"):
        certs.create_ca(tmp_path, name)


def test_a_report_says_what_openssl_would(certificates: Certificates) -> None:
    certificate = load(certificates.desk.certificate)
    report = certs.describe(certificates.desk.certificate, now=certificate.not_valid_after_utc - timedelta(days=3.5))
    assert report.identity == DESK
    assert report.dns_names == ()
    assert report.subject == "CN=risk-desk,O=fedpredict client"
    assert report.issuer == "CN=the federation's CA"
    assert report.not_after == certificate.not_valid_after_utc
    assert report.days_left == 3
    assert report.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert not report.is_ca
    assert certs.describe(certificates.ca.certificate).is_ca


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"none\.pem: the certificate cannot be read: No such file"):
        certs.describe(tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(CertificateError, match=r"text\.pem: not a certificate in PEM"):
        certs.describe(tmp_path / "text.pem")


def repeat_names(certificate: Path, out: Path) -> None:
    """Write a certificate of a party in which the extension of its key's use is a second one of names."""
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
    # 06 03 55 1D 25 is the object identifier of extendedKeyUsage, 06 03 55 1D 11 that of subjectAltName.
    changed = der.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d11"))
    out.write_text(ssl.DER_cert_to_PEM_cert(changed))


def test_a_certificate_with_an_extension_twice_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    repeat_names(certificates.lab.certificate, tmp_path / "twice.pem")
    with pytest.raises(CertificateError, match=r"twice\.pem: not a certificate in PEM \(Duplicate"):
        certs.describe(tmp_path / "twice.pem")


def test_a_certificate_that_does_not_say_whether_it_is_a_ca_is_none(certificates: Certificates, tmp_path: Path) -> None:
    files = odd_certificate(certificates, tmp_path, [LAB_URI])
    assert not certs.describe(files.certificate).is_ca
    with pytest.raises(CertificateError, match="not a CA"):
        certs.issue(CaFiles(files.certificate, files.key), LAB, tmp_path / "lab")


def test_a_leaf_is_made_for_a_p256_key_only(certificates: Certificates) -> None:
    key = serialization.load_pem_private_key(certificates.ca.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = Authority(load(certificates.ca.certificate), key)
    with pytest.raises(CertificateError, match="the key of party lab is not P-256"):
        new_leaf(authority, LAB, ec.generate_private_key(ec.SECP384R1()).public_key(), 10, NOW)
    assert "PRIVATE" not in repr(authority)

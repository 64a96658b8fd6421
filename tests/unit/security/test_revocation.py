"""Revocation lists and denied keys, held against OpenSSL, which is another reader of the same files."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedpredict.errors import CertificateError
from fedpredict.security import certs, crls
from fedpredict.security.certificate import parse_certificates, parse_der
from fedpredict.security.certs import CaFiles
from fedpredict.security.revocation import Crl, Lists, describe, parse_crls, parse_denied
from tests.unit.security.federation import HOSPITAL, LAB, NOW

TEXT = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CaFiles:
    return certs.create_ca(tmp_path_factory.mktemp("ca"), "the federation's CA")


def certificate_of(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: object) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def read(path: Path, ca: CaFiles) -> Crl:
    (crl,) = parse_crls(path.read_bytes(), "ca.crl", parse_certificates(ca.certificate.read_bytes(), "ca"), NOW)
    return crl


def made_by_hand(ca: CaFiles, *critical: x509.ExtensionType) -> bytes:
    """Return a list that was over yesterday, as another authority's software may make it."""
    key = serialization.load_pem_private_key(ca.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the federation's CA")])
    builder = x509.CertificateRevocationListBuilder().issuer_name(name)
    builder = builder.last_update(NOW - timedelta(days=2)).next_update(NOW - timedelta(days=1))
    for extension in critical:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(TEXT)


def test_openssl_refuses_what_was_revoked_and_nothing_else(ca: CaFiles, tmp_path: Path) -> None:
    lab, hospital = (certs.issue(ca, who, tmp_path / who.name) for who in (LAB, HOSPITAL))
    crl = tmp_path / "ca.crl"
    report = crls.revoke(ca, [lab.certificate], kept=crl)

    check = ("verify", "-crl_check", "-CAfile", ca.certificate, "-CRLfile", crl)
    assert "certificate revoked" in openssl(*check, lab.certificate)
    assert openssl(*check, hospital.certificate).strip().endswith("OK")
    assert "verify OK" in openssl("crl", "-in", crl, "-CAfile", ca.certificate, "-noout")
    serial = openssl("x509", "-in", lab.certificate, "-noout", "-serial").strip().partition("=")[2]
    assert [serial.lstrip("0")] == [each.lstrip("0") for each in report.revoked]
    assert read(crl, ca).revoked == {certificate_of(lab.certificate).serial_number}


def test_a_list_grows_and_is_made_anew(ca: CaFiles, tmp_path: Path) -> None:
    lab, hospital = (certs.issue(ca, who, tmp_path / who.name) for who in (LAB, HOSPITAL))
    crl = tmp_path / "ca.crl"
    first = crls.revoke(ca, [lab.certificate], kept=crl)
    older = read(crl, ca)
    serial = certificate_of(hospital.certificate).serial_number
    second = crls.revoke(ca, [lab.certificate], [serial], kept=crl)
    third = crls.revoke(ca, [], kept=crl, days=5)

    assert [each.number for each in (first, second, third)] == [1, 2, 3]
    assert len(second.revoked) == len(third.revoked) == 2
    assert third.days_left in {4, 5}
    assert "X509v3 CRL Number" in openssl("crl", "-in", crl, "-noout", "-text")
    assert older.is_older_than(read(crl, ca))
    assert not read(crl, ca).is_older_than(older)


def test_only_certificates_of_the_ca_are_revoked(ca: CaFiles, tmp_path: Path) -> None:
    other = certs.create_ca(tmp_path / "other", "another CA")
    lab = certs.issue(other, LAB, tmp_path / "lab")
    with pytest.raises(CertificateError, match=r"lab\.pem: .* was not signed by this CA"):
        crls.revoke(ca, [lab.certificate], kept=tmp_path / "ca.crl")
    crls.revoke(other, [lab.certificate], kept=tmp_path / "other.crl")
    with pytest.raises(CertificateError, match="not signed by a CA of the `ca` file"):
        crls.revoke(ca, [], kept=tmp_path / "other.crl")


def test_a_list_in_der_is_read_too(ca: CaFiles, tmp_path: Path) -> None:
    crl, der = tmp_path / "ca.crl", tmp_path / "ca.der"
    crls.revoke(ca, [], [0xABC], kept=crl)
    openssl("crl", "-in", crl, "-outform", "DER", "-out", der)
    assert read(der, ca).revoked == {0xABC}


def test_a_file_holds_the_lists_of_several_cas(ca: CaFiles, tmp_path: Path) -> None:
    other = certs.create_ca(tmp_path / "other", "another CA")
    crls.revoke(ca, [], [1], kept=tmp_path / "a")
    crls.revoke(other, [], [2], kept=tmp_path / "b")
    data = (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes()
    authorities = [certificate_of(each.certificate) for each in (ca, other)]
    assert [crl.revoked for crl in parse_crls(data, "both", authorities, NOW)] == [{1}, {2}]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not a revocation list"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "not a revocation list"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a revocation list"),
    ],
)
def test_what_is_no_list_is_named(ca: CaFiles, data: bytes, told: str) -> None:
    with pytest.raises(CertificateError, match=rf"ca\.crl: {told}"):
        parse_crls(data, "ca.crl", [certificate_of(ca.certificate)], NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")
def test_a_certificate_whose_inside_is_damaged_is_refused_when_it_is_read(ca: CaFiles, tmp_path: Path) -> None:
    """As a peer may show it: what is read can be named and held against the clock, whatever stands in it."""
    lab = certs.issue(ca, LAB, tmp_path / "lab").certificate
    whole = certificate_of(lab).public_bytes(serialization.Encoding.DER)
    n_refused = 0
    for place in range(len(whole)):
        for value in (0x00, 0x30, 0xFF, whole[place] ^ 0x20):
            damaged = whole[:place] + bytes([value]) + whole[place + 1 :]
            try:
                found = parse_der(damaged, "lab")
            except CertificateError:
                n_refused += 1
                continue
            assert found.issuer.rfc4514_string() != ""
            assert found.not_valid_before_utc < NOW + timedelta(days=36_500)
            describe(found)

    assert n_refused > len(whole)


def test_a_list_whose_inside_is_damaged_is_named(ca: CaFiles, tmp_path: Path) -> None:
    """Every byte of a list in its turn: what the library reads late, such as the CA's name, is no surprise later."""
    path = tmp_path / "ca.crl"
    crls.revoke(ca, [], [1], kept=path)
    whole = x509.load_pem_x509_crl(path.read_bytes()).public_bytes(serialization.Encoding.DER)
    authorities = [certificate_of(ca.certificate)]
    for place in range(len(whole)):
        for value in (0x00, 0x30, 0xFF, whole[place] ^ 0x20):
            damaged = whole[:place] + bytes([value]) + whole[place + 1 :]
            if damaged != whole:
                with pytest.raises(CertificateError, match=r"ca\.crl: "):
                    parse_crls(damaged, "ca.crl", authorities, NOW)


def test_a_list_that_somebody_else_signed_is_refused(ca: CaFiles, tmp_path: Path) -> None:
    """Also under the name of the CA: the key counts."""
    forger = certs.create_ca(tmp_path / "forger", "the federation's CA")
    crls.revoke(forger, [], [1], kept=tmp_path / "ca.crl")
    with pytest.raises(CertificateError, match="not signed by a CA of the `ca` file"):
        read(tmp_path / "ca.crl", ca)


def test_a_list_that_is_not_whole_is_refused(ca: CaFiles) -> None:
    for extension in (
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
    ):
        with pytest.raises(CertificateError, match="a partial or indirect list"):
            parse_crls(made_by_hand(ca, extension), "x", [certificate_of(ca.certificate)], NOW)


def test_a_list_from_the_future_is_refused_with_the_clock(ca: CaFiles, tmp_path: Path) -> None:
    crls.revoke(ca, [], kept=tmp_path / "ca.crl", now=NOW + timedelta(days=3))
    with pytest.raises(CertificateError, match=r"this machine's clock says .*; set the clock"):
        read(tmp_path / "ca.crl", ca)


def test_a_list_that_is_over_lets_nobody_in_unless_the_settings_say_so(ca: CaFiles, tmp_path: Path) -> None:
    lab = certificate_of(certs.issue(ca, LAB, tmp_path / "lab").certificate)
    crl = parse_crls(made_by_hand(ca), "x", [certificate_of(ca.certificate)], NOW)
    assert "ended at" in (Lists(crl).problem_of(lab, NOW) or "")
    assert Lists(crl, accepts_stale=True).problem_of(lab, NOW) is None
    assert Lists(crl).problem_of(lab, NOW - timedelta(days=1, hours=1)) is None
    assert Lists(crl).next_change(NOW - timedelta(days=2)) == NOW - timedelta(days=1)


def test_without_numbers_the_date_says_which_list_is_older(ca: CaFiles) -> None:
    authorities = [certificate_of(ca.certificate)]
    (old,) = parse_crls(made_by_hand(ca), "x", authorities, NOW)
    new = replace(old, made=old.made + timedelta(hours=1))
    assert old.is_older_than(new)
    assert not new.is_older_than(old)
    stranger = replace(new, key="0" * 64)
    assert not old.is_older_than(stranger)


def test_keys_are_denied_by_the_fingerprint_that_openssl_gives(ca: CaFiles, tmp_path: Path) -> None:
    lab = certs.issue(ca, LAB, tmp_path / "lab")
    public = tmp_path / "public.der"
    openssl("x509", "-in", lab.certificate, "-noout", "-pubkey", "-out", tmp_path / "public.pem")
    openssl("pkey", "-pubin", "-in", tmp_path / "public.pem", "-outform", "DER", "-out", public)
    sha256 = openssl("dgst", "-sha256", "-r", public).split()[0]
    denied = parse_denied(f"# stolen in May\n\nsha256:{sha256.upper()}  # lab\n", "denied.txt")
    assert Lists(denied=denied).listed(certificate_of(lab.certificate)) == "its key is denied here"
    assert Lists(denied=denied).listed(certificate_of(ca.certificate)) is None


@pytest.mark.parametrize("line", ["abc", "0" * 63, "0" * 65, "sha1:" + "0" * 64, "0" * 32 + " " + "0" * 32])
def test_a_line_that_is_no_fingerprint_is_named(line: str) -> None:
    with pytest.raises(CertificateError, match=r"denied\.txt: line 2 is no SHA-256"):
        parse_denied(f"{'0' * 64}\n{line}\n", "denied.txt")


def test_a_refused_ca_is_trusted_no_more_nor_those_that_it_signed(ca: CaFiles, tmp_path: Path) -> None:
    root, other = certificate_of(ca.certificate), certificate_of(certs.create_ca(tmp_path, "another CA").certificate)
    denied = frozenset({certs.describe(ca.certificate).key_fingerprint})
    assert Lists(denied=denied).trusted([root, other]) == (other,)
    assert Lists().trusted([root, other]) == (root, other)


def test_a_ca_cannot_revoke_itself_and_says_what_to_do(ca: CaFiles, tmp_path: Path) -> None:
    authority = certificate_of(ca.certificate)
    for files, serials in (([ca.certificate], []), ([], [authority.serial_number])):
        with pytest.raises(CertificateError, match=r"cannot revoke itself: make another CA, .* `deny` list"):
            crls.revoke(ca, files, serials, kept=tmp_path / "ca.crl")
    assert not (tmp_path / "ca.crl").exists()


def test_a_list_that_names_its_own_ca_is_told_as_such(ca: CaFiles) -> None:
    authority = certificate_of(ca.certificate)
    key = serialization.load_pem_private_key(ca.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    entry = x509.RevokedCertificateBuilder().serial_number(authority.serial_number).revocation_date(NOW).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(NOW)
    crl = builder.next_update(NOW + timedelta(days=1)).add_revoked_certificate(entry).sign(key, hashes.SHA256())
    with pytest.raises(CertificateError, match="names that CA itself"):
        parse_crls(crl.public_bytes(serialization.Encoding.PEM), "x", [authority], NOW)

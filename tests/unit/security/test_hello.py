from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedpredict.errors import CertificateError, ProtocolError
from fedpredict.security.hello import NONCE_BYTES
from fedpredict.security.identity import Identity, IdentityKind
from tests.hellos import sign_hello, verify_hello
from tests.unit.security.federation import NOW, Certificates, odd_certificate

BANK, SHOP = (Identity(IdentityKind.PARTY, name) for name in ("bank", "shop"))
NONCE = hashlib.sha256(b"a nonce").digest()


@pytest.fixture
def ca(certificates: Certificates) -> bytes:
    return certificates.ca.certificate.read_bytes()


def test_a_hello_of_the_party_meant_is_verified(certificates: Certificates, ca: bytes) -> None:
    lab = certificates.lab
    verify_hello(ca, "lab", BANK, NONCE, (lab.certificate.read_bytes(), sign_hello(lab, "lab", BANK, NONCE)))


@pytest.mark.parametrize("nonce", [bytes(NONCE_BYTES), NONCE[::-1]])
def test_a_signature_over_another_nonce_is_refused(certificates: Certificates, ca: bytes, nonce: bytes) -> None:
    lab = certificates.lab
    with pytest.raises(CertificateError, match="party lab: the signature does not fit this message"):
        verify_hello(ca, "lab", BANK, nonce, (lab.certificate.read_bytes(), sign_hello(lab, "lab", BANK, NONCE)))


@pytest.mark.parametrize("other", [SHOP, Identity(IdentityKind.CLIENT, "bank")])
def test_a_hello_that_another_asked_for_is_refused(certificates: Certificates, ca: bytes, other: Identity) -> None:
    """Or whoever is taken for the party could pass on what a caller asks, and what the party answers."""
    lab = certificates.lab
    proof = lab.certificate.read_bytes(), sign_hello(lab, "lab", other, NONCE)
    verify_hello(ca, "lab", other, NONCE, proof)
    with pytest.raises(CertificateError, match="party lab: the signature does not fit this message"):
        verify_hello(ca, "lab", BANK, NONCE, proof)


def test_what_is_signed_is_what_the_protocol_says(certificates: Certificates) -> None:
    lab = certificates.lab
    words = b"fedpredict-hello-2\0fedpredict://party/bank\0lab\0" + NONCE
    key = serialization.load_pem_private_key(lab.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    key.public_key().verify(sign_hello(lab, "lab", BANK, NONCE), words, ec.ECDSA(hashes.SHA256()))


def test_another_party_of_the_same_ca_is_refused(certificates: Certificates, ca: bytes) -> None:
    hospital = certificates.hospital
    signature = sign_hello(hospital, "hospital", BANK, NONCE)
    with pytest.raises(CertificateError, match=r"party lab: the CA does not vouch for it as the server lab\.party"):
        verify_hello(ca, "lab", BANK, NONCE, (hospital.certificate.read_bytes(), signature))


def test_a_client_s_certificate_proves_no_party(certificates: Certificates, ca: bytes) -> None:
    desk = certificates.desk
    with pytest.raises(CertificateError, match="does not vouch"):
        verify_hello(ca, "risk-desk", BANK, NONCE, (desk.certificate.read_bytes(), b""))


def test_a_stranger_s_hello_is_refused(certificates: Certificates, ca: bytes) -> None:
    stranger = certificates.stranger
    signature = sign_hello(stranger, "lab", BANK, NONCE)
    verify_hello(stranger.ca.read_bytes(), "lab", BANK, NONCE, (stranger.certificate.read_bytes(), signature))
    with pytest.raises(CertificateError, match="issued by CN=another CA"):
        verify_hello(ca, "lab", BANK, NONCE, (stranger.certificate.read_bytes(), signature))


def test_a_certificate_without_its_key_proves_nothing(certificates: Certificates, ca: bytes) -> None:
    signature = sign_hello(certificates.hospital, "hospital", BANK, NONCE)
    with pytest.raises(CertificateError, match="the signature does not fit"):
        verify_hello(ca, "lab", BANK, NONCE, (certificates.lab.certificate.read_bytes(), signature))


def test_a_changed_signature_is_refused(certificates: Certificates, ca: bytes) -> None:
    chain = certificates.lab.certificate.read_bytes()
    good = sign_hello(certificates.lab, "lab", BANK, NONCE)
    for changed in (b"", good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1]), bytes(len(good))):
        with pytest.raises(CertificateError, match="the signature does not fit"):
            verify_hello(ca, "lab", BANK, NONCE, (chain, changed))


@pytest.mark.parametrize("chain", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_hello_without_a_certificate_is_refused(certificates: Certificates, ca: bytes, chain: bytes) -> None:
    with pytest.raises(CertificateError, match="the hello of party lab: not a certificate"):
        verify_hello(ca, "lab", BANK, NONCE, (chain, sign_hello(certificates.lab, "lab", BANK, NONCE)))


def test_an_expired_hello_is_refused(certificates: Certificates, ca: bytes) -> None:
    lab = certificates.lab
    signature = sign_hello(lab, "lab", BANK, NONCE)
    with pytest.raises(CertificateError, match="expired"):
        verify_hello(ca, "lab", BANK, NONCE, (lab.certificate.read_bytes(), signature), now=NOW + timedelta(days=900))


@pytest.mark.parametrize("nonce", [b"", NONCE[:-1], NONCE + b"\0"])
def test_a_nonce_of_another_length_is_not_signed(certificates: Certificates, nonce: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"nonce of {len(nonce)} bytes; 32 are needed"):
        sign_hello(certificates.lab, "lab", BANK, nonce)


def test_a_certificate_that_names_two_parties_proves_neither(
    certificates: Certificates, ca: bytes, tmp_path: Path
) -> None:
    """Only the URI is the identity: with the DNS name alone, a careless CA would let one party speak for another."""
    names = [x509.UniformResourceIdentifier("fedpredict://party/hospital"), x509.DNSName("lab.party.fedpredict")]
    files = odd_certificate(certificates, tmp_path, names)
    signature = sign_hello(files, "hospital", BANK, NONCE)
    with pytest.raises(CertificateError, match="signed by party hospital, not by party lab"):
        verify_hello(ca, "lab", BANK, NONCE, (files.certificate.read_bytes(), signature))


def test_a_hello_with_another_kind_of_key_is_refused(certificates: Certificates, ca: bytes, tmp_path: Path) -> None:
    names = [x509.UniformResourceIdentifier("fedpredict://party/lab"), x509.DNSName("lab.party.fedpredict")]
    files = odd_certificate(certificates, tmp_path, names, key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(CertificateError, match="key is not P-256"):
        verify_hello(ca, "lab", BANK, NONCE, (files.certificate.read_bytes(), b""))

"""What certificates look like: an authority, requests and leaves as values; no files, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpredict.errors import CertificateError
from fedpredict.security import certificate as certificates
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import server_name

MAX_DAYS = 36500
_BACKDATED = timedelta(hours=1)
"""Certificates begin this much before they are made, so that a peer whose clock is behind takes them at once."""

_USES = {
    IdentityKind.PARTY: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    IdentityKind.CLIENT: [ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs: the authority's certificate and its key, which is not in the repr."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(name: str, days: int, now: datetime) -> Authority:
    """Return an authority with a fresh key, which may sign leaves but no further authority.

    Raises:
        CertificateError: The name is not 1 to 64 characters, or the days are out of range.
    """
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise CertificateError(f"{name!r} cannot name a CA: {error}") from error
    key = new_key()
    builder = _builder(subject, key.public_key(), now, now + _lifetime(days)).issuer_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(is_ca=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def new_request(identity: Identity, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    """Return a request for a certificate of that identity, signed by its key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(identity))
    return builder.add_extension(_names(identity), critical=False).sign(key, hashes.SHA256())


def requested_identity(csr: x509.CertificateSigningRequest, source: str) -> Identity:
    """Return the identity that a request asks for; `source` names it in errors.

    Raises:
        CertificateError: It is not signed by its own key, which must be P-256, or asks for anything but one identity.
    """
    if not certificates.is_p256(csr.public_key()):
        raise CertificateError(f"{source}: its key is not P-256; make it with `fedpredict certs request`")
    if not csr.is_signature_valid:
        raise CertificateError(f"{source}: damaged: not signed by the key that it is for; ask for it again")
    identity = certificates.identity_of(csr, source)
    others = [name for name in certificates.alternative_names(csr) if name not in _names(identity)]
    if others:
        raise CertificateError(f"{source}: asks for {len(others)} names beside {identity}; only that one is signed")
    asked = [extension.oid for extension in csr.extensions if extension.oid != x509.SubjectAlternativeName.oid]
    if asked:
        shown = ", ".join(oid.dotted_string for oid in asked)
        raise CertificateError(f"{source}: asks for extensions ({shown}); the CA sets all but the names itself")
    return identity


def new_leaf(
    authority: Authority, identity: Identity, public_key: PublicKeyTypes, days: int, now: datetime
) -> x509.Certificate:
    """Return a certificate of that identity; it ends with its authority at the latest.

    Raises:
        CertificateError: The key is not P-256, or the days are out of range.
    """
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not certificates.is_p256(public_key):
        raise CertificateError(f"the key of {identity} is not P-256")
    issuer = authority.certificate
    until = min(now + _lifetime(days), issuer.not_valid_after_utc)
    builder = _builder(_subject(identity), public_key, now, until).issuer_name(issuer.subject)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(signer, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_USES[identity.kind]), critical=False)
    return builder.add_extension(_names(identity), critical=False).sign(authority.key, hashes.SHA256())


def new_crl(
    authority: Authority,
    revoked: Iterable[x509.RevokedCertificate],
    number: int,
    days: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return an authority's list of certificates that are good no more.

    Args:
        authority: Who made them.
        revoked: All of them, not only new ones.
        number: Grows with every list.
        days: In so many there must be a newer list.
        now: The time; the list says an hour less, as new certificates do.

    Raises:
        CertificateError: The days are out of range.
    """
    key = authority.key.public_key()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _BACKDATED)
        .next_update(now + _lifetime(days))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(each)
    return builder.sign(authority.key, hashes.SHA256())


def new_revocation(serial: int, now: datetime) -> x509.RevokedCertificate:
    """Return the entry of a list for one certificate."""
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM (PKCS #8), unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(identity: Identity) -> x509.Name:
    # Never equal to an authority's, which has a common name only: a leaf must not look as if it had signed itself.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"fedpredict {identity.kind}"),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.name),
        ]
    )


def _names(identity: Identity) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if identity.kind is IdentityKind.PARTY:
        names.append(x509.DNSName(server_name(identity.name)))
    return x509.SubjectAlternativeName(names)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _lifetime(days: int) -> timedelta:
    if not 1 <= days <= MAX_DAYS:
        raise CertificateError(f"valid for {days} days; allowed: 1 to {MAX_DAYS}")
    return timedelta(days=days)

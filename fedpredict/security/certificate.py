"""Certificates and keys as files and values: reading, and the one place that says when a chain is good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedpredict.errors import CertificateError, NameRefusedError
from fedpredict.security.identity import SCHEME, Identity, identity_from_uri

_Holder = TypeVar("_Holder", x509.Certificate, x509.CertificateSigningRequest)
DAMAGE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for what is damaged."""


def read_bytes(path: Path, what: str) -> bytes:
    """Return a file's content.

    Raises:
        CertificateError: With the path, what the file should hold, and the system's reason.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: the {what} cannot be read: {error.strerror}") from error


def parse_certificates(pem: bytes, source: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text, in its order; `source` names it in errors.

    Raises:
        CertificateError: It holds no certificate, or a damaged one.
    """
    with _refusing(f"{source}: not a certificate in PEM"):
        chain = tuple(x509.load_pem_x509_certificates(pem))
        for each in chain:
            _force(each)
        return chain


def parse_der(der: bytes, source: str) -> x509.Certificate:
    """Return the certificate of a DER; `source` names it in errors.

    Raises:
        CertificateError: It is none, or a damaged one.
    """
    with _refusing(f"{source}: not a certificate"):
        return _force(x509.load_der_x509_certificate(der))


def parse_request(pem: bytes, source: str) -> x509.CertificateSigningRequest:
    """Return the certificate request of a PEM text; `source` names it in errors.

    Raises:
        CertificateError: It is none, or a damaged one.
    """
    with _refusing(f"{source}: not a certificate request in PEM"):
        return _force(x509.load_pem_x509_csr(pem))


def parse_key(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 private key of a PEM text; `source` names it in errors.

    Raises:
        CertificateError: It is not an unencrypted key, or a key of another type.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise CertificateError(f"{source}: the key is encrypted; keep it plain, readable by its owner only") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{source}: not a private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise CertificateError(f"{source}: not a P-256 key; make one with `fedpredict certs request`")
    return key


def is_p256(key: object) -> bool:
    """Return whether `key` is an ECDSA public key on P-256, the one type in use (gRPC's TLS refuses Ed25519)."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Return whether the certificate was made for that key."""
    return certificate.public_key() == key.public_key()


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether the issuer's key signed the certificate; nothing else is looked at."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def key_fingerprint(holder: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the SHA-256 of the public key (its DER), in hex: the same for a request and what is made of it."""
    key = holder.public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether the certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def alternative_names(holder: x509.Certificate | x509.CertificateSigningRequest) -> x509.SubjectAlternativeName:
    """Return the subject alternative names; empty where there are none."""
    try:
        return holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def identity_of(holder: x509.Certificate | x509.CertificateSigningRequest, source: str) -> Identity:
    """Return the one identity that a certificate or a request states; `source` names it in errors.

    Raises:
        CertificateError: It states none, several, or one that breaks the rules.
    """
    uris = alternative_names(holder).get_values_for_type(x509.UniformResourceIdentifier)
    stated = [uri for uri in uris if uri.startswith(SCHEME)]
    if len(stated) != 1:
        raise CertificateError(f"{source}: states {len(stated)} identities; exactly one {SCHEME}... URI is needed")
    try:
        return identity_from_uri(stated[0])
    except NameRefusedError as error:
        raise CertificateError(f"{source}: {error}") from error


def check_dates(certificate: x509.Certificate, source: str, now: datetime) -> None:
    """Check that the certificate is valid at `now`.

    Raises:
        CertificateError: It is expired or not yet valid; with the date and this machine's clock.
    """
    clock = f"this machine's clock says {stamp(now)}"
    if now > certificate.not_valid_after_utc:
        ended = stamp(certificate.not_valid_after_utc)
        raise CertificateError(f"{source}: expired at {ended} ({clock}); ask the CA for a new one")
    if now < certificate.not_valid_before_utc:
        begins = stamp(certificate.not_valid_before_utc)
        raise CertificateError(f"{source}: not valid before {begins} ({clock}); set the clock, or wait")


def verify_chain(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
    *,
    source: str,
    server_name: str | None,
) -> None:
    """Check that a chain, leaf first, leads to one of the authorities and is meant for its use.

    Args:
        chain: The leaf and what lies between it and the authority.
        authorities: The trusted certificates; at least one.
        now: The instant of the check.
        source: Names the leaf in errors.
        server_name: The DNS name that a server must have; None for the use as a client.

    Raises:
        CertificateError: Expired, not yet valid, of another CA, for another name, or for another use.
    """
    check_dates(chain[0], source, now)
    policy = PolicyBuilder().store(Store(list(authorities))).time(now.astimezone(UTC).replace(tzinfo=None))
    try:
        if server_name is None:
            policy.build_client_verifier().verify(chain[0], list(chain[1:]))
        else:
            policy.build_server_verifier(x509.DNSName(server_name)).verify(chain[0], list(chain[1:]))
    except VerificationError as error:
        use = "a client" if server_name is None else f"the server {server_name}"
        issuer = chain[0].issuer.rfc4514_string()
        raise CertificateError(
            f"{source}: the CA does not vouch for it as {use} (issued by {issuer}): {error}; "
            "use the CA file of this federation, and a certificate that it signed for this party"
        ) from error


def verified_path(
    chain: Sequence[x509.Certificate],
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Return the certificates from a caller's leaf to one of the authorities, both included.

    Args:
        chain: The leaf, and what is known of its chain.
        between: Further certificates that the path may lead through.
        authorities: The trusted certificates; at least one.
        now: The instant of the check.

    Raises:
        CertificateError: There is no such path.
    """
    policy = PolicyBuilder().store(Store(list(authorities))).time(now.astimezone(UTC).replace(tzinfo=None))
    try:
        return tuple(policy.build_client_verifier().verify(chain[0], [*chain[1:], *between]).chain)
    except VerificationError as error:
        issuer = chain[0].issuer.rfc4514_string()
        raise CertificateError(
            f"no CA that is trusted here vouches for it ({error}); the certificate of its issuer, {issuer}, must stand "
            "in the `ca` file where lists of refused certificates are looked at"
        ) from error


def stamp(instant: datetime) -> str:
    """Return an instant in UTC, to the second, as people read it.

    >>> stamp(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02 03:04:05 UTC'
    """
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _force(holder: _Holder) -> _Holder:
    # cryptography parses these when they are asked for; whatever is damaged must show here, under one error.
    holder.public_key()
    _ = holder.extensions, holder.subject
    if isinstance(holder, x509.Certificate):
        _ = holder.issuer, holder.not_valid_before_utc, holder.not_valid_after_utc
    return holder


@contextmanager
def _refusing(problem: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise CertificateError(f"{problem} ({error})") from error

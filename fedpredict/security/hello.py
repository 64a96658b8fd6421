"""The proof in a hello: the answering party signs the caller's nonce with the key of its certificate.

A gRPC client in Python cannot read the certificate of the server it talks to; the hello shows it, and proves that the
answer comes from the holder of its key.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedpredict.errors import CertificateError, ProtocolError
from fedpredict.security import certificate as certificates
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, read_tls, server_name

NONCE_BYTES = 32
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign_hello(files: TlsFiles, party: str, nonce: bytes) -> bytes:
    """Return the signature (DER) over the caller's nonce, by the key of this party's certificate.

    Raises:
        ProtocolError: The nonce is not 32 bytes.
        CertificateError: The files cannot be used, or are another party's.
    """
    return sign_as(files, party, _message(party, nonce))[1]


def sign_as(files: TlsFiles, party: str, message: bytes) -> tuple[bytes, bytes]:
    """Return this party's chain (PEM) and a signature (DER) over a message, which begins with what it is meant for.

    Raises:
        CertificateError: The files cannot be used, or are another party's.
    """
    material = read_tls(files)
    expected = Identity(IdentityKind.PARTY, party)
    if material.identity != expected:
        raise CertificateError(f"{files.certificate}: belongs to {material.identity}, not to {expected}")
    return material.chain_pem, material.private_key.sign(message, _ALGORITHM)


def verify_hello(
    ca_pem: bytes, party: str, nonce: bytes, chain_pem: bytes, signature: bytes, *, now: datetime | None = None
) -> None:
    """Check that a hello was signed by the party that the caller meant to reach.

    Args:
        ca_pem: The authorities that the caller trusts.
        party: The party meant.
        nonce: The 32 bytes that the caller sent.
        chain_pem: The chain in the reply, leaf first.
        signature: The signature in the reply.
        now: The instant at which the chain must be valid; default: this moment.

    Raises:
        CertificateError: The chain is not the party's, or the signature is not by its key over this nonce.
    """
    message = _message(party, nonce)
    check_signed(ca_pem, party, message, chain_pem, signature, source=f"the hello of party {party}", now=now)


def check_signed(
    ca_pem: bytes,
    party: str,
    message: bytes,
    chain_pem: bytes,
    signature: bytes,
    *,
    source: str,
    now: datetime | None = None,
) -> None:
    """Check that a message was signed by a party; as `verify_hello`, `source` names the message in errors."""
    chain = certificates.parse_certificates(chain_pem, source)
    authorities = certificates.parse_certificates(ca_pem, "the CA file")
    certificates.verify_chain(
        chain, authorities, now or datetime.now(UTC), source=source, server_name=server_name(party)
    )
    expected = Identity(IdentityKind.PARTY, party)
    identity = certificates.identity_of(chain[0], source)
    if identity != expected:
        raise CertificateError(f"{source}: signed by {identity}, not by {expected}")
    key = chain[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not certificates.is_p256(key):
        raise CertificateError(f"{source}: its certificate's key is not P-256")
    try:
        key.verify(signature, message, _ALGORITHM)
    except InvalidSignature as error:
        raise CertificateError(f"{source}: the signature does not fit this message and its certificate") from error


def _message(party: str, nonce: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ProtocolError(f"a hello with a nonce of {len(nonce)} bytes; {NONCE_BYTES} are needed")
    return b"\0".join((b"fedpredict-hello-1", party.encode(), nonce))

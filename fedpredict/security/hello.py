"""The proof in a hello: the answering party signs who asks it, and the caller's nonce, with its certificate's key.

A gRPC client in Python cannot read the certificate of the server it talks to; the hello shows it, and proves that the
holder of its key answers this caller. Whoever passes a hello on has asked in a name of its own, which is signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedpredict.errors import CertificateError, ProtocolError
from fedpredict.security import certificate as certificates
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import server_name

NONCE_BYTES = 32
HELLO = "fedpredict-hello-2"
"""What an answering party signs first; see `hello_words`."""
ATTACH = "fedpredict-attach-1"
"""What an initiator signs first for a participant that dialled it; both ids follow, its own first."""
Proof: TypeAlias = tuple[bytes, bytes]
"""A chain in PEM, leaf first, and a signature (DER) by the leaf's key."""
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def hello_words(caller: Identity, party: str) -> tuple[str, ...]:
    """Return what an answering party signs before the nonce.

    Args:
        caller: Who asks: for the party that answers, whoever TLS proved at the other end; for the caller, itself.
        party: The party that answers.
    """
    return HELLO, caller.uri, party


def sign_message(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return the signature (DER) over a message, which begins with what it is meant for."""
    return key.sign(message, _ALGORITHM)


def message_of(words: Sequence[str], nonce: bytes) -> bytes:
    """Return what is signed: words that say what for, and the peer's nonce.

    Raises:
        ProtocolError: The nonce is not 32 bytes.
    """
    if len(nonce) != NONCE_BYTES:
        raise ProtocolError(f"a hello with a nonce of {len(nonce)} bytes; {NONCE_BYTES} are needed")
    return b"\0".join((*(word.encode() for word in words), nonce))


def check_signed(
    authorities: Sequence[x509.Certificate],
    party: str,
    message: bytes,
    proof: Proof,
    *,
    source: str,
    now: datetime,
) -> None:
    """Check that a party signed a message, which errors call `source`.

    Args:
        authorities: Those that the chain must lead to.
        party: The party meant.
        message: What was signed.
        proof: The chain and the signature.
        source: What errors call it.
        now: The instant at which the chain must be valid.

    Raises:
        CertificateError: The chain is not the party's, or the signature is not by its key for this message.
    """
    chain_pem, signature = proof
    chain = certificates.parse_certificates(chain_pem, source)
    certificates.verify_chain(chain, authorities, now, source=source, server_name=server_name(party))
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

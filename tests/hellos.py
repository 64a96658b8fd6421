"""Hellos as the two ends make and check them, out of files; daemons do both with what is in force (`LiveTls`)."""

from __future__ import annotations

from datetime import UTC, datetime

from fedpredict.security.certificate import parse_certificates
from fedpredict.security.hello import Proof, check_signed, hello_words, message_of, sign_message
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles, read_tls


def sign_hello(files: TlsFiles, party: str, caller: Identity, nonce: bytes) -> bytes:
    """Return the signature by a certificate's key for a caller of that party, and its nonce."""
    return sign_message(read_tls(files).private_key, message_of(hello_words(caller, party), nonce))


def verify_hello(
    ca_pem: bytes, party: str, caller: Identity, nonce: bytes, proof: Proof, *, now: datetime | None = None
) -> None:
    """Raise `CertificateError` unless a hello was signed by the party, for that caller and its nonce."""
    authorities = parse_certificates(ca_pem, "the CA file")
    message, source = message_of(hello_words(caller, party), nonce), f"the hello of party {party}"
    check_signed(authorities, party, message, proof, source=source, now=now or datetime.now(UTC))

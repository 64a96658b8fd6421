"""Mutual TLS for our own sockets (`wire.socket_carrier`): the same files, names and identities as gRPC's."""

from __future__ import annotations

import ssl

from fedpredict.errors import CertificateError, NameRefusedError, UnauthenticatedError
from fedpredict.security.certificate import identity_of, parse_der
from fedpredict.security.identity import Identity, identity_from_uri
from fedpredict.security.tls import TlsFiles, read_tls


def listening_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a listener that talks only to callers with a certificate of its CA.

    Raises:
        CertificateError: As `read_tls`.
    """
    return _context(files, ssl.PROTOCOL_TLS_SERVER)


def dialling_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a side that dials; the DNS name of the listener is given with each connection.

    Raises:
        CertificateError: As `read_tls`.
    """
    return _context(files, ssl.PROTOCOL_TLS_CLIENT)


def socket_identity(certificate: bytes | None, stated: str, *, insecure: bool) -> Identity:
    """Return who is at the other end of a connection.

    Args:
        certificate: What the peer proved in the handshake, as DER; None without TLS.
        stated: The URI that the peer states; counts only where `insecure`.
        insecure: Whether there is no TLS, on loopback.

    Raises:
        UnauthenticatedError: The peer has no identity, or more than one.
    """
    try:
        if insecure:
            return identity_from_uri(stated)
        return identity_of(parse_der(certificate or b"", "the peer's certificate"), "the peer's certificate")
    except (CertificateError, NameRefusedError) as error:
        raise UnauthenticatedError(f"the peer's identity cannot be used: {error}") from error


def _context(files: TlsFiles, protocol: int) -> ssl.SSLContext:
    read_tls(files)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    # an encrypted key must fail, not ask at the terminal
    context.load_cert_chain(files.certificate, files.key, password="")
    return context

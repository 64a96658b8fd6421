"""Mutual TLS for our own sockets (`wire.socket_carrier`): the same files, names and identities as gRPC's."""

from __future__ import annotations

import _ssl
import os
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedpredict.errors import CertificateError
from fedpredict.security.tls import TlsMaterial


def peer_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """Return the chain that a handshake verified, up to the CA: a DER per certificate, leaf first.

    It is empty where the peer showed no certificate, which only listeners that also take tokens allow.
    """
    if sys.version_info >= (3, 13):
        return tuple(tls.get_verified_chain())
    # what became public in 3.13
    chain = tls._sslobj.get_verified_chain()  # type: ignore[union-attr]  # noqa: SLF001
    return tuple(each.public_bytes(_ssl.ENCODING_DER) for each in chain or ())


@dataclass(frozen=True, slots=True)
class Contexts:
    """What handshakes are made with, of one set of files.

    Attributes:
        ca_pem: The authorities that peers are held to.
        listening: For links that are accepted.
        dialling: For links that are dialled.
        asking: For seeing a gRPC server's certificate.
        https: For an HTTP server.
    """

    ca_pem: bytes
    listening: ssl.SSLContext
    dialling: ssl.SSLContext
    asking: ssl.SSLContext
    https: ssl.SSLContext


def build_contexts(material: TlsMaterial, ca_pem: bytes) -> Contexts:
    """Return the contexts of what was read; the files are not looked at again.

    Raises:
        CertificateError: The library does not take what was read.
    """
    with _pem_file(material.chain_pem + b"\n" + material.key_pem) as pem:

        def build(protocol: int, least: ssl.TLSVersion) -> ssl.SSLContext:
            context = ssl.SSLContext(protocol)
            context.minimum_version = least
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=ca_pem.decode("ascii", "ignore"))
            # an encrypted key must fail, not ask at the terminal
            context.load_cert_chain(pem, password="")
            return _without_resumption(context)

        try:
            listening = build(ssl.PROTOCOL_TLS_SERVER, ssl.TLSVersion.TLSv1_3)
            dialling = build(ssl.PROTOCOL_TLS_CLIENT, ssl.TLSVersion.TLSv1_3)
            asking = build(ssl.PROTOCOL_TLS_CLIENT, ssl.TLSVersion.TLSv1_2)
            https = build(ssl.PROTOCOL_TLS_SERVER, ssl.TLSVersion.TLSv1_2)
        except (OSError, ValueError) as error:
            raise CertificateError(f"the certificate and its key cannot be used: {error}") from error
    asking.set_alpn_protocols(["h2"])
    https.set_alpn_protocols(["http/1.1"])
    return Contexts(ca_pem, listening, dialling, asking, https)


def front_context(newest: Callable[[], ssl.SSLContext], *, optional: bool = False) -> ssl.SSLContext:
    """Return a context for a listener's life, which hands each handshake over to the newest one.

    Args:
        newest: Returns it.
        optional: Whether peers without a certificate are let in, too; a certificate of another CA never is.
    """

    def hand_over(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = newest()

    first = newest()
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.minimum_version = first.minimum_version
    front.verify_mode = ssl.CERT_OPTIONAL if optional else first.verify_mode  # it stays when contexts change
    # called with every handshake, whether or not the caller names a server
    front.sni_callback = hand_over
    return _without_resumption(front)


def _without_resumption(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context, whose handshakes check certificates every time."""
    context.options |= ssl.OP_NO_TICKET
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


@contextmanager
def _pem_file(content: bytes) -> Iterator[str]:
    """Give the name of a file with this content, which no other user can read; `ssl` reads nothing but files."""
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").exists():
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("fedpredict-tls")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)

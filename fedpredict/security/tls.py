"""Mutual TLS for gRPC: credentials from files, checked before they are used, and the identity of a peer."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedpredict.errors import CertificateError, NameRefusedError, UnauthenticatedError
from fedpredict.security import certificate as certificates
from fedpredict.security.identity import SCHEME, Identity, IdentityKind, identity_from_uri

IDENTITY_METADATA = "fedpredict-identity"
"""The metadata key under which a caller states its URI where there is no TLS."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""A call as its servicer sees it, whatever its messages are."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one end.

    Attributes:
        ca: The certificates of the authorities that peers are held to, in PEM.
        certificate: This end's certificate chain in PEM, leaf first.
        key: The leaf's private key (P-256) in PEM, unencrypted.
        crl: The CAs' revocation lists; None where none are looked at.
        deny: The public keys that are refused, a SHA-256 in hex per line; None where there is no such list.
        accepts_stale_crl: Whether a revocation list still counts whose time is over.
    """

    ca: Path
    certificate: Path
    key: Path
    crl: Path | None = None
    deny: Path | None = None
    accepts_stale_crl: bool = False


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What `TlsFiles` hold, read and checked.

    Attributes:
        ca_pem: The authorities.
        chain_pem: The chain, leaf first.
        key_pem: The private key; not in the repr.
        chain: The chain's certificates.
        authorities: The authorities' certificates.
        private_key: The private key; not in the repr.
        identity: What the leaf states.
    """

    ca_pem: bytes
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    authorities: tuple[x509.Certificate, ...]
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    identity: Identity


def read_tls(files: TlsFiles, now: datetime | None = None) -> TlsMaterial:
    """Return the content of the files, checked: all fit together and are valid at `now` (default: this moment).

    gRPC reports none of this: a wrong file shows as a connection that closes.

    Raises:
        CertificateError: A file is unreadable or damaged, the key belongs to another certificate, the certificate is
            expired, not yet valid, of another CA, or states no identity. It names the file and the fix.
    """
    now = datetime.now(UTC) if now is None else now
    ca_pem = certificates.read_bytes(files.ca, "CA certificate")
    chain_pem = certificates.read_bytes(files.certificate, "certificate")
    key_pem = certificates.read_bytes(files.key, "private key")
    authorities = certificates.parse_certificates(ca_pem, str(files.ca))
    chain = certificates.parse_certificates(chain_pem, str(files.certificate))
    private_key = certificates.parse_key(key_pem, str(files.key))
    if not certificates.same_key(chain[0], private_key):
        raise CertificateError(f"{files.key}: not the key of {files.certificate}; put the pair that belongs together")
    identity = certificates.identity_of(chain[0], str(files.certificate))
    certificates.verify_chain(chain, authorities, now, source=str(files.certificate), server_name=None)
    return TlsMaterial(ca_pem, chain_pem, key_pem, chain, authorities, private_key, identity)


def read_server_tls(files: TlsFiles) -> TlsMaterial:
    """Return what `read_tls` does, for a server.

    Raises:
        CertificateError: As `read_tls`, or the certificate is a client's.
    """
    material = read_tls(files)
    if material.identity.kind is not IdentityKind.PARTY:
        raise CertificateError(f"{files.certificate}: belongs to {material.identity}; a server needs a party's")
    certificates.verify_chain(
        material.chain,
        material.authorities,
        datetime.now(UTC),
        source=str(files.certificate),
        server_name=server_name(material.identity.name),
    )
    return material


def authority_credentials(ca: Path) -> grpc.ChannelCredentials:
    """Return credentials for a channel of a caller without a certificate, who holds the server to a CA.

    Raises:
        CertificateError: The file is unreadable or damaged.
    """
    ca_pem = certificates.read_bytes(ca, "CA certificate")
    certificates.parse_certificates(ca_pem, str(ca))
    return grpc.ssl_channel_credentials(root_certificates=ca_pem)


def channel_credentials(tls: TlsFiles | TlsMaterial) -> grpc.ChannelCredentials:
    """Return credentials for a channel; the channel's options name the server (see `server_name`).

    Args:
        tls: The files, or what was read of them.

    Raises:
        CertificateError: As `read_tls`.
    """
    material = read_tls(tls) if isinstance(tls, TlsFiles) else tls
    return grpc.ssl_channel_credentials(
        root_certificates=material.ca_pem, private_key=material.key_pem, certificate_chain=material.chain_pem
    )


def server_name(party: str) -> str:
    """Return the DNS name in a party's certificate, which a client verifies wherever the party's server runs.

    >>> server_name("lab")
    'lab.party.fedpredict'
    """
    return f"{party}.party.fedpredict"


def stated_identity(identity: Identity) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a caller says who it is where there is no TLS to prove it."""
    return ((IDENTITY_METADATA, identity.uri),)


def stated_caller(context: Context) -> Identity:
    """Return who the caller of a server without TLS, on loopback, states to be.

    Raises:
        UnauthenticatedError: The caller states no identity, or more than one.
    """
    return single_identity(
        [str(value) for key, value in context.invocation_metadata() or () if key == IDENTITY_METADATA]
    )


def is_loopback(address: str) -> bool:
    """Return whether `host:port` (or `[v6]:port`) can be reached from this machine only.

    >>> [is_loopback(a) for a in ("127.0.0.1:7443", "localhost:1", "[::1]:7443", "0.0.0.0:7443", "lab.example:7443")]
    [True, True, True, False, False]
    """
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def single_identity(names: Sequence[str]) -> Identity:
    """Return the one identity among a caller's names; raise `UnauthenticatedError` where there is none, or two."""
    uris = [name for name in names if name.startswith(SCHEME)]
    if len(uris) != 1:
        raise UnauthenticatedError(f"the caller has {len(uris)} identities; exactly one {SCHEME}... URI is needed")
    try:
        return identity_from_uri(uris[0])
    except NameRefusedError as error:
        raise UnauthenticatedError(f"the caller's identity cannot be used: {error}") from error

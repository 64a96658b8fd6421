"""The names and types that the tests of certificates share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpredict.security import certs
from fedpredict.security.certs import CaFiles
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import Context, TlsFiles

HOSPITAL = Identity(IdentityKind.PARTY, "hospital")
LAB = Identity(IdentityKind.PARTY, "lab")
DESK = Identity(IdentityKind.CLIENT, "risk-desk")
NOW = datetime.now(UTC).replace(microsecond=0)
"""When the tests began; certificates have whole seconds."""


@dataclass(frozen=True)
class Certificates:
    """Two parties and a client of one CA, and what must be refused: `expired`, `early` and `stranger` all say lab."""

    ca: CaFiles
    hospital: TlsFiles
    lab: TlsFiles
    desk: TlsFiles
    expired: TlsFiles
    early: TlsFiles
    expiring: TlsFiles
    stranger: TlsFiles


Behaviour = Callable[[bytes, Context], Awaitable[bytes]]
Serve = Callable[[grpc.ServerCredentials | None, Behaviour], Awaitable[str]]


async def answer(_: bytes, __: Context) -> bytes:
    """Answer every call."""
    return b"answer"


def raw_credentials(files: TlsFiles, ca: TlsFiles | None = None) -> grpc.ServerCredentials:
    """Credentials as a careless server would have them: nothing is checked at start."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_credentials(
        [pair], root_certificates=(ca or files).ca.read_bytes(), require_client_auth=True
    )


def odd_certificate(
    certificates: Certificates,
    directory: Path,
    names: Sequence[x509.GeneralName] | bytes,
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> TlsFiles:
    """Make a certificate for server and client that the federation's CA would never make, signed with its key.

    Names given as bytes stand in the extension as they are.
    """
    ca = x509.load_pem_x509_certificate(certificates.ca.certificate.read_bytes())
    ca_key = serialization.load_pem_private_key(certificates.ca.key.read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = key or ec.generate_private_key(ec.SECP256R1())
    if isinstance(names, bytes):
        stated: x509.ExtensionType = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
    else:
        stated = x509.SubjectAlternativeName(names)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedpredict://party/hospital")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(stated, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = certs.leaf_files(directory, "odd")
    files.ca.write_bytes(certificates.ca.certificate.read_bytes())
    files.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files

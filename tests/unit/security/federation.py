"""The names and types that the tests of certificates share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from fedpredict.security.certs import CaFiles
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import Context, TlsFiles

HOSPITAL = Identity(IdentityKind.PARTY, "hospital")
LAB = Identity(IdentityKind.PARTY, "lab")
DESK = Identity(IdentityKind.CLIENT, "risk-desk")
NOW = datetime.now(UTC)


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

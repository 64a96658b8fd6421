"""Mutual TLS for HTTP: the server's side of it, and who a request is from."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import lru_cache

from fedpredict.errors import NameRefusedError, UnauthenticatedError
from fedpredict.security.identity import SCHEME, Identity, IdentityKind, identity_from_uri
from fedpredict.security.sockets import build_contexts
from fedpredict.security.tls import TlsFiles, read_server_tls, single_identity

LOCAL_CLIENT = "local"
"""Who a caller is that states nothing, where there is no TLS."""


def https_context(files: TlsFiles, *, takes_tokens: bool = False) -> ssl.SSLContext:
    """Return the context of a server that talks only to callers with a certificate of its CA.

    Args:
        files: The server's.
        takes_tokens: Whether callers without a certificate are let in, too; a certificate of another CA never is.

    Raises:
        CertificateError: A file is unreadable or damaged, they do not fit together, or the certificate is a client's.
    """
    material = read_server_tls(files)
    context = build_contexts(material, material.ca_pem).https
    context.verify_mode = ssl.CERT_OPTIONAL if takes_tokens else ssl.CERT_REQUIRED
    return context


def http_identity(uris: Sequence[str] | None, stated: str | None) -> Identity:
    """Return who a request is from.

    Args:
        uris: The URIs among the names of the caller's certificate, none without one; None where the server runs
            without TLS, on loopback.
        stated: A client's name, or an identity's URI, as the caller states it; read without TLS only.

    Raises:
        UnauthenticatedError: The caller has no identity, or more than one.
    """
    return _proved(tuple(uris)) if uris is not None else _stated(stated or LOCAL_CLIENT)


@lru_cache(maxsize=1024)
def _proved(uris: tuple[str, ...]) -> Identity:
    return single_identity(uris)


@lru_cache(maxsize=1024)
def _stated(name: str) -> Identity:
    try:
        return identity_from_uri(name) if name.startswith(SCHEME) else Identity(IdentityKind.CLIENT, name)
    except NameRefusedError as error:
        raise UnauthenticatedError(f"the caller's identity cannot be used: {error}") from error

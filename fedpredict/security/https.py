"""Who a request over HTTP is from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from fedpredict.errors import NameRefusedError, UnauthenticatedError
from fedpredict.security.identity import SCHEME, Identity, IdentityKind, identity_from_uri
from fedpredict.security.tls import single_identity

LOCAL_CLIENT = "local"
"""Who a caller is that states nothing, where there is no TLS."""


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

"""Who is at the other end of a call or a connection, and what holds it to the certificate that it showed."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from fedpredict.errors import NameRefusedError, UnauthenticatedError
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.identity import Identity, IdentityKind, identity_from_uri
from fedpredict.security.live import LiveTls, Standing
from fedpredict.security.sockets import peer_chain
from fedpredict.security.tls import Context, stated_caller
from fedpredict.security.verdicts import Presented

_PEM = "x509_pem_cert"
"""gRPC's name for the caller's certificate, without what lies between it and its CA."""


def caller_identity(context: Context, live: LiveTls | None) -> Identity:
    """Return who is calling over gRPC.

    Args:
        context: The call.
        live: What certificates are held to; None where there is no TLS, and callers state who they are.

    Raises:
        UnauthenticatedError: The caller has no identity, or more than one.
        CertificateRefusedError: Its certificate is good no more.
    """
    return stated_caller(context) if live is None else live.check(shown_in(context))


def socket_caller(tls: ssl.SSLObject | None, stated: str, live: LiveTls | None) -> tuple[Identity, Presented]:
    """Return who is at the other end of a socket, and what certificates prove it.

    Args:
        tls: The connection's; None for plain text.
        stated: The URI that the peer states; counts only without TLS.
        live: As `caller_identity`.

    Raises:
        UnauthenticatedError: The peer has no identity, or more than one.
        CertificateRefusedError: Its certificate is good no more.
    """
    if live is not None:
        shown = () if tls is None else peer_chain(tls)
        return live.check(shown), shown
    try:
        return identity_from_uri(stated), ()
    except NameRefusedError as error:
        raise UnauthenticatedError(f"the peer's identity cannot be used: {error}") from error


def socket_server(tls: ssl.SSLObject | None, party: str, live: LiveTls | None) -> Presented:
    """Return what certificates a party showed whose socket was dialled; none without TLS.

    Raises:
        UnauthenticatedError: They are not that party's.
        CertificateRefusedError: They are good no more.
    """
    meant = Identity(IdentityKind.PARTY, party)
    found, shown = socket_caller(tls, meant.uri, live)
    if found != meant:
        raise UnauthenticatedError(f"the certificate of {found} is at the address of {meant}")
    return shown


def hold(live: LiveTls | None, end: Standing, presented: Presented) -> None:
    """Have a connection closed when the peer's certificate is good no more; without TLS there is none."""
    if live is not None:
        live.hold(end, presented)


def holding(live: LiveTls | None) -> Callable[[Context, Standing], None]:
    """Return what holds a stream to the certificate of its caller."""

    def hold_caller(context: Context, end: Standing) -> None:
        shown = shown_in(context)
        if shown:  # who came with a token alone has shown none
            hold(live, end, shown)

    return hold_caller


def admitting(
    live: LiveTls | None, audit: AuditedCalls | None = None
) -> Callable[[ssl.SSLObject, Standing], None] | None:
    """Return what is asked with every connection of HTTP, and closes those whose caller is believed no more.

    It raises `SecurityError` for a caller who is not believed now. None where there is no TLS.

    Args:
        live: What certificates are held to.
        audit: Writes down who is not believed; default: nothing does.
    """
    audit = audit or AuditedCalls(None)
    if live is None:
        return None

    def admit(tls: ssl.SSLObject, connection: Standing) -> None:
        shown = peer_chain(tls)
        if shown:  # callers without a certificate are let in where tokens are taken, and have to show one
            with audit.strangers("HTTP"):
                live.check(shown)
            live.hold(connection, shown)

    return admit


def shown_in(context: Context) -> bytes:
    """Return the certificate of a call's caller, in PEM; empty where it has none."""
    return next(iter(context.auth_context().get(_PEM, ())), b"")

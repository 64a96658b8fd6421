"""Links that participants dial, where they open no port (ADR 0012): who may attach, and to which party's pool."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack

from fedpredict.errors import ConfigError, FedPredictError, UnauthenticatedError
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.callers import caller_identity, hold, shown_in, socket_caller
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.verdicts import Presented
from fedpredict.wire.handlers import Context, compress_like_caller
from fedpredict.wire.link import HANDSHAKE_S, NONCE_METADATA, LinkEnd, check_links
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.socket_carrier import SocketCarrier, listen_sockets
from fedpredict.wire.stream_carrier import StreamCarrier

logger = logging.getLogger(__name__)


class Attachments:
    """Takes links from the parties that the settings list with `connect = "in"`, and from nobody else."""

    def __init__(
        self, parties: Mapping[str, RemoteParty], live: LiveTls | None, audit: AuditedCalls | None = None
    ) -> None:
        """Prepare; nothing listens.

        Args:
            parties: By party id: what it must prove, and the pools that its links are added to.
            live: What their certificates are held to; None where there is no TLS, and they state who they are.
            audit: Writes down who is refused; default: nothing does.
        """
        self._audit = audit or AuditedCalls(None)
        self._parties = parties
        self._live = live
        self._links: set[LinkCaller] = set()
        self._greeting: set[asyncio.Task[None]] = set()

    async def listen(
        self, listen: str, context: ssl.SSLContext | None, stack: AsyncExitStack, *, reuse_port: bool = False
    ) -> str:
        """Take links over sockets until `stack` unwinds; return host:port with the real number.

        Args:
            listen: host:port.
            context: The TLS context; None for plain text.
            stack: Ends the listening.
            reuse_port: Whether several workers listen at one port.

        Raises:
            ConfigError: The port is taken, or the address is not of this machine.
        """

        def opened(carrier: SocketCarrier) -> LinkEnd:
            with self._audit.strangers("Attach"):
                identity, shown = socket_caller(carrier.tls, carrier.stated, self._live)
            return self._begin(identity, carrier, shown)

        try:
            server, address = await listen_sockets(listen, context, opened, reuse_port=reuse_port)
        except OSError as error:
            raise ConfigError(f"link_listen: {listen} cannot be bound: {error.strerror or error}") from error
        stack.callback(server.close)
        return address

    async def attach(self, context: Context) -> None:
        """Serve a link over a gRPC stream that a participant opened, until it ends.

        Raises:
            UnauthenticatedError: The settings do not list the caller with `connect = "in"`.
            CertificateRefusedError: Its certificate is good no more.
        """
        with self._audit.strangers("Attach"):
            identity = caller_identity(context, self._live)
        carrier = StreamCarrier(context, str(context.peer()))
        link = self._begin(identity, carrier, shown_in(context), asked=_nonce_of(context))
        compress_like_caller(context)
        await carrier.run(link)
        caller_identity(context, self._live)  # where nobody believes the caller any more, the status says so

    def close(self) -> None:
        """Close the links that were dialled to us: streams would outlast a server that drains."""
        for link in tuple(self._links):
            link.close("this initiator stops")

    def _begin(
        self, identity: Identity, carrier: SocketCarrier | StreamCarrier, shown: Presented, asked: bytes = b""
    ) -> LinkCaller:
        remote = self._parties.get(identity.name) if identity.kind is IdentityKind.PARTY else None
        if remote is None:
            error = UnauthenticatedError(f'{identity} attaches, but is not under [parties] with connect = "in"')
            self._audit.stranger("Attach", error, str(identity))
            raise error
        check_links(sum(link.party == remote.party for link in self._links), identity)

        def changed(link: LinkCaller) -> None:
            if link.closed_because:
                self._links.discard(link)
            for pool in (remote.pool, remote.offline.pool):  # the one that does not have it takes no notice
                pool.link_changed(link)

        link = LinkCaller(remote.party, carrier, changed=changed)
        self._links.add(link)
        hold(self._live, link, shown)
        task = asyncio.create_task(self._greet(remote, link, carrier.peer, shown, asked))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)
        return link

    async def _greet(self, remote: RemoteParty, link: LinkCaller, peer: str, shown: Presented, asked: bytes) -> None:
        try:
            instance = await remote.who.greet(link, HANDSHAKE_S, shown=shown, asked=asked)
        except FedPredictError as error:
            logger.warning("link.refused", extra={"party": remote.party, "peer": peer, "reason": str(error)})
            link.close(f"no hello: {type(error).__name__}")
            return
        if not instance.for_offline:
            remote.pool.add(link, instance)
        elif remote.offline.is_open:
            remote.offline.pool.add(link, instance)
        else:
            link.close("no offline task needs it any more")
        remote.offline.pool.changed.set()  # whoever asks for links looks again


def _nonce_of(context: Context) -> bytes:
    """Return the nonce of a participant that asks whom it reached; empty where it does not."""
    for key, value in context.invocation_metadata() or ():
        if key == NONCE_METADATA and isinstance(value, bytes):
            return value
    return b""

"""Links that participants dial, where they open no port (ADR 0012): who may attach, and to which party's pool."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack

from fedpredict.errors import ConfigError, FedPredictError, UnauthenticatedError
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.sockets import socket_identity
from fedpredict.security.tls import peer_identity
from fedpredict.wire.handlers import Context, compress_like_caller
from fedpredict.wire.link import HANDSHAKE_S, Carrier, LinkEnd
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.socket_carrier import SocketCarrier, listen_sockets
from fedpredict.wire.stream_carrier import StreamCarrier

logger = logging.getLogger(__name__)


class Attachments:
    """Takes links from the parties that the settings list with `connect = "in"`, and from nobody else."""

    def __init__(self, parties: Mapping[str, RemoteParty], *, insecure: bool) -> None:
        """Prepare; nothing listens.

        Args:
            parties: By party id: what it must prove, and the pools that its links are added to.
            insecure: Whether there is no TLS, so that parties state who they are.
        """
        self._parties = parties
        self._insecure = insecure
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
            identity = socket_identity(carrier.peer_certificate, carrier.stated, insecure=self._insecure)
            return self._begin(identity, carrier, carrier.peer)

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
        """
        identity = peer_identity(context, insecure=self._insecure)
        carrier = StreamCarrier(context, str(context.peer()))
        link = self._begin(identity, carrier, carrier.peer)
        compress_like_caller(context)
        await carrier.run(link)

    def close(self) -> None:
        """Close the links that were dialled to us: streams would outlast a server that drains."""
        for link in tuple(self._links):
            link.close("this initiator stops")

    def _begin(self, identity: Identity, carrier: Carrier, peer: str) -> LinkCaller:
        remote = self._parties.get(identity.name) if identity.kind is IdentityKind.PARTY else None
        if remote is None:
            raise UnauthenticatedError(f'{identity} attaches, but is not under [parties] with connect = "in"')

        def changed(link: LinkCaller) -> None:
            if link.closed_because:
                self._links.discard(link)
            for pool in (remote.pool, remote.offline.pool):  # the one that does not have it takes no notice
                pool.link_changed(link)

        link = LinkCaller(remote.party, carrier, changed=changed)
        self._links.add(link)
        task = asyncio.create_task(self._greet(remote, link, peer))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)
        return link

    async def _greet(self, remote: RemoteParty, link: LinkCaller, peer: str) -> None:
        try:
            instance = await remote.who.greet(link, HANDSHAKE_S)
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

"""A client that writes bytes through mutual TLS."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from fedpredict.security.tls import TlsFiles, server_name
from tests.integration.http.edge import Reply, Wire


@dataclass(frozen=True)
class HttpsClient:
    """Somebody who asks the initiator "bank".

    Attributes:
        address: host:port.
        tls: Certificate, key, and the CA that the server is held to; None: no certificate, any server.
        verify: Whether the server is held to the CA.
    """

    address: str
    tls: TlsFiles | None
    verify: bool = True

    async def connect(self) -> Wire:
        """Open a connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.tls is None or not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.tls is not None:
            context.load_verify_locations(self.tls.ca)
            context.load_cert_chain(self.tls.certificate, self.tls.key)
        host, _, port = self.address.rpartition(":")
        opening = asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("bank"))
        return Wire(*await opening)

    async def ask(self, *pieces: bytes) -> Reply:
        """Write bytes on a connection of their own, and read the answer."""
        async with await self.connect() as wire:
            return await wire.ask(*pieces)

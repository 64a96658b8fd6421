"""The certificate at an address, seen before a stream of gRPC is opened there, which shows its client none."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

from fedpredict.errors import PartyUnavailableError, SecurityError
from fedpredict.security.callers import socket_server
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import server_name

FRESH_S = 10.0
"""So long a certificate that was seen is taken for the address's: links to several workers are dialled in a row."""
_MOST_MACHINES = 8


class Sight:
    """Looks at what an address shows. A channel with that as its pin leads to this very certificate, or nowhere.

    See ADR 0053. Several machines with certificates of their own may stand behind one address, in turn: a look and the
    connection after it meet two of them then. So with each failure there is one connection more between the two.
    """

    def __init__(self, address: str, party: str, live: LiveTls | None) -> None:
        """Prepare; nothing connects.

        Args:
            address: host:port.
            party: Whose certificate it must be.
            live: What it is held to; None for plain text.
        """
        self._address = address
        self._party = party
        self._live = live
        self._pin = b""
        self._until = 0.0
        self._failures = 0

    async def pin(self, timeout_s: float) -> bytes:
        """Return the chain that the party's server shows, in PEM; empty without TLS.

        Args:
            timeout_s: How long to wait.

        Raises:
            PartyUnavailableError: Nothing listens, nobody answers, or TLS failed.
            UnauthenticatedError: The certificate is not that party's.
            CertificateRefusedError: It is good no more.
        """
        if self._live is None:
            return b""
        if not self._is_fresh(self._live):
            try:
                async with asyncio.timeout(timeout_s):
                    self._pin = await self._look(self._live)
                    for _ in range(self._failures % _MOST_MACHINES):
                        await self._look(self._live)
            except (OSError, UnicodeError) as error:  # the latter: a host that cannot be put into the form of DNS
                told = f"party {self._party}: {type(error).__name__}: {error}".removesuffix(": ")
                raise PartyUnavailableError(told, party=self._party) from error
            self._until = monotonic() + FRESH_S
        return self._pin

    def failed(self) -> None:
        """Learn that the last pin led to no link: next time there is another look."""
        self._until = 0.0
        self._failures += 1

    def _is_fresh(self, live: LiveTls) -> bool:
        """Return whether the last look still counts: what it saw may be refused since."""
        if monotonic() >= self._until:
            return False
        try:
            live.check(self._pin)
        except SecurityError:
            return False
        return True

    async def _look(self, live: LiveTls) -> bytes:
        host, _, port = self._address.rpartition(":")
        _, writer = await asyncio.open_connection(
            host.removeprefix("[").removesuffix("]"),
            int(port),
            ssl=live.asking_context(),
            server_hostname=server_name(self._party),
        )
        try:
            shown = socket_server(writer.get_extra_info("ssl_object"), self._party, live)
        finally:
            writer.transport.abort()  # nothing is asked on it
        return "".join(ssl.DER_cert_to_PEM_cert(each) for each in shown if isinstance(each, bytes)).encode()

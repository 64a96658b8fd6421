"""Where a client's calls go: the checked constructor arguments, shared by both clients."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic

import grpc

from fedpredict.client.credentials import Credentials
from fedpredict.errors import ConfigError, DeadlineExceededError, InputError
from fedpredict.model.ids import check_party_id
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.passwords import AUTHORIZATION, check_token_text
from fedpredict.security.tls import TlsFiles, is_loopback, server_name, stated_identity
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL, Options, channel_options


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and who asks it.

    Attributes:
        address: host:port.
        credentials: For TLS, followed while their files change; None for plain text.
        options: Of the channel.
        metadata: Of every call; a token is among it.
        chunk_size: The most sample ids in one call.
        key: Equal for targets that may share a connection: the same server, the same caller, the same files.
        name: The DNS name that the server must have; empty for plain text.
        tls: This caller's files; None for plain text.
    """

    address: str
    credentials: Credentials | None
    options: Options = field(repr=False)
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    chunk_size: int
    key: Hashable = field(repr=False)
    name: str = ""
    tls: TlsFiles | None = None

    def open_channel(self) -> grpc.aio.Channel:
        """Return a channel for the event loop that runs now; the caller closes it."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, options=self.options)
        return grpc.aio.secure_channel(self.address, self.credentials.newest, options=self.options)


def build_target(
    address: str,
    *,
    server_party: str | None,
    tls: TlsFiles | None,
    insecure: bool,
    identity: Identity | None,
    chunk_size: int,
    token: str | None = None,
    ca: Path | None = None,
) -> Target:
    """Return the target that a client's constructor arguments describe.

    Raises:
        ConfigError: They do not fit together; it says what to pass.
        CertificateError: A file of `tls`, or `ca`, cannot be used.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the server's address is {address!r}; write host:port, such as 127.0.0.1:7440")
    if not 1 <= chunk_size <= MAX_SAMPLES_PER_CALL:
        raise ConfigError(f"chunk_size is {chunk_size}; allowed: 1 to {MAX_SAMPLES_PER_CALL}")
    if tls is not None and ca is not None:
        raise ConfigError("tls and ca were both given; ca is for a caller with a token and no certificate of its own")
    shown = () if token is None else ((AUTHORIZATION, f"Bearer {check_token_text(token)}"),)
    if insecure:
        return _plain_target(address, tls, identity, chunk_size, shown)
    files = ca if tls is None and shown else tls
    if files is None or server_party is None:
        raise ConfigError(
            "a connection needs tls (the CA, a certificate, its key: `fedpredict certs`), or ca and a token, and "
            "server_party (the party that runs the initiator, which its certificate must name); insecure=True works on "
            "loopback only"
        )
    if tls is not None and (tls.crl is not None or tls.deny is not None):
        raise ConfigError(
            "tls has crl or deny: a client never sees its server's certificate, so that these lists would do nothing; "
            "take them out, and replace the CA where a server is to be refused"
        )
    name = server_name(check_party_id(server_party))
    credentials = Credentials(files)
    key = (address, server_party, credentials.key, _digest(shown))
    return Target(address, credentials, channel_options(name), shown, chunk_size, key, name, tls)


def _plain_target(
    address: str, tls: TlsFiles | None, identity: Identity | None, chunk_size: int, shown: tuple[tuple[str, str], ...]
) -> Target:
    if tls is not None:
        raise ConfigError("insecure=True and tls were both given; drop one")
    if not is_loopback(address):
        raise ConfigError(f"insecure=True is for loopback only, and {address} is not; use TLS")
    stated = identity if identity is not None else Identity(IdentityKind.CLIENT, "local")
    metadata = (*stated_identity(stated), *shown)
    return Target(address, None, channel_options(), metadata, chunk_size, (address, stated, _digest(shown)))


def _digest(shown: tuple[tuple[str, str], ...]) -> bytes:
    return sha256(repr(shown).encode()).digest()


MAX_TIMEOUT_S = 4e6
"""The longest that a call is waited for, some 46 days: milliseconds travel in 32 bits."""


class Deadline:
    """The end of one call of the user's, however many calls to the server it takes."""

    def __init__(self, timeout_s: float) -> None:
        try:
            is_time = 0.0 < timeout_s < math.inf
        except TypeError:
            is_time = False
        if not is_time:
            raise InputError(f"timeout_s is {timeout_s!r}; a number of seconds above 0 is needed")
        self.timeout_s = float(min(timeout_s, MAX_TIMEOUT_S))
        self._end = monotonic() + self.timeout_s

    def remaining_s(self) -> float:
        """Return the seconds left.

        Raises:
            DeadlineExceededError: None are left.
        """
        left = self._end - monotonic()
        if left <= 0.0:
            raise DeadlineExceededError(f"no answer within {self.timeout_s:g} s")
        return left

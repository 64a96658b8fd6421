"""The TLS files of a running process: followed while they change, and the one place that says which peers are good.

A new certificate is taken when the set is whole (key, certificate, chain, dates, and the same identity) and has not
changed between two looks; a bad set leaves what is in force. Lists of revoked and denied certificates are taken as
soon as they can be read; then every connection that stands is held to them, too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedpredict.errors import CertificateError, CertificateRefusedError, ConfigError, UnauthenticatedError
from fedpredict.security import certificate as certificates
from fedpredict.security.followed import Followed
from fedpredict.security.hello import Proof, check_signed, message_of, sign_message
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.revocation import Lists, describe, parse_crls, parse_denied
from fedpredict.security.sockets import front_context
from fedpredict.security.tls import TlsFiles, TlsMaterial, read_server_tls, read_tls
from fedpredict.security.verdicts import InForce, Presented, Verdicts, grpc_configuration, leaf_of, put_in_force

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the files are looked at; a new certificate is taken at the second look that finds the same files."""
_SWEEP = timedelta(seconds=10)
"""How often connections are held to the clock; to lists as soon as these have changed."""
WARN_DAYS = 30
"""So long before the end the log says daily that a certificate ends."""
CRL_WARNING = timedelta(days=7)
"""So long before its end the log says daily that a revocation list ends."""
Now: TypeAlias = Callable[[], datetime]


class Standing(Protocol):
    """A connection that stands, and can be closed."""

    def close(self, reason: str) -> None:
        """Close at once; a second call changes nothing."""


class LiveTls:
    """What one process proves and whom it believes, now. Safe to use from any thread, but for `hold` and `sweep`."""

    def __init__(self, files: TlsFiles, *, serves: bool = False, now: Now | None = None) -> None:
        """Read the files.

        Args:
            files: This end's.
            serves: Whether this is a party's server, which needs a certificate for it.
            now: The clock.

        Raises:
            CertificateError: They cannot be used, or this end's own certificate is on one of the lists.
        """
        self.files = files
        self._serves = serves
        self._now = now or _utc_now
        self._own = Followed((files.ca, files.certificate, files.key), settles=True)
        self._listed = Followed([path for path in (files.crl, files.deny) if path], settles=False)
        self._own.take()
        self._listed.take()
        material = self._read()
        self._state = put_in_force(material, read_lists(self.files, material.authorities, self._now()))
        self._check_own(self._state)
        self._verdicts = Verdicts(self._now)
        self._reading = threading.Lock()
        self._held: weakref.WeakKeyDictionary[Standing, tuple[Presented, ...]] = weakref.WeakKeyDictionary()
        self._swept = self._state, self._now()
        self._warned = datetime.min.replace(tzinfo=UTC)

    @property
    def identity(self) -> Identity:
        """Who this end is."""
        return self._state.material.identity

    @property
    def lists(self) -> Lists:
        """What is refused, now."""
        return self._state.lists

    @property
    def ends(self) -> datetime:
        """When this end's certificate ends."""
        return self._state.material.chain[0].not_valid_after_utc

    @property
    def material(self) -> TlsMaterial:
        """What this end proves, now: another object when it is another certificate."""
        return self._state.material

    def tell(self) -> None:
        """Log which certificate is in force, and for how long."""
        leaf = self._state.material.chain[0]
        extra = {"certificate": str(self.files.certificate), "serial": f"{leaf.serial_number:X}"}
        logger.info("tls.certificate_taken", extra={**extra, "days_left": (self.ends - self._now()).days})

    # what this end shows

    def server_credentials(self, *, takes_tokens: bool = False) -> grpc.ServerCredentials:
        """Return credentials for a gRPC server, which takes the newest certificate for every new connection.

        Args:
            takes_tokens: Whether this is a port for callers who have a token and no certificate. gRPC asks for a
                certificate and requires one, or does not ask; so tokens need a port of their own.
        """
        given = [self._state]

        def newest() -> grpc.ServerCertificateConfiguration | None:
            if self._state is given[0]:
                return None
            given[0] = self._state
            return grpc_configuration(given[0])

        # the stubs do not know that None says "as before"
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", newest)
        return grpc.dynamic_ssl_server_credentials(grpc_configuration(given[0]), fetch, not takes_tokens)

    def channel_credentials(self, pins: Sequence[bytes] = ()) -> grpc.ChannelCredentials:
        """Return credentials for a channel, which has them until it ends.

        Args:
            pins: Chains in PEM: servers are believed by the first certificate of one of them, not by the CA's word.
        """
        material, trusted = self._state.material, self._state.contexts.ca_pem
        if pins:
            trusted = b"".join(leaf_of(each).public_bytes(Encoding.PEM) for each in pins)
        return grpc.ssl_channel_credentials(trusted, material.key_pem, material.chain_pem)

    def dialling_context(self) -> ssl.SSLContext:
        """Return the context for connections that are dialled now."""
        return self._state.contexts.dialling

    def asking_context(self) -> ssl.SSLContext:
        """Return the context for a look at a gRPC server's certificate now."""
        return self._state.contexts.asking

    def listening_context(self) -> ssl.SSLContext:
        """Return the context of a listener for links, good for as long as it listens."""
        return front_context(lambda: self._state.contexts.listening)

    def https_context(self, *, takes_tokens: bool = False) -> ssl.SSLContext:
        """Return the context of an HTTP server, good for as long as it listens.

        Args:
            takes_tokens: Whether callers without a certificate are let in, too.
        """
        return front_context(lambda: self._state.contexts.https, optional=takes_tokens)

    def prove(self, *words: str, nonce: bytes) -> Proof:
        """Return this end's chain, and the signature by its key over `words` and a peer's nonce.

        Raises:
            ProtocolError: The nonce is not 32 bytes.
        """
        return self.sign(message_of(words, nonce))

    def sign(self, message: bytes) -> Proof:
        """Return this end's chain, and the signature by its key over a message that says what it is meant for."""
        material = self._state.material
        return material.chain_pem, sign_message(material.private_key, message)

    # what others show

    def check(self, presented: Presented) -> Identity:
        """Return whom a certificate stands for that a handshake has proved.

        Raises:
            CertificateRefusedError: It is over, revoked or denied, or a CA in its chain is.
            UnauthenticatedError: It states no identity, or several.
        """
        return self._verdicts.check(self._state, presented)

    def check_proof(self, party: str, *words: str, nonce: bytes, proof: Proof) -> None:
        """Check that a party signed `words` and this end's nonce, and that its certificate is good.

        Raises:
            CertificateError: The chain is not the party's, or its key did not sign this.
            CertificateRefusedError: The chain is over, revoked or denied.
        """
        self.check_signed(party, message_of(words, nonce), proof, source=f"the hello of party {party}")

    def check_signed(self, party: str, message: bytes, proof: Proof, *, source: str) -> None:
        """Check that a party signed a message, which errors call `source`; the rest is as in `check_proof`."""
        check_signed(self._state.authorities, party, message, proof, source=source, now=self._now())
        self.check(proof[0])

    def hold(self, end: Standing, presented: Presented) -> None:
        """Have a connection closed when what the peer showed is good no more; only as long as it is there."""
        self._held[end] = (*self._held.get(end, ()), presented)
        self._close_refused(end)

    def sweep(self) -> None:
        """Close what stands on certificates that are good no more: at once when something has changed."""
        state, now = self._state, self._now()
        if state is self._swept[0] and now < self._swept[1] + _SWEEP:
            return
        self._swept = state, now
        for end in list(self._held):
            self._close_refused(end)

    def _close_refused(self, end: Standing) -> None:
        try:
            for presented in self._held.get(end, ()):
                self.check(presented)
        except (CertificateRefusedError, UnauthenticatedError) as error:
            self._held.pop(end, None)
            end.close(str(error))

    # what changes

    def look(self) -> None:
        """Read again what has changed on the disk; what cannot be used is logged, and leaves the old in force."""
        with self._reading:
            is_renewed = self._own.has_changed()
            if is_renewed:
                self._take_certificate()
            if self._listed.has_changed() or is_renewed:  # a list may have waited for its CA
                self._take_lists()
        self._warn()

    async def reload(self) -> None:
        """Read everything again now, and close what stands on certificates that are good no more."""

        def read() -> None:
            with self._reading:
                self._take_certificate()
                self._take_lists()

        await asyncio.to_thread(read)
        self.sweep()

    def _take_certificate(self) -> None:
        self._own.take()
        try:
            state = put_in_force(self._read(), self._state.lists)
            self._check_identity(state)
            self._check_own(state)
        except CertificateError as error:
            extra = {"reason": str(error), "in_force_until": certificates.stamp(self.ends)}
            logger.error("tls.certificate_not_taken", extra=extra)  # noqa: TRY400  not a defect
            return
        self._state = state
        self.tell()

    def _take_lists(self) -> None:
        if not self._listed.paths:
            return
        self._listed.take()
        material = self._state.material
        try:
            lists = read_lists(self.files, material.authorities, self._now())
            self._check_newer(lists)
            state = put_in_force(material, lists)
        except CertificateError as error:
            logger.error("tls.lists_not_taken", extra={"reason": str(error)})  # noqa: TRY400  not a defect
            return
        self._state = state
        extra = {"n_revoked": sum(len(crl.revoked) for crl in lists.crls), "n_denied": len(lists.denied)}
        logger.info("tls.lists_taken", extra=extra)
        try:
            self._check_own(state)
        except CertificateError as error:  # the lists hold for others all the same
            logger.error("tls.own_certificate_refused", extra={"reason": str(error)})  # noqa: TRY400  not a defect

    def _read(self) -> TlsMaterial:
        return read_server_tls(self.files) if self._serves else read_tls(self.files, self._now())

    def _check_identity(self, state: InForce) -> None:
        found = state.material.identity
        if found != self.identity:
            raise CertificateError(f"{self.files.certificate}: belongs to {found}, and this process is {self.identity}")

    def _check_newer(self, lists: Lists) -> None:
        """Check that nobody put a list back that was in force before the present one, or left one out."""
        listed = {new.key for new in lists.crls}
        trusted = {certificates.key_fingerprint(each) for each in self._state.material.authorities}
        for old in self.lists.crls:
            if old.key in trusted - listed:
                told = f"the list of {old.issuer.rfc4514_string()} is missing; put it back, or take that CA out of `ca`"
                raise CertificateError(f"{self.files.crl}: {told}")
            if any(new.is_older_than(old) for new in lists.crls):
                told = f"the list of {old.issuer.rfc4514_string()} is older than the one in force; put the newest there"
                raise CertificateError(f"{self.files.crl}: {told}")

    def _check_own(self, state: InForce) -> None:
        for each in state.material.chain:
            problem = state.lists.listed(each)
            if problem is not None:
                told = f"{describe(each)}: {problem}; others refuse it: ask the CA for a new one"
                raise CertificateError(f"{self.files.certificate}: {told}")

    def _warn(self) -> None:
        now = self._now()
        if now - self._warned < timedelta(days=1):
            return
        left = self.ends - now
        crls = [each for each in self.lists.crls if each.ends - now < CRL_WARNING]
        if left < timedelta(days=WARN_DAYS):
            logger.warning(
                "tls.certificate_ends", extra={"certificate": str(self.files.certificate), "days_left": left.days}
            )
        for crl in crls:
            extra = {"issuer": crl.issuer.rfc4514_string(), "ends": certificates.stamp(crl.ends)}
            logger.warning("tls.crl_ends", extra={**extra, "crl": str(self.files.crl)})
        if crls or left < timedelta(days=WARN_DAYS):
            self._warned = now


def read_lists(files: TlsFiles, authorities: Sequence[x509.Certificate], now: datetime) -> Lists:
    """Return what is refused by the files that there are.

    Raises:
        CertificateError: A list cannot be read, is damaged, or is not a CA's.
    """
    lists = Lists(accepts_stale=files.accepts_stale_crl, exist=files.crl is not None or files.deny is not None)
    if files.crl is not None:
        data = certificates.read_bytes(files.crl, "revocation list")
        lists = replace(lists, crls=parse_crls(data, str(files.crl), authorities, now))
    if files.deny is not None:
        text = certificates.read_bytes(files.deny, "list of denied keys").decode("utf-8", "replace")
        lists = replace(lists, denied=parse_denied(text, str(files.deny)))
    return lists


def as_live(tls: TlsFiles | LiveTls | None) -> LiveTls | None:
    """Return what follows the files; None for plain text."""
    return LiveTls(tls) if isinstance(tls, TlsFiles) else tls


def party_tls(party: str, files: TlsFiles | None, *, insecure: bool) -> LiveTls | None:
    """Return what a party's daemon serves with; None for plain text.

    Args:
        party: Whose daemon it is.
        files: Its certificate and key; None exactly where `insecure`.
        insecure: What the settings say.

    Raises:
        ConfigError: `files` and `insecure` do not fit, or the certificate is another party's.
        CertificateError: The files cannot be used.
    """
    if insecure != (files is None):
        raise ConfigError("insecure = true goes without certificates, and everything else with them")
    if files is None:
        return None
    live = LiveTls(files, serves=True)
    if live.identity != Identity(IdentityKind.PARTY, party):
        raise ConfigError(f"tls.certificate is of {live.identity}, and party is {party}")
    return live


@asynccontextmanager
async def following(live: LiveTls | None) -> AsyncIterator[None]:
    """Follow the files inside the block, in the event loop that runs."""

    async def follow(live: LiveTls) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(live.look)
                live.sweep()
            except Exception:  # the edge of a background task: it must go on, and say what happened
                logger.exception("tls.look_failed")

    if live is not None:
        live.tell()
    task = None if live is None else asyncio.create_task(follow(live))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _utc_now() -> datetime:
    return datetime.now(UTC)

"""Which peers are good under what is in force: each certificate is judged once, until something changes or ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedpredict.errors import CertificateError, CertificateRefusedError, UnauthenticatedError
from fedpredict.security import certificate as certificates
from fedpredict.security.identity import Identity
from fedpredict.security.revocation import Lists, describe
from fedpredict.security.sockets import Contexts, build_contexts
from fedpredict.security.tls import TlsMaterial

logger = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""So long a refusal is kept: the clock, or a date, may make it wrong."""
_MAX_VERDICTS = 4096

Presented: TypeAlias = bytes | tuple[bytes, ...]
"""What a peer showed: its chain in PEM, or a DER per certificate, leaf first."""


@dataclass(frozen=True, slots=True, eq=False)
class InForce:
    """What one process proves, believes and refuses; replaced as a whole.

    Attributes:
        material: This end's certificate, key and CA.
        lists: What is refused.
        authorities: Those of the CA file that are not.
        contexts: What handshakes of sockets are made with.
    """

    material: TlsMaterial
    lists: Lists
    authorities: tuple[x509.Certificate, ...]
    contexts: Contexts


@dataclass(frozen=True, slots=True)
class _Verdict:
    state: InForce
    until: datetime
    outcome: Identity | CertificateRefusedError | UnauthenticatedError


class Verdicts:
    """Judges peers, and remembers what it found."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._known: dict[Presented, _Verdict] = {}

    def check(self, state: InForce, presented: Presented) -> Identity:
        """Return whom a certificate stands for that a handshake has proved; see `LiveTls.check`."""
        verdict = self._known.get(presented)
        if verdict is None or verdict.state is not state or self._now() >= verdict.until:
            if len(self._known) >= _MAX_VERDICTS:
                self._known.clear()
            is_told = verdict is not None and verdict.state is state and not isinstance(verdict.outcome, Identity)
            verdict = self._known[presented] = self._judge(state, presented, is_told=is_told)
        outcome = verdict.outcome
        if isinstance(outcome, Identity):
            return outcome
        # a new one: a traceback must not grow with every caller
        if isinstance(outcome, CertificateRefusedError):
            raise CertificateRefusedError(str(outcome), caller=outcome.caller)
        raise UnauthenticatedError(str(outcome))

    def _judge(self, state: InForce, presented: Presented, *, is_told: bool) -> _Verdict:
        now = self._now()
        again = now + timedelta(seconds=_AGAIN_S)
        try:
            chain = _parse(presented)
            identity = certificates.identity_of(chain[0], "the peer's certificate")
        except CertificateError as error:
            return _Verdict(state, again, UnauthenticatedError(f"the peer's identity cannot be used: {error}"))
        leaf = chain[0]
        problem = _problem_of(chain, state, now)
        if problem is None:
            return _Verdict(state, min(leaf.not_valid_after_utc, state.lists.next_change(now)), identity)
        if not is_told:
            fields = {"caller": identity.name, "subject": leaf.subject.rfc4514_string()}
            fields |= {"serial": f"{leaf.serial_number:X}", "key_sha256": certificates.key_fingerprint(leaf)}
            logger.warning("certificate.refused", extra={**fields, "reason": problem})
        told = f"the certificate of {identity}, {describe(leaf)}: {problem}"
        return _Verdict(state, again, CertificateRefusedError(told, caller=str(identity)))


def leaf_of(presented: Presented) -> x509.Certificate:
    """Return the peer's own certificate.

    Raises:
        CertificateError: It cannot be read, or there is none.
    """
    return _parse(presented)[0]


def check_same(proven: bytes, shown: Presented) -> None:
    """Check that a hello proves the certificate that the connection's handshake did, where this end saw that one.

    Raises:
        CertificateError: It proves another one.
    """
    if shown and leaf_of(shown) != leaf_of(proven):
        raise CertificateError("its hello proves another certificate than the connection's")


def put_in_force(material: TlsMaterial, lists: Lists) -> InForce:
    """Return what is in force with these files and lists.

    Raises:
        CertificateError: They leave nobody who could be believed, or TLS does not take them.
    """
    authorities = lists.trusted(material.authorities)
    if not authorities:
        raise CertificateError("every CA of the `ca` file is revoked or denied: nobody could be believed")
    ca_pem = b"".join(each.public_bytes(Encoding.PEM) for each in authorities)
    return InForce(material, lists, authorities, build_contexts(material, ca_pem))


def grpc_configuration(state: InForce) -> grpc.ServerCertificateConfiguration:
    """Return what a gRPC server makes its next handshakes with."""
    material = state.material
    return grpc.ssl_server_certificate_configuration([(material.key_pem, material.chain_pem)], state.contexts.ca_pem)


def _parse(presented: Presented) -> tuple[x509.Certificate, ...]:
    source = "the peer's certificate"
    if isinstance(presented, bytes):
        return certificates.parse_certificates(presented, source)
    if not presented:
        raise CertificateError(f"{source}: there is none")
    return tuple(certificates.parse_der(each, source) for each in presented)


def _problem_of(chain: Sequence[x509.Certificate], state: InForce, now: datetime) -> str | None:
    """Return why a chain is good no more, None where it is.

    Handshakes verify chains. Here they are verified again where there are lists: these hold for every certificate up
    to the CA, and gRPC shows no more than the leaf.
    """
    try:
        certificates.check_dates(chain[0], "it", now)
        if not state.lists.exist:
            return None
        path = certificates.verified_path(
            chain, (*state.authorities, *state.material.chain[1:]), state.authorities, now
        )
    except CertificateError as error:
        return str(error).removeprefix("it: ")
    for each in path:
        is_root = each.issuer == each.subject  # `trusted` has left out those that are refused
        problem = None if is_root else state.lists.problem_of(each, now)
        if problem is not None:
            return problem if each is chain[0] else f"{describe(each)} in its chain: {problem}"
    return None

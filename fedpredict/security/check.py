"""What is wrong with TLS files and with a peer's, and what to do about it: the checks behind `fedpredict doctor`."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from fedpredict.errors import CertificateError, SecurityError
from fedpredict.security import certificate as certificates
from fedpredict.security.certificate import stamp
from fedpredict.security.handshake import Failure, Handshake, shake_hands
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import CRL_WARNING, WARN_DAYS, LiveTls, read_lists
from fedpredict.security.revocation import Crl
from fedpredict.security.tls import TlsFiles, server_name

_RENEW = "make a new request with `fedpredict certs request`, in a new directory, and have the CA sign it"
_CLOCK = "if the dates look right, set the clock (NTP)"


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: Whether it is as it should be.
        what: What was found.
        fix: What to do; empty where there is nothing to do.
    """

    level: Level
    what: str
    fix: str = ""


def check_files(files: TlsFiles, identity: Identity, now: datetime) -> list[Finding]:
    """Return what there is to say about one end's files; all findings are OK where nothing is wrong.

    Args:
        files: The CA, the certificate and its key.
        identity: Who the process is by its settings.
        now: The instant at which all must be valid.
    """
    return [*_check_chain(files, identity, now), *_check_key(files), *_check_lists(files, now)]


def explain_handshake(address: str, files: TlsFiles, name: str, timeout_s: float) -> Finding:
    """Return what becomes of a TLS handshake with a server, and whose fault it is.

    It blocks for up to twice `timeout_s`.

    Args:
        address: `host:port`.
        files: This end's files.
        name: The DNS name that the server's certificate must have: `server_name(party)`.
        timeout_s: Seconds for a connection.
    """
    handshake = shake_hands(address, files, name, timeout_s)
    if handshake.failure is None:
        refused = _refused(address, files, handshake.chain)
        what = f"{address} has the certificate of {name} and takes ours"
        return refused or _lasting(what, handshake.presented, datetime.now(UTC))
    what, fix = _EXPLANATIONS[handshake.failure]
    fields = {
        "address": address,
        "name": name,
        "detail": handshake.detail,
        "ca": files.ca,
        "certificate": files.certificate,
        "clock": stamp(datetime.now(UTC)),
        **_describe_presented(handshake),
    }
    return Finding(Level.PROBLEM, what.format(**fields), fix.format(**fields))


_EXPLANATIONS = {
    Failure.OWN_FILES: (
        "our own TLS files cannot be used: {detail}",
        "see what is said about {certificate}",
    ),
    Failure.BAD_ADDRESS: (
        "{address} leads nowhere: {detail}",
        "correct the address: host:port, with a host that this machine can resolve",
    ),
    Failure.NOTHING_LISTENS: (
        "nothing listens at {address}: {detail}",
        "start the server there, or correct the address; a firewall may refuse too",
    ),
    Failure.NO_ANSWER: (
        "{address} does not answer in time",
        "see whether the server hangs, or a firewall drops packets between here and there",
    ),
    Failure.NOT_TLS: (
        "what listens at {address} does not speak TLS: {detail}",
        "correct the port, or take `insecure = true` from that server's settings",
    ),
    Failure.NOT_GRPC: (
        "{address} speaks TLS but not gRPC",
        "correct the port; a proxy between must pass TLS through, or speak HTTP/2",
    ),
    Failure.SELF_SIGNED: (
        "the certificate at {address} ({presented}) is self-signed: no CA vouches for it",
        "the server needs a certificate that the CA of this federation signed: `fedpredict certs request` over there",
    ),
    Failure.OTHER_CA: (
        "the certificate at {address} ({presented}) is of another CA: issued by {issuer}",
        "compare {ca} with the CA file over there (`fedpredict certs show`); both need the CA of this federation",
    ),
    Failure.EXPIRED: (
        "the certificate at {address} ({presented}) expired at {not_after}; the clock here says {clock}",
        f"it must be renewed over there; {_CLOCK} of this machine",
    ),
    Failure.NOT_YET_VALID: (
        "the certificate at {address} ({presented}) is not valid before {not_before}; the clock here says {clock}",
        f"{_CLOCK} of this machine; otherwise it was made too early",
    ),
    Failure.CHAIN_DATES: (
        "a CA's certificate behind the one at {address} ({presented}) is not valid now: {detail}; the clock: {clock}",
        f"the CA, or one between, must be renewed there and in {{ca}}; {_CLOCK} of this machine",
    ),
    Failure.OTHER_NAME: (
        "{address} is not {name}: it has the certificate of {presented}",
        "correct the address, or the party's id in the settings",
    ),
    Failure.OTHER_USE: (
        "the certificate at {address} ({presented}) is not for a server",
        "the server needs a certificate of kind party: `fedpredict certs request --party ...` over there",
    ),
    Failure.REJECTED: (
        "{address} refuses our certificate, {certificate}: {detail}",
        "compare {ca} with the CA file over there (`fedpredict certs show`), and the clocks of both machines; "
        "the log over there may say more",
    ),
    Failure.OLD_TLS: (
        "{address} does not speak TLS 1.2 or newer: {detail}",
        "something else listens there, or a proxy between is too old: parties speak TLS 1.3 with each other",
    ),
    Failure.OTHER: (
        "no TLS connection with {address}: {detail}",
        "compare the TLS versions and the CA files of both sides",
    ),
}


def _refused(address: str, files: TlsFiles, chain: tuple[bytes, ...]) -> Finding | None:
    """Return what the lists of refused certificates say of a server that is good otherwise."""
    if files.crl is None and files.deny is None:
        return None
    try:
        ours = LiveTls(files)
    except SecurityError as error:
        fix = "mend `crl` and `deny` in this party's own [tls], or its certificate: this is not about that party"
        return Finding(
            Level.PROBLEM, f"{address}: whether its certificate is refused here cannot be said: {error}", fix
        )
    try:
        ours.check(chain)
    except SecurityError as error:
        fix = "ask that party for a certificate with a new key; if it is on a list by mistake, take it out"
        return Finding(Level.PROBLEM, f"{address}: {error}", fix)
    return None


def _describe_presented(handshake: Handshake) -> dict[str, str]:
    presented = handshake.presented
    if presented is None:
        unknown = "one that cannot be read"
        return {"presented": unknown, "issuer": unknown, "not_after": unknown, "not_before": unknown}
    try:
        shown = str(certificates.identity_of(presented, "it"))
    except CertificateError:
        shown = presented.subject.rfc4514_string() or "a certificate without a name"
    return {
        "presented": shown,
        "issuer": presented.issuer.rfc4514_string(),
        "not_after": stamp(presented.not_valid_after_utc),
        "not_before": stamp(presented.not_valid_before_utc),
    }


def _check_chain(files: TlsFiles, identity: Identity, now: datetime) -> Iterator[Finding]:
    source = str(files.certificate)
    try:
        chain = certificates.parse_certificates(certificates.read_bytes(files.certificate, "certificate"), source)
        ca_pem = certificates.read_bytes(files.ca, "CA certificate")
        authorities = certificates.parse_certificates(ca_pem, str(files.ca))
    except CertificateError as error:
        yield Finding(Level.PROBLEM, str(error), "correct the path in [tls], or put the file there")
        return
    yield _verdict(f"{source} states {identity}", lambda: _check_identity(chain[0], source, identity))
    name = server_name(identity.name) if identity.kind is IdentityKind.PARTY else None

    def verify() -> None:
        certificates.verify_chain(chain, authorities, now, source=source, server_name=None)
        if name is not None:
            certificates.verify_chain(chain, authorities, now, source=source, server_name=name)

    yield _verdict(f"{source} is vouched for by {files.ca}", verify)
    holders: list[tuple[Path, x509.Certificate]] = [(files.certificate, chain[0])]
    holders += [(files.ca, authority) for authority in authorities]
    for path, holder in holders:
        yield _validity(path, holder, now)


def _check_identity(leaf: x509.Certificate, source: str, identity: Identity) -> None:
    stated = certificates.identity_of(leaf, source)
    if stated != identity:
        raise CertificateError(f"{source}: belongs to {stated}, but the settings say {identity}")


def _validity(path: Path, holder: x509.Certificate, now: datetime) -> Finding:
    days = (holder.not_valid_after_utc - now).days
    what = f"{path} is valid until {stamp(holder.not_valid_after_utc)}, {days} days"
    try:
        certificates.check_dates(holder, str(path), now)
    except CertificateError as error:
        return Finding(Level.PROBLEM, str(error), f"{_RENEW}; {_CLOCK}")
    return _lasting(what, holder, now)


def _lasting(what: str, holder: x509.Certificate | None, now: datetime) -> Finding:
    if holder is not None and (left := holder.not_valid_after_utc - now) < timedelta(days=WARN_DAYS):
        expires = f"the certificate expires in {left.days} days"
        return Finding(Level.WARNING, f"{what}; {expires}", f"renew it in time: {_RENEW}")
    return Finding(Level.OK, what)


def _check_lists(files: TlsFiles, now: datetime) -> Iterator[Finding]:
    if files.crl is None and files.deny is None:
        return
    try:
        lists = read_lists(files, certificates.parse_certificates(files.ca.read_bytes(), str(files.ca)), now)
        leaf = certificates.parse_certificates(files.certificate.read_bytes(), str(files.certificate))[0]
    except OSError:  # said above
        return
    except CertificateError as error:
        yield Finding(Level.PROBLEM, str(error), "until it can be read no daemon starts; one that runs keeps the last")
        return
    if files.deny is not None:
        yield Finding(Level.OK, f"{files.deny} denies {len(lists.denied)} keys")
    for crl in lists.crls:
        yield _check_crl(files, crl, now)
    problem = lists.listed(leaf)
    if problem is not None:
        yield Finding(Level.PROBLEM, f"{files.certificate}: {problem}", f"others refuse it: {_RENEW}")


def _check_crl(files: TlsFiles, crl: Crl, now: datetime) -> Finding:
    what = f"{files.crl}: {len(crl.revoked)} certificates revoked by {crl.issuer.rfc4514_string()}"
    what += f", next list by {stamp(crl.ends)}"
    fix = "get the CA's newest list (its keeper makes one with `fedpredict certs revoke`)"
    if now >= crl.ends:
        told = "over; " + ("accepted all the same" if files.accepts_stale_crl else "nobody of this CA is believed")
        return Finding(Level.WARNING if files.accepts_stale_crl else Level.PROBLEM, f"{what}: {told}", fix)
    if crl.ends - now < CRL_WARNING:
        return Finding(Level.WARNING, f"{what}: soon over", fix)
    return Finding(Level.OK, what)


def _check_key(files: TlsFiles) -> Iterator[Finding]:
    def fits() -> None:
        key = certificates.parse_key(certificates.read_bytes(files.key, "private key"), str(files.key))
        pem = certificates.read_bytes(files.certificate, "certificate")
        if not certificates.same_key(certificates.parse_certificates(pem, str(files.certificate))[0], key):
            raise CertificateError(f"{files.key}: not the key of {files.certificate}")

    yield _verdict(f"{files.key} is the key of {files.certificate}", fits)
    if files.key.exists() and stat.S_IMODE(files.key.stat().st_mode) & 0o077:
        yield Finding(Level.WARNING, f"{files.key} can be read by others", f"chmod 600 {files.key}")


def _verdict(what: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except CertificateError as error:
        return Finding(Level.PROBLEM, str(error), _RENEW)
    return Finding(Level.OK, what)

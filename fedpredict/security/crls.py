"""An authority's revocation list in a file: what its keeper adds to, and what a list says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedpredict.errors import CertificateError
from fedpredict.security import certificate as certificates
from fedpredict.security.authority import Authority, new_crl, new_revocation
from fedpredict.security.certs import CaFiles, read_authority
from fedpredict.security.files import PUBLIC, write_file
from fedpredict.security.revocation import Crl, describe, load_crls, number_of, parse_crls

CRL_DAYS = 90


@dataclass(frozen=True, slots=True)
class CrlReport:
    """What a revocation list says.

    Attributes:
        path: The file.
        issuer: Whose list it is.
        number: Grows with every list; None where it has none.
        made: When it was made.
        next_update: When there must be a newer one; None where it does not say.
        days_left: Whole days until then; None where it does not say.
        revoked: The serial numbers, in hex as OpenSSL writes them.
    """

    path: Path
    issuer: str
    number: int | None
    made: datetime
    next_update: datetime | None
    days_left: int | None
    revoked: tuple[str, ...]


def crl_file(directory: Path) -> Path:
    """Return where an authority's list is kept, in its directory."""
    return directory / "ca.crl"


def revoke(
    ca: CaFiles,
    files: Sequence[Path],
    serials: Sequence[int] = (),
    *,
    kept: Path,
    days: int = CRL_DAYS,
    now: datetime | None = None,
) -> CrlReport:
    """Add certificates to an authority's list, and make it anew; with none, the list that is there is made anew.

    Args:
        ca: The authority.
        files: Certificates that it signed.
        serials: Serial numbers of such, where no file is at hand.
        kept: The list, of which there must be one alone: read where it is there, and replaced in one step.
        days: In so many there must be a newer list.
        now: The moment of making; default: this one.

    Raises:
        CertificateError: A file cannot be read, or is of another authority, or is the authority's own; the list there
            is damaged or another's.
    """
    now = now or datetime.now(UTC)
    authority = read_authority(ca, now)
    number, entries = _before(kept, authority, now)
    for serial in (*(_serial_of(path, authority) for path in files), *serials):
        if serial == authority.certificate.serial_number:
            key = certificates.key_fingerprint(authority.certificate)
            raise CertificateError(
                f"{describe(authority.certificate)} is this CA itself, which cannot revoke itself: make another CA, "
                f"and have every party put its key on the `deny` list in [tls]: {key}"
            )
        entries.setdefault(serial, new_revocation(serial, now))
    crl = new_crl(authority, entries.values(), number + 1, days, now)
    write_file(kept, crl.public_bytes(Encoding.PEM), mode=PUBLIC, force=True)
    return describe_crls(kept, now)[0]


def describe_crls(path: Path, now: datetime | None = None) -> list[CrlReport]:
    """Return what the lists of a file say, over or not; no signature is checked.

    Raises:
        CertificateError: It holds none, or a damaged one.
    """
    now = now or datetime.now(UTC)
    return [_report(path, crl, now) for crl in load_crls(certificates.read_bytes(path, "revocation list"), str(path))]


def is_crl(path: Path) -> bool:
    """Return whether a file in PEM holds revocation lists.

    Raises:
        CertificateError: It cannot be read.
    """
    return b"-----BEGIN X509 CRL-----" in certificates.read_bytes(path, "certificate")


def _before(kept: Path, authority: Authority, now: datetime) -> tuple[int, dict[int, x509.RevokedCertificate]]:
    """Return the number and the entries of the list that is there."""
    if not kept.exists():
        return 0, {}
    data = certificates.read_bytes(kept, "revocation list")
    checked: tuple[Crl, ...] = parse_crls(data, str(kept), [authority.certificate], now)
    return checked[0].number or 0, {each.serial_number: each for each in load_crls(data, str(kept))[0]}


def _serial_of(path: Path, authority: Authority) -> int:
    certificate = certificates.parse_certificates(certificates.read_bytes(path, "certificate"), str(path))[0]
    if not certificates.is_signed_by(certificate, authority.certificate):
        raise CertificateError(f"{path}: {describe(certificate)} was not signed by this CA")
    return certificate.serial_number


def _report(path: Path, crl: x509.CertificateRevocationList, now: datetime) -> CrlReport:
    ends = crl.next_update_utc
    return CrlReport(
        path=path,
        issuer=crl.issuer.rfc4514_string(),
        number=number_of(crl),
        made=crl.last_update_utc,
        next_update=ends,
        days_left=None if ends is None else (ends - now).days,
        revoked=tuple(f"{each.serial_number:X}" for each in crl),
    )

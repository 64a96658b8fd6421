"""A small certificate authority in files: a CA, requests, certificates from requests, and what a certificate says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedpredict.errors import CertificateError
from fedpredict.security import certificate as certificates
from fedpredict.security.authority import (
    Authority,
    key_pem,
    new_authority,
    new_key,
    new_leaf,
    new_request,
    requested_identity,
)
from fedpredict.security.files import PRIVATE, PUBLIC, refuse_existing, write_file
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles

CA_DAYS = 3650
LEAF_DAYS = 825


@dataclass(frozen=True, slots=True)
class CaFiles:
    """An authority: its certificate goes to every party, its key stays offline."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """A certificate request, and the key that never leaves its party.

    Attributes:
        request: To be sent to the CA.
        key: To be kept.
        key_fingerprint: SHA-256 of the public key, in hex, to be compared over another channel before signing.
    """

    request: Path
    key: Path
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """What a certificate says.

    Attributes:
        path: The file.
        subject: Its subject, as text.
        identity: Who it stands for; None for an authority.
        dns_names: The server names that it is good for.
        issuer: Who signed it, as text.
        not_before: The first instant of its validity.
        not_after: The last instant.
        days_left: Whole days until then; negative once expired.
        fingerprint: SHA-256 of the certificate, in hex.
        key_fingerprint: SHA-256 of its public key, in hex, as in the request.
        is_ca: Whether it may sign others.
    """

    path: Path
    subject: str
    identity: Identity | None
    dns_names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime
    days_left: int
    fingerprint: str
    key_fingerprint: str
    is_ca: bool


def ca_files(directory: Path) -> CaFiles:
    """Return where an authority's files are in its directory."""
    return CaFiles(directory / "ca.pem", directory / "ca.key")


def leaf_files(directory: Path, name: str) -> TlsFiles:
    """Return where the files of a party or client of that name are in a directory."""
    return TlsFiles(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")


def create_ca(
    directory: Path, name: str, *, days: int = CA_DAYS, force: bool = False, now: datetime | None = None
) -> CaFiles:
    """Make an authority: `ca.pem` and `ca.key` in `directory`.

    Args:
        directory: Made where it is missing.
        name: The authority's common name, 1 to 64 characters.
        days: How long it is valid.
        force: Replace an authority that is there; every certificate that it signed is then a stranger's.
        now: The moment of making; default: this one.

    Raises:
        CertificateError: There is one already, the name or the days cannot be used, or a file cannot be written.
    """
    files = ca_files(directory)
    if not force:
        refuse_existing(files.key, files.certificate)
    authority = new_authority(name, days, now or datetime.now(UTC))
    write_file(files.key, key_pem(authority.key), mode=PRIVATE, force=force)
    write_file(files.certificate, _pem(authority.certificate), mode=PUBLIC, force=force)
    return files


def create_request(identity: Identity, directory: Path, *, force: bool = False) -> RequestFiles:
    """Make a key and a certificate request, `<name>.key` and `<name>.csr` in `directory`.

    Raises:
        CertificateError: One of them is there already, or cannot be written.
    """
    key_path, request = directory / f"{identity.name}.key", directory / f"{identity.name}.csr"
    if not force:
        refuse_existing(key_path, request)
    key = new_key()
    csr = new_request(identity, key)
    write_file(key_path, key_pem(key), mode=PRIVATE, force=force)
    write_file(request, _pem(csr), mode=PUBLIC, force=force)
    return RequestFiles(request, key_path, certificates.key_fingerprint(csr))


def sign_request(
    ca: CaFiles,
    request: Path,
    out: Path,
    *,
    key_fingerprint: str | None = None,
    days: int = LEAF_DAYS,
    force: bool = False,
    now: datetime | None = None,
) -> CertificateReport:
    """Sign a request: the certificate has the identity that the request states, and nothing else.

    Anybody can state any identity in a request: that it came from that party is for the signer to know.

    Args:
        ca: The authority.
        request: In PEM, with one identity (a party's DNS name may stand beside it), a P-256 key, and no more.
        out: The file of the certificate.
        key_fingerprint: What the party says that `create_request` showed; compared when given.
        days: How long it is valid; it never outlives the authority.
        force: Replace a file at `out`.
        now: The moment of signing; default: this one.

    Raises:
        CertificateError: The request, the authority or the place cannot be used.
    """
    now = now or datetime.now(UTC)
    csr = certificates.parse_request(certificates.read_bytes(request, "certificate request"), str(request))
    identity = requested_identity(csr, str(request))
    found = certificates.key_fingerprint(csr)
    if key_fingerprint is not None and key_fingerprint.lower() != found:
        raise CertificateError(f"{request}: its key has the fingerprint {found}, not the one given; do not sign it")
    leaf = new_leaf(read_authority(ca, now), identity, csr.public_key(), days, now)
    write_file(out, _pem(leaf), mode=PUBLIC, force=force)
    return describe(out, now)


def issue(
    ca: CaFiles,
    identity: Identity,
    directory: Path,
    *,
    days: int = LEAF_DAYS,
    force: bool = False,
    now: datetime | None = None,
) -> TlsFiles:
    """Make key and certificate in one step, where one person plays all parties: trials and tests.

    Writes `<name>.key`, `<name>.pem` and, where it is missing, a copy of `ca.pem`.

    Raises:
        CertificateError: A key or certificate of that name, or another CA's `ca.pem`, is there already.
    """
    files = leaf_files(directory, identity.name)
    if not force:
        refuse_existing(files.key, files.certificate)
    now = now or datetime.now(UTC)
    authority, key = read_authority(ca, now), new_key()
    leaf = new_leaf(authority, identity, key.public_key(), days, now)
    ca_pem = _pem(authority.certificate)
    if not (files.ca.exists() and certificates.read_bytes(files.ca, "CA certificate") == ca_pem):
        write_file(files.ca, ca_pem, mode=PUBLIC, force=force)
    write_file(files.key, key_pem(key), mode=PRIVATE, force=force)
    write_file(files.certificate, _pem(leaf), mode=PUBLIC, force=force)
    return files


def describe(path: Path, now: datetime | None = None) -> CertificateReport:
    """Return what the first certificate of a PEM file says, valid or not.

    Raises:
        CertificateError: The file holds no certificate, or one that is neither an authority's nor of one identity.
    """
    certificate = certificates.parse_certificates(certificates.read_bytes(path, "certificate"), str(path))[0]
    is_ca = certificates.is_authority(certificate)
    return CertificateReport(
        path=path,
        subject=certificate.subject.rfc4514_string(),
        identity=None if is_ca else certificates.identity_of(certificate, str(path)),
        dns_names=tuple(certificates.alternative_names(certificate).get_values_for_type(x509.DNSName)),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        days_left=(certificate.not_valid_after_utc - (now or datetime.now(UTC))).days,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        key_fingerprint=certificates.key_fingerprint(certificate),
        is_ca=is_ca,
    )


def read_authority(ca: CaFiles, now: datetime) -> Authority:
    """Return what signs.

    Raises:
        CertificateError: A file cannot be read, they do not belong together, or the authority is not valid now.
    """
    pem = certificates.read_bytes(ca.certificate, "CA certificate")
    certificate = certificates.parse_certificates(pem, str(ca.certificate))[0]
    key = certificates.parse_key(certificates.read_bytes(ca.key, "CA key"), str(ca.key))
    if not certificates.is_authority(certificate):
        raise CertificateError(f"{ca.certificate}: not a CA; make one with `fedpredict certs ca`")
    if not certificates.same_key(certificate, key):
        raise CertificateError(f"{ca.key}: not the key of {ca.certificate}")
    certificates.check_dates(certificate, str(ca.certificate), now)
    return Authority(certificate, key)


def _pem(holder: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return holder.public_bytes(serialization.Encoding.PEM)

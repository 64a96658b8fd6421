"""Which certificates are refused although a CA vouches for them: revocation lists, and keys that are denied here.

A revocation list (CRL) is the CA's word; a file of denied keys is this party's own. Both hold for every certificate of
a chain. Values only: who watches the files is `security.live`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fedpredict.errors import CertificateError
from fedpredict.security import certificate as certificates
from fedpredict.security.certificate import stamp

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_KEY = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_FIX = "put the CA's newest list there (`fedpredict certs revoke` makes one)"


@dataclass(frozen=True, slots=True)
class Crl:
    """One CA's list, whose signature was checked.

    Attributes:
        issuer: The CA's name.
        key: SHA-256 of the CA's public key, in hex: CAs that follow each other may have one name.
        key_id: The CA's own word for its key, which its certificates repeat; None where it has none.
        number: Grows with every list of a CA; None where the list has none.
        made: When it was made.
        ends: When there must be a newer one.
        revoked: Serial numbers of the CA's certificates that are good no more.
    """

    issuer: x509.Name
    key: str
    key_id: bytes | None
    number: int | None
    made: datetime
    ends: datetime
    revoked: frozenset[int]

    def is_older_than(self, other: Crl) -> bool:
        """Return whether this is an earlier list of the same CA."""
        if self.key != other.key:
            return False
        if self.number is not None and other.number is not None:
            return self.number < other.number
        return self.made < other.made

    def is_about(self, certificate: x509.Certificate) -> bool:
        """Return whether the CA made a certificate, as far as that says: what does not name a key goes by the name."""
        if certificate.issuer != self.issuer:
            return False
        named = _key_id(certificate, x509.AuthorityKeyIdentifier)
        return None in (named, self.key_id) or named == self.key_id


@dataclass(frozen=True, slots=True)
class Lists:
    """Everything that is refused.

    Attributes:
        crls: The revocation lists.
        denied: SHA-256 of public keys, in hex.
        accepts_stale: Whether a list whose time is over still counts; else nothing of its CA is taken.
        exist: Whether there is any list, be it empty.
    """

    crls: tuple[Crl, ...] = ()
    denied: frozenset[str] = frozenset()
    accepts_stale: bool = False
    exist: bool = False

    def listed(self, certificate: x509.Certificate) -> str | None:
        """Return why a certificate is refused by name, None where it is not."""
        if certificates.key_fingerprint(certificate) in self.denied:
            return "its key is denied here"
        for crl in self.crls:
            if certificate.serial_number in crl.revoked and crl.is_about(certificate):
                return f"revoked by {crl.issuer.rfc4514_string()} (its list of {stamp(crl.made)})"
        return None

    def problem_of(self, certificate: x509.Certificate, now: datetime) -> str | None:
        """Return why a certificate is refused, be it that nobody can know whether it was revoked."""
        if (problem := self.listed(certificate)) is not None or self.accepts_stale:
            return problem
        for crl in self.crls:
            if now >= crl.ends and crl.is_about(certificate):
                return f"the revocation list of {crl.issuer.rfc4514_string()} ended at {stamp(crl.ends)}: {_FIX}"
        return None

    def trusted(self, authorities: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        """Return those authorities that are not refused, nor signed by one that is."""
        bad = [each for each in authorities if self.listed(each) is not None]
        keys = {certificates.key_fingerprint(each) for each in bad}
        return tuple(
            each
            for each in authorities
            if certificates.key_fingerprint(each) not in keys
            and not any(certificates.is_signed_by(each, other) for other in bad)
        )

    def next_change(self, now: datetime) -> datetime:
        """Return when the next list becomes stale; far away where none does."""
        return min((crl.ends for crl in self.crls if crl.ends > now), default=datetime.max.replace(tzinfo=UTC))


def describe(certificate: x509.Certificate) -> str:
    """Return a certificate as refusals name it: subject and serial number, in hex as OpenSSL writes it."""
    return f"{certificate.subject.rfc4514_string()} (serial {certificate.serial_number:X})"


def load_crls(data: bytes, source: str) -> tuple[x509.CertificateRevocationList, ...]:
    """Return the lists of a file: any number in PEM, or one in DER.

    Raises:
        CertificateError: There is no list, or a damaged one, or one that is not whole.
    """
    blocks = _BLOCK.findall(data)
    try:
        crls = [x509.load_pem_x509_crl(block + b"\n") for block in blocks] or [x509.load_der_x509_crl(data)]
        odd = [each.oid.dotted_string for crl in crls for each in _whole(crl).extensions if each.critical]
    except certificates.DAMAGE as error:
        raise CertificateError(f"{source}: not a revocation list ({error}); {_FIX}") from error
    if odd:
        raise CertificateError(f"{source}: a partial or indirect list (extension {odd[0]}); a whole one is needed")
    return tuple(crls)


def _whole(crl: x509.CertificateRevocationList) -> x509.CertificateRevocationList:
    """Read all of a list: the library looks at names, times and serial numbers when it is asked for them, no sooner."""
    _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, [each.serial_number for each in crl]
    return crl


def parse_crls(data: bytes, source: str, authorities: Sequence[x509.Certificate], now: datetime) -> tuple[Crl, ...]:
    """Return the lists of a file, each checked.

    Args:
        data: The lists: any number in PEM, or one in DER.
        source: The file, for errors.
        authorities: One of them must have signed each list.
        now: The time.

    Raises:
        CertificateError: A list is damaged, signed by nobody known, from the future, or says no end.
    """
    return tuple(_checked(crl, source, authorities, now) for crl in load_crls(data, source))


def parse_denied(text: str, source: str) -> frozenset[str]:
    r"""Return the keys of a file: a SHA-256 in hex per line, as `fedpredict certs show` prints it; `#` begins a remark.

    Raises:
        CertificateError: A line is something else.

    >>> len(parse_denied("# a stolen key\n" + "0f" * 32, "denied.txt"))
    1
    """
    denied = set()
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip().lower()
        if not said:
            continue
        key = _KEY.fullmatch(said)
        if key is None:
            raise CertificateError(
                f"{source}: line {number} is no SHA-256 of a public key (64 hex digits; see `fedpredict certs show`)"
            )
        denied.add(key[1])
    return frozenset(denied)


def _checked(crl: x509.CertificateRevocationList, source: str, known: Sequence[x509.Certificate], now: datetime) -> Crl:
    name = crl.issuer.rfc4514_string()
    signers = [each for each in known if each.subject == crl.issuer and _may_sign_lists(each)]
    signer = next((each for each in signers if _is_list_of(crl, each)), None)
    if signer is None:
        raise CertificateError(f"{source}: the list of {name} is not signed by a CA of the `ca` file; {_FIX}")
    made, ends = crl.last_update_utc, crl.next_update_utc
    if made > now:
        clock = f"this machine's clock says {stamp(now)}"
        raise CertificateError(f"{source}: the list of {name} is from {stamp(made)} ({clock}); set the clock")
    if ends is None:
        raise CertificateError(f"{source}: the list of {name} does not say when the next one comes; {_FIX}")
    revoked = frozenset(each.serial_number for each in crl)
    if signer.issuer == signer.subject and signer.serial_number in revoked:
        told = "names that CA itself, which cannot revoke itself: deny its key, and take it out of `ca`"
        raise CertificateError(f"{source}: the list of {name} {told}")
    key, key_id = certificates.key_fingerprint(signer), _key_id(signer, x509.SubjectKeyIdentifier)
    return Crl(crl.issuer, key, key_id, number_of(crl), made, ends, revoked)


def _key_id(
    certificate: x509.Certificate, kind: type[x509.AuthorityKeyIdentifier | x509.SubjectKeyIdentifier]
) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    return found.key_identifier


def _may_sign_lists(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _is_list_of(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # a TypeError is answered
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def number_of(crl: x509.CertificateRevocationList) -> int | None:
    """Return the number of a list, which grows with every one of its CA; None where it has none."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None

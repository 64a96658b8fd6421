"""A party's word, given beforehand, that sums for one initiator may lack it (ADR 0045).

The difference of two sums, with and without a party, is its share: so it has to agree itself. The initiator keeps its
word and carries it to the others when the party is away.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fedpredict.errors import MaskingRefusedError
from fedpredict.security.live import LiveTls
from fedpredict.security.masking import check_word, counted

CONSENT_S = 12 * 3600
"""How long a party's word holds; the initiator gets a new one with every session of the full sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentTerms:
    """What a party consents to be left out of: all of it is signed.

    Attributes:
        manifest_sha256: The version of the model.
        initiator: Who asks, by its certificate.
        parties: Everyone of the full sum, sorted.
    """

    manifest_sha256: str
    initiator: str
    parties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedConsent:
    """A party's word, and the proof that it is its own.

    Attributes:
        party: Whose.
        valid_until: In whole seconds since 1970.
        chain_pem: The party's certificate chain in PEM, leaf first.
        signature: By the leaf's key, over the terms, the party and the time.
    """

    party: str
    valid_until: int
    chain_pem: bytes
    signature: bytes


def sign_consent(live: LiveTls, terms: ConsentTerms, valid_until: int) -> SignedConsent:
    """Return this party's consent to be left out, signed by the key of its newest certificate."""
    party = live.identity.name
    return SignedConsent(party, valid_until, *live.sign(_signed(party, terms, valid_until)))


def verify_consent(live: LiveTls, terms: ConsentTerms, consent: SignedConsent, now: float) -> None:
    """Check that a party gave its consent to these terms, that it still holds, and that its certificate is good.

    Args:
        live: Whom this end believes.
        terms: What the party has to have consented to.
        consent: What the initiator relayed.
        now: Seconds since 1970.

    Raises:
        MaskingRefusedError: It is over, or of other terms, or not the party's own.
    """
    if not now < consent.valid_until:
        told = (
            f"the consent of party {consent.party} to be left out ended at {consent.valid_until} (seconds since 1970)"
        )
        raise MaskingRefusedError(told, problem="a consent to be left out that is over")
    message, proof = _signed(consent.party, terms, consent.valid_until), (consent.chain_pem, consent.signature)
    check_word(live, consent.party, message, proof, what="consent", meant="give to this sum")


def _signed(party: str, terms: ConsentTerms, valid_until: int) -> bytes:
    return b"".join(
        (
            b"fedpredict-mask-consent-1\0",
            bytes.fromhex(terms.manifest_sha256),
            struct.pack("<QB", valid_until, len(terms.parties)),
            *map(counted, (terms.initiator, *terms.parties, party)),
        )
    )

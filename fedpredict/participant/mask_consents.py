"""A participant's end of smaller sums: what its settings let a sum lack, and the consents that must come with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpredict.errors import MaskingRefusedError
from fedpredict.participant.mask_sessions import LIFETIME_S
from fedpredict.participant.settings import MaskedSettings
from fedpredict.security.live import LiveTls
from fedpredict.security.mask_consent import CONSENT_S, ConsentTerms, SignedConsent, sign_consent, verify_consent
from fedpredict.wire.v1 import masking_pb2


@dataclass(frozen=True, slots=True)
class Lack:
    """Which parties a sum is to lack, and what they say to it.

    Attributes:
        terms: What each of them has to have consented to.
        consents: Theirs, not yet held to their signatures; none for the full sum.
        gives: Whether this party lets sums lack itself.
    """

    terms: ConsentTerms
    consents: tuple[SignedConsent, ...]
    gives: bool

    def check(self, live: LiveTls, now: float) -> int:
        """Return for how many seconds a session may stand.

        Args:
            live: Whom this party believes.
            now: Seconds since 1970.

        Raises:
            MaskingRefusedError: A party that is to be left out has not consented, or its consent is over.
        """
        for consent in self.consents:
            verify_consent(live, self.terms, consent, now)
        return int(min((LIFETIME_S, *(consent.valid_until - now for consent in self.consents))))

    def own(self, live: LiveTls, now: float) -> SignedConsent | None:
        """Return this party's consent to be left out, where it gives it."""
        return sign_consent(live, self.terms, int(now) + CONSENT_S) if self.gives else None


def may_lack(party: str, wanted: MaskedSettings, parties: Sequence[str]) -> bool:
    """Return whether a party's settings consent to a sum of `parties` alone, in which it is itself."""
    everyone = {party, *wanted.parties}
    return party in parties and everyone >= set(parties) and everyone - set(parties) <= set(wanted.may_lack)


def consents_from_wire(
    messages: Iterable[masking_pb2.MaskConsent], lacking: Iterable[str]
) -> tuple[SignedConsent, ...]:
    """Return the consents of the parties that a sum lacks; what is in them is checked against the signatures.

    Raises:
        MaskingRefusedError: They are not those of exactly these parties.
    """
    consents = tuple(
        SignedConsent(each.party, each.valid_until, each.certificate_chain, each.signature) for each in messages
    )
    given, needed = sorted(each.party for each in consents), sorted(lacking)
    if given != needed:
        told = f"a sum without {', '.join(needed) or 'nobody'}, and the consent of {', '.join(given) or 'nobody'}"
        raise MaskingRefusedError(told, problem="a party is left out without its consent")
    return consents


def consent_to_wire(consent: SignedConsent | None) -> masking_pb2.MaskConsent | None:
    """Return a consent as a message; None stays None."""
    if consent is None:
        return None
    return masking_pb2.MaskConsent(
        party=consent.party,
        valid_until=consent.valid_until,
        certificate_chain=consent.chain_pem,
        signature=consent.signature,
    )

"""A party's word that sums may lack it: what is signed, and what sums with and without it tell of the others."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import MaskingRefusedError
from fedpredict.security.live import LiveTls
from fedpredict.security.mask_consent import ConsentTerms, SignedConsent, sign_consent, verify_consent
from tests.unit.security.federation import Certificates
from tests.unit.security.test_masking import STEPS, received, sessions

TERMS = ConsentTerms(manifest_sha256="ab" * 32, initiator="bank", parties=("hospital", "lab", "shop"))
UNTIL = 1_000_000


def test_what_is_signed_is_what_the_protocol_says(certificates: Certificates) -> None:
    consent = sign_consent(LiveTls(certificates.lab), TERMS, UNTIL)
    message = b"fedpredict-mask-consent-1\0" + b"\xab" * 32 + struct.pack("<Q", UNTIL) + b"\x03"
    message += b"\x04\0bank" + b"\x08\0hospital" + b"\x03\0lab" + b"\x04\0shop" + b"\x03\0lab"
    key = x509.load_pem_x509_certificates(certificates.lab.certificate.read_bytes())[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(consent.signature, message, ec.ECDSA(SHA256()))
    assert (consent.party, consent.valid_until) == ("lab", UNTIL)
    verify_consent(LiveTls(certificates.hospital), TERMS, consent, UNTIL - 0.5)


@pytest.mark.parametrize(
    "terms",
    [
        replace(TERMS, manifest_sha256="cd" * 32),
        replace(TERMS, initiator="mill"),
        replace(TERMS, parties=("hospital", "lab")),
        replace(TERMS, parties=("hospital", "lab", "shop", "tower")),
    ],
    ids=["another version", "another initiator", "a party less", "a party more"],
)
def test_a_consent_is_to_its_own_terms_alone(certificates: Certificates, terms: ConsentTerms) -> None:
    consent = sign_consent(LiveTls(certificates.lab), TERMS, UNTIL)
    with pytest.raises(MaskingRefusedError, match="does not fit") as raised:
        verify_consent(LiveTls(certificates.hospital), terms, consent, 0.0)
    assert raised.value.problem == "a consent that its party did not give to this sum"


@pytest.mark.parametrize("now", [UNTIL, UNTIL + 1, 2.0 * UNTIL])
def test_a_consent_ends(certificates: Certificates, now: float) -> None:
    consent = sign_consent(LiveTls(certificates.lab), TERMS, UNTIL)
    with pytest.raises(MaskingRefusedError) as raised:
        verify_consent(LiveTls(certificates.hospital), TERMS, consent, now)
    assert raised.value.problem == "a consent to be left out that is over"


@pytest.mark.parametrize("what", ["party", "until", "signature", "chain", "stranger", "expired", "early"])
def test_a_consent_that_was_changed_or_signed_by_another_is_refused(certificates: Certificates, what: str) -> None:
    good = sign_consent(LiveTls(certificates.lab), TERMS, UNTIL)

    def shown(chain: bytes) -> SignedConsent:
        return replace(good, chain_pem=chain)

    consent = {
        "party": replace(good, party="hospital"),
        "until": replace(good, valid_until=UNTIL + 1),
        "signature": replace(good, signature=good.signature[:-1] + bytes((good.signature[-1] ^ 1,))),
        "chain": shown(b"no chain"),
        "stranger": shown(certificates.stranger.certificate.read_bytes()),
        "expired": shown(certificates.expired.certificate.read_bytes()),
        "early": shown(certificates.early.certificate.read_bytes()),
    }[what]
    with pytest.raises(MaskingRefusedError, match="mask consent of party"):
        verify_consent(LiveTls(certificates.hospital), TERMS, consent, 0.0)


@st.composite
def two_stories(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Return shares in whole steps, by party and sample, and others: the last party's are the same, and the sum is."""
    n_others, n_samples = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    row = st.lists(STEPS, min_size=n_samples, max_size=n_samples)
    told = draw(st.lists(row, min_size=n_others, max_size=n_others))
    first = draw(st.lists(row, min_size=n_others - 1, max_size=n_others - 1))
    rest = (np.sum(told, axis=0) - np.sum(first, axis=0)).tolist()
    away = draw(row)
    return [*told, away], [*first, rest, away]


@given(two_stories(), st.integers(0, 2**32))
def test_both_sums_tell_of_the_others_their_sum_alone(
    stories: tuple[list[list[int]], list[list[int]]], seed: int
) -> None:
    # what an initiator gets that asks about the same samples with the last party and, by consent, without it
    draw = np.random.default_rng(seed)
    parties = [f"p{place}" for place in range(len(stories[0]))]
    for of_sum in (parties, parties[:-1]):  # each has its own session, and so its own pads
        n_words = 1 + len(stories[0][0])
        pads = {frozenset(pair): draw.integers(0, 2**64, n_words, dtype=np.uint64) for pair in combinations(of_sum, 2)}
        changed = dict(pads)
        for place, party in enumerate(of_sum[1:], 1):
            difference = np.array([0, *(b - a for a, b in zip(stories[0][place], stories[1][place], strict=True))])
            changed[frozenset((parties[0], party))] = pads[frozenset((parties[0], party))] + difference.view(np.uint64)
        got = [
            received(
                sessions(of_sum, {pair: pad.tobytes() for pair, pad in told.items()}),
                {party: [step / 2.0**32 for step in story[place]] for place, party in enumerate(of_sum)},
            )
            for told, story in ((pads, stories[0]), (changed, stories[1]))
        ]
        assert got[0] == got[1]

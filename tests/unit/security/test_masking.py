"""The masks: keys and key streams against published vectors and a second implementation, and what they hide."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import MaskingRefusedError
from fedpredict.model.fixed_point import FixedPoint, sum_words
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security.live import LiveTls
from fedpredict.security.masking import (
    MaskSession,
    MaskTerms,
    key_stream,
    pair_key,
    round_key,
    rows_digest,
    sign_key,
    verify_key,
)
from fedpredict.security.tls import TlsFiles
from tests.unit.security.federation import Certificates

OK, NOT_FOUND, OUT_OF_RANGE = (
    int(each) for each in (SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.OUT_OF_RANGE)
)
TERMS = MaskTerms(
    session_id=bytes(range(32)), manifest_sha256="ab" * 32, initiator="bank", parties=("hospital", "lab"), scale_bits=32
)
ROWS = rows_digest(Mode.NEARLINE, 0, [b"u1", b"u2"])


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Return one block, as RFC 8439, 2.3, tells it."""
    state = [
        0x61707865,
        0x3320646E,
        0x79622D32,
        0x6B206574,
        *struct.unpack("<8I", key),
        counter,
        *struct.unpack("<3I", nonce),
    ]
    x = list(state)

    def turn(a: int, b: int, c: int, d: int) -> None:
        for left, right, third, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[left] = (x[left] + x[right]) & 0xFFFFFFFF
            x[third] ^= x[left]
            x[third] = (x[third] << bits | x[third] >> (32 - bits)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            turn(column, column + 4, column + 8, column + 12)
        for place in range(4):
            turn(place, 4 + (place + 1) % 4, 8 + (place + 2) % 4, 12 + (place + 3) % 4)
    return struct.pack("<16I", *((ours + theirs) & 0xFFFFFFFF for ours, theirs in zip(x, state, strict=True)))


def chacha20(key: bytes, nonce: bytes, n_bytes: int) -> bytes:
    blocks = (chacha20_block(key, counter, nonce) for counter in range(-(-n_bytes // 64)))
    return b"".join(blocks)[:n_bytes]


def test_the_second_implementation_gives_the_vector_of_rfc_8439() -> None:
    block = chacha20_block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))  # 2.3.2
    assert block.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_key_stream_is_that_of_rfc_8439() -> None:
    # appendix A.1, vectors 1 and 2: key and nonce of zeros, blocks 0 and 1
    assert key_stream(bytes(32), 0, 128).hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


@pytest.mark.parametrize("round_number", [1, 255, 2**32, 2**63 - 1])
@pytest.mark.parametrize("n_bytes", [8, 64, 200])
def test_the_nonce_is_the_round_and_blocks_count_from_0(round_number: int, n_bytes: int) -> None:
    key = hashlib.sha256(b"a key").digest()
    nonce = round_number.to_bytes(8, "little") + bytes(4)
    assert key_stream(key, round_number, n_bytes) == chacha20(key, nonce, n_bytes)


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, n_bytes: int) -> bytes:
    """Return what RFC 5869, 2, tells."""
    extracted, output, block = hmac.digest(salt or bytes(32), secret, "sha256"), b"", b""
    for counter in range(1, 2 + n_bytes // 32):
        block = hmac.digest(extracted, block + info + bytes((counter,)), "sha256")
        output += block
    return output[:n_bytes]


def test_the_second_implementation_gives_the_vector_of_rfc_5869() -> None:
    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))  # A.1
    assert hkdf_sha256(b"\x0b" * 22, salt, info, 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")  # RFC 7748, 6.1
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SECRET = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
TOLD = bytes(range(32)) + b"\xab" * 32 + b"\x20\x02" + b"\x04\0bank" + b"\x08\0hospital" + b"\x03\0lab"
"""The terms, as the protocol writes them."""


def private_key(raw: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(raw)


def test_x25519_is_that_of_rfc_7748() -> None:
    alice = private_key(ALICE)
    assert alice.public_key().public_bytes_raw() == ALICE_PUBLIC
    assert alice.exchange(X25519PublicKey.from_public_bytes(BOB_PUBLIC)) == SECRET


def test_the_key_of_a_pair_is_that_of_the_second_implementation_at_both_ends() -> None:
    info = b"fedpredict-mask-pair-1\0" + TOLD + b"\x08\0hospital" + ALICE_PUBLIC + b"\x03\0lab" + BOB_PUBLIC
    expected = hkdf_sha256(SECRET, b"", info, 32)
    assert pair_key(private_key(ALICE), "hospital", "lab", BOB_PUBLIC, TERMS) == expected
    assert pair_key(private_key(BOB), "lab", "hospital", ALICE_PUBLIC, TERMS) == expected


def test_masks_are_those_of_the_second_implementation() -> None:
    key = hashlib.sha256(b"of the pair").digest()
    rows = b"fedpredict-mask-rows-1\0" + b"\x08\0nearline" + bytes(8) + (2).to_bytes(4, "little")
    rows += b"".join(offset.to_bytes(8, "little") for offset in (0, 2, 4)) + b"u1u2"
    round_7 = hmac.digest(
        key, b"fedpredict-mask-round-1\0" + (7).to_bytes(8, "little") + hashlib.sha256(rows).digest(), "sha256"
    )
    stream = chacha20(round_7, (7).to_bytes(8, "little") + bytes(4), 24)
    expected = list(struct.unpack("<3Q", stream))
    assert MaskSession(TERMS, "hospital", {"lab": key}).masks(7, ROWS, 3).tolist() == expected
    negative = [(2**64 - each) % 2**64 for each in expected]
    assert MaskSession(TERMS, "lab", {"hospital": key}).masks(7, ROWS, 3).tolist() == negative


CHANGES = {
    "session": replace(TERMS, session_id=bytes(32)),
    "manifest": replace(TERMS, manifest_sha256="cd" * 32),
    "initiator": replace(TERMS, initiator="other"),
    "parties": replace(TERMS, parties=("hospital", "lab", "shop")),
    "scale": replace(TERMS, scale_bits=31),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_every_term_is_in_the_key_of_a_pair(changed: str) -> None:
    keys = {pair_key(private_key(ALICE), "hospital", "lab", BOB_PUBLIC, terms) for terms in (TERMS, CHANGES[changed])}
    assert len(keys) == 2


def test_no_party_can_be_taken_for_another_in_the_terms() -> None:
    told = {
        replace(TERMS, parties=parties).encoded() for parties in (("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"))
    }
    assert len(told) == 4


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(32)])
def test_a_public_key_that_is_none_is_refused(public_key: bytes) -> None:
    with pytest.raises(MaskingRefusedError, match="party lab"):
        pair_key(private_key(ALICE), "hospital", "lab", public_key, TERMS)


def test_a_signed_key_is_taken_for_its_own_terms_alone(certificates: Certificates) -> None:
    hospital = LiveTls(certificates.hospital)
    key = sign_key(LiveTls(certificates.lab), TERMS, BOB_PUBLIC)
    verify_key(hospital, TERMS, key)
    for terms in CHANGES.values():
        with pytest.raises(MaskingRefusedError, match="does not fit"):
            verify_key(hospital, terms, key)


@pytest.mark.parametrize("what", ["public_key", "party", "signature", "chain"])
def test_a_signed_key_that_was_changed_is_refused(certificates: Certificates, what: str) -> None:
    key = sign_key(LiveTls(certificates.lab), TERMS, BOB_PUBLIC)
    changed = {
        "public_key": replace(key, public_key=ALICE_PUBLIC),
        "party": replace(key, party="hospital"),
        "signature": replace(key, signature=key.signature[:-1] + bytes((key.signature[-1] ^ 1,))),
        "chain": replace(key, chain_pem=certificates.hospital.certificate.read_bytes()),
    }[what]
    with pytest.raises(MaskingRefusedError) as raised:
        verify_key(LiveTls(certificates.hospital), TERMS, changed)
    assert raised.value.problem == "a key that its party did not sign for this session"


@pytest.mark.parametrize("who", ["stranger", "expired", "early"])
def test_a_key_signed_by_a_bad_certificate_is_refused(certificates: Certificates, who: str) -> None:
    good = sign_key(LiveTls(certificates.lab), TERMS, BOB_PUBLIC)
    files: TlsFiles = getattr(certificates, who)
    key = replace(good, chain_pem=files.certificate.read_bytes())
    with pytest.raises(MaskingRefusedError, match="mask key of party lab"):
        verify_key(LiveTls(certificates.hospital), TERMS, key)


def sessions(parties: Sequence[str], streams: Mapping[frozenset[str], bytes] | None = None) -> dict[str, MaskSession]:
    """Return every party's end of a session; with `streams`, pads by pair instead of key streams."""
    terms, made = replace(TERMS, parties=tuple(sorted(parties))), {}
    keys = {frozenset(pair): hashlib.sha256("|".join(sorted(pair)).encode()).digest() for pair in combine(parties)}
    for party in parties:
        own = {peer: keys[frozenset((party, peer))] for peer in parties if peer != party}
        made[party] = MaskSession(terms, party, own)
        if streams is not None:
            by_key = {round_key(key, 1, ROWS): streams[frozenset((party, peer))] for peer, key in own.items()}
            made[party].stream = partial(given_pads, by_key)
    return made


def given_pads(pads: Mapping[bytes, bytes], key: bytes, _round: int, n_bytes: int) -> bytes:
    return pads[key][:n_bytes]


def combine(parties: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(parties, 2))


def received(ends: Mapping[str, MaskSession], shares: Mapping[str, Sequence[float]]) -> dict[str, bytes]:
    """Return the bytes that an initiator gets of each party for one round."""
    told = {}
    for party, end in ends.items():
        values = np.array(shares[party])[:, None]
        masked, status = end.mask(values, np.full(len(values), OK, np.uint8), 1, ROWS)
        told[party] = masked.checks.tobytes() + masked.words.tobytes() + status.tobytes()
    return told


def test_the_masks_of_three_parties_cancel_and_no_word_is_a_bare_share() -> None:
    ends, fixed = sessions(("a", "b", "c")), FixedPoint(32, 3)
    shares = {
        "a": np.array([[1.5, -2.0], [0.0, 7.0]]),
        "b": np.array([[0.25, 1.0], [0.0, 0.5]]),
        "c": np.full((2, 2), -1.0),
    }
    masked = [end.mask(shares[party], np.full(2, OK, np.uint8), 1, ROWS)[0] for party, end in ends.items()]
    total = sum_words([each.words for each in masked])
    np.testing.assert_array_equal(fixed.decode(total), sum(shares.values()))
    assert sum_words([each.checks for each in masked]).tolist() == [0]
    bare = {int(word) for values in shares.values() for word in fixed.encode(values)[0].ravel()}
    assert not bare & {int(word) for each in masked for word in each.words.ravel()}


STEPS = st.integers(-(2**40), 2**40)


@st.composite
def two_stories(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Return shares in whole steps, by party and sample, and others whose sums are the same."""
    n_parties, n_samples = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    row = st.lists(STEPS, min_size=n_samples, max_size=n_samples)
    told = draw(st.lists(row, min_size=n_parties, max_size=n_parties))
    others = draw(st.lists(row, min_size=n_parties - 1, max_size=n_parties - 1))
    last = [
        sum(column) - sum(other)
        for column, other in zip(zip(*told, strict=True), zip(*others, strict=True), strict=True)
    ]
    return told, [*others, last]


@given(two_stories(), st.integers(0, 2**32))
def test_any_other_shares_of_the_same_sum_would_give_the_same_bytes(
    stories: tuple[list[list[int]], list[list[int]]], seed: int
) -> None:
    told, others = ([[step / 2.0**32 for step in row] for row in story] for story in stories)
    parties = [f"p{place}" for place in range(len(told))]
    n_words = 1 + len(told[0])
    draw = np.random.default_rng(seed)
    pads = {frozenset(pair): draw.integers(0, 2**64, n_words, dtype=np.uint64) for pair in combine(parties)}
    # the pads under which the other story is told: the first party's with each other one takes up the difference
    changed = dict(pads)
    for place, party in enumerate(parties[1:], 1):
        difference = np.array([0, *(b - a for a, b in zip(stories[0][place], stories[1][place], strict=True))])
        changed[frozenset((parties[0], party))] = pads[frozenset((parties[0], party))] + difference.view(np.uint64)
    first = received(
        sessions(parties, {pair: pad.tobytes() for pair, pad in pads.items()}), dict(zip(parties, told, strict=True))
    )
    second = received(
        sessions(parties, {pair: pad.tobytes() for pair, pad in changed.items()}),
        dict(zip(parties, others, strict=True)),
    )
    assert first == second


def test_what_one_party_cannot_score_stays_masked_at_the_others() -> None:
    ends, fixed = sessions(("a", "b", "c")), FixedPoint(32, 3)
    values, status = np.array([[1.0], [2.0]]), np.array([OK, OK], np.uint8)
    at_c, status_c = np.array([[3.0], [np.nan]]), np.array([OK, NOT_FOUND], np.uint8)
    a, b = (ends[party].mask(values, status, 1, ROWS)[0].words for party in "ab")
    masked_c, told_c = ends["c"].mask(at_c, status_c, 1, ROWS)
    assert told_c.tolist() == [OK, NOT_FOUND]
    assert masked_c.words[1].tolist() == [0]
    total = fixed.decode(sum_words([a, b, masked_c.words]))
    assert total[0, 0] == 5.0
    # without c's words, a's and b's masks with it stay in the sum: chance makes it small once in 2^30
    assert abs(total[1, 0] - 4.0) > 1.0


def test_a_share_too_large_for_a_word_is_out_of_range() -> None:
    ends = sessions(("a", "b"))
    values = np.array([[2.0**29], [np.nextafter(2.0**29, np.inf)], [-(2.0**29)], [np.nan]])
    masked, status = ends["a"].mask(values, np.array([OK, OK, OK, NOT_FOUND], np.uint8), 1, ROWS)
    assert status.tolist() == [OK, OUT_OF_RANGE, OK, NOT_FOUND]
    assert (masked.words[:, 0] == 0).tolist() == [False, True, False, True]


def test_masks_of_other_rows_modes_and_rounds_do_not_cancel() -> None:
    ends = sessions(("a", "b"))
    others = [
        (1, rows_digest(Mode.NEARLINE, 0, [b"u1", b"u3"])),
        (1, rows_digest(Mode.NEARLINE, 0, [b"u2", b"u1"])),
        (1, rows_digest(Mode.NEARLINE, 0, [b"u", b"1u2"])),
        (1, rows_digest(Mode.NEARLINE, 1, [b"u1", b"u2"])),
        (1, rows_digest(Mode.OFFLINE, 0, [b"u1", b"u2"])),
        (2, ROWS),
    ]
    for round_number, rows in others:
        assert (ends["a"].masks(1, ROWS, 3) + ends["b"].masks(round_number, rows, 3)).all()


@pytest.mark.parametrize("round_number", [0, 4, 5, 2**63])
def test_a_round_must_be_higher_than_every_one_before(round_number: int) -> None:
    end = sessions(("a", "b"))["a"]
    end.begin(1)
    end.begin(5)
    with pytest.raises(MaskingRefusedError, match=f"round {round_number} after round 5"):
        end.begin(round_number)
    end.begin(6)


def test_a_round_has_no_more_words_than_the_block_counter_reaches() -> None:
    with pytest.raises(MaskingRefusedError, match="268435457 words"):
        sessions(("a", "b"))["a"].masks(1, ROWS, 2**28 + 1)

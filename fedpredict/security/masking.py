"""Masks that cancel in the sum of all parties' shares: keys of a session, key streams of a round (ADR 0045).

Each pair of parties agrees on a key (X25519, HKDF-SHA256), and expands it for each round (HMAC-SHA256, ChaCha20) into
one word more than there are numbers in a share: the first is the check, the others follow row by row. The party whose
id sorts first adds these words to its own, the other one subtracts them. The tests hold all of it to vectors.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedpredict.errors import CertificateError, CertificateRefusedError, MaskingRefusedError
from fedpredict.model.arrays import Floats, Statuses, all_true
from fedpredict.model.fixed_point import FixedPoint, MaskedWords, Words
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security.hello import Proof
from fedpredict.security.live import LiveTls

SESSION_ID_BYTES = KEY_BYTES = 32
MAX_WORDS = 2**28
"""Most words of a key stream, 2 GB: ChaCha20's counter ends at 2^32 blocks of 64 bytes."""
LAST_ROUND = 2**63 - 1

KeyStream: TypeAlias = Callable[[bytes, int, int], bytes]
"""(key, round, length in bytes) -> that many bytes."""

_U8 = np.dtype("<u8")
_COUNTS = struct.Struct("<QI")
_ROUND = b"fedpredict-mask-round-1\0"
_OK, _OUT_OF_RANGE = np.uint8(SampleStatus.OK), np.uint8(SampleStatus.OUT_OF_RANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTerms:
    """What all parties of a session must agree on: all of it is signed, and bound into every key.

    Attributes:
        session_id: 32 random bytes of the initiator.
        manifest_sha256: The version of the model.
        initiator: Who asks, by its certificate.
        parties: Everyone whose masks are in the sum, sorted.
        scale_bits: As in `FixedPoint`.
    """

    session_id: bytes
    manifest_sha256: str
    initiator: str
    parties: tuple[str, ...]
    scale_bits: int

    def encoded(self) -> bytes:
        """Return the terms as bytes, in one way only: every text behind its length, the parties behind their number."""
        return b"".join(
            (
                self.session_id,
                bytes.fromhex(self.manifest_sha256),
                struct.pack("<BB", self.scale_bits, len(self.parties)),
                *map(counted, (self.initiator, *self.parties)),
            )
        )


@dataclass(frozen=True, slots=True)
class SignedKey:
    """A party's public key for one session, and the proof that it is its own.

    Attributes:
        party: Whose.
        public_key: X25519, 32 bytes.
        chain_pem: The party's certificate chain in PEM, leaf first.
        signature: By the leaf's key, over the terms, the party and the public key.
    """

    party: str
    public_key: bytes
    chain_pem: bytes
    signature: bytes


def sign_key(live: LiveTls, terms: MaskTerms, public_key: bytes) -> SignedKey:
    """Return this party's public key, signed by the key of its newest certificate."""
    party = live.identity.name
    return SignedKey(party, public_key, *live.sign(_signed(party, terms, public_key)))


def verify_key(live: LiveTls, terms: MaskTerms, key: SignedKey) -> None:
    """Check that a public key was signed for these terms by the party that it names, whose certificate is good.

    Raises:
        MaskingRefusedError: The chain is not the party's, or is revoked or denied; or the signature is not its own, or
            of other terms.
    """
    message, proof = _signed(key.party, terms, key.public_key), (key.chain_pem, key.signature)
    check_word(live, key.party, message, proof, what="key", meant="sign for this session")


def check_word(live: LiveTls, party: str, message: bytes, proof: Proof, *, what: str, meant: str) -> None:
    """Check that a party signed what another one relayed, and that its certificate is good.

    Args:
        live: Whom this end believes.
        party: Who is said to have signed.
        message: What.
        proof: The chain, and the signature.
        what: What errors call it.
        meant: What the party is said to have done with it, for errors: "sign for this session".

    Raises:
        MaskingRefusedError: As `verify_key`.
    """
    source = f"the mask {what} of party {party}"
    try:
        live.check_signed(party, message, proof, source=source)
    except CertificateError as error:
        raise MaskingRefusedError(str(error), problem=f"a {what} that its party did not {meant}") from error
    except CertificateRefusedError as error:
        problem = f"a {what} of a party whose certificate is not accepted"
        raise MaskingRefusedError(f"{source}: {error}", problem=problem) from error


def pair_key(own: X25519PrivateKey, party: str, peer: str, peer_public_key: bytes, terms: MaskTerms) -> bytes:
    """Return the 32 bytes that two parties, and nobody else, have in common for a session.

    Raises:
        MaskingRefusedError: The peer's public key is none.
    """
    own_public_key = own.public_key().public_bytes_raw()
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(peer_public_key))
    except ValueError as error:
        raise MaskingRefusedError(f"party {peer}: {error}", problem="a public key that is none") from error
    (first, first_key), (second, second_key) = sorted(((party, own_public_key), (peer, peer_public_key)))
    info = b"".join(
        (b"fedpredict-mask-pair-1\0", terms.encoded(), counted(first), first_key, counted(second), second_key)
    )
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def rows_digest(mode: Mode, epoch: int, sample_ids: Sequence[bytes]) -> bytes:
    """Return the SHA-256 of what a round asks of each party alike.

    It goes into the round's keys: where an initiator asks two parties about different samples, their masks do not
    cancel, so that it cannot add one party's share of one person to another party's of another person.
    """
    ids = SampleIds.of(sample_ids)
    offsets = ids.offsets if ids.offsets[0] == 0 else ids.offsets - ids.offsets[0]
    told = (_ROWS[mode], _COUNTS.pack(epoch, len(ids)), offsets.astype("<u8", copy=False).tobytes(), ids.data)
    return hashlib.sha256(b"".join(told)).digest()


def round_key(key: bytes, round_number: int, rows_sha256: bytes) -> bytes:
    """Return the key of one round between two parties: HMAC-SHA256 over a tag, the round (uint64) and its rows."""
    return hmac.digest(key, _ROUND + round_number.to_bytes(8, "little") + rows_sha256, "sha256")


def key_stream(key: bytes, round_number: int, n_bytes: int) -> bytes:
    """Return ChaCha20's key stream (RFC 8439) from block 0 on; the nonce is the round (uint64) and 4 zero bytes."""
    # OpenSSL takes the block counter, 4 bytes, in front of the nonce
    nonce = b"\0\0\0\0" + round_number.to_bytes(8, "little") + b"\0\0\0\0"
    return Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(n_bytes))


@dataclass(slots=True, eq=False)
class MaskSession:
    """One party's end of a session, for one version of a model. It lives in one process, and dies with it.

    Attributes:
        terms: What was agreed on.
        party: Whose end.
        keys: By other party, what `pair_key` returned.
        last_round: The highest round that was masked, or begun.
        stream: What a round's key is expanded by.
    """

    terms: MaskTerms
    party: str
    keys: Mapping[str, bytes]
    last_round: int = 0
    stream: KeyStream = key_stream

    def begin(self, round_number: int) -> None:
        """Use a round's number up, whatever becomes of the round.

        Raises:
            MaskingRefusedError: It is not higher than every one before it.
        """
        if not self.last_round < round_number <= LAST_ROUND:
            told = f"round {round_number} after round {self.last_round} of a mask session"
            raise MaskingRefusedError(told, problem="a round that was used before")
        self.last_round = round_number

    def mask(
        self, values: Floats, status: Statuses, round_number: int, rows_sha256: bytes
    ) -> tuple[MaskedWords, Statuses]:
        """Return the masked words of a round that was begun, and the samples' statuses.

        A sample that this party cannot score gets words of 0 without a mask, so that the others' stay masked.

        Args:
            values: Shape (n_samples, n_scores), before the link; NaN where the status is not OK.
            status: Shape (n_samples,).
            round_number: Of the round.
            rows_sha256: What `rows_digest` returned.

        Returns:
            The words, with one check; and the statuses: OUT_OF_RANGE where a share is too large for a word.
        """
        words, fits = FixedPoint(self.terms.scale_bits, len(self.terms.parties)).encode(values)
        masks = self.masks(round_number, rows_sha256, 1 + words.size)
        words += masks[1:].reshape(words.shape)
        if not all_true(fits):
            status = np.where((status == _OK) & ~fits, _OUT_OF_RANGE, status)
            words[~fits] = 0
        return MaskedWords(words, masks[:1]), status

    def masks(self, round_number: int, rows_sha256: bytes, n_words: int) -> Words:
        """Return this party's masks of a round, shape (n_words,): those of all parties add up to 0."""
        if n_words > MAX_WORDS:
            raise MaskingRefusedError(f"{n_words} words in a round", problem="more numbers than a round may have")
        total: Words | None = None
        for peer, key in self.keys.items():
            expanded = self.stream(round_key(key, round_number, rows_sha256), round_number, 8 * n_words)
            own = np.frombuffer(expanded, dtype=_U8)
            if self.party > peer:
                own = np.negative(own)
            total = own if total is None else total + own
        return np.zeros(n_words, dtype=np.uint64) if total is None else total


def _signed(party: str, terms: MaskTerms, public_key: bytes) -> bytes:
    return b"".join((b"fedpredict-mask-key-1\0", terms.encoded(), counted(party), public_key))


def counted(text: str) -> bytes:
    """Return a text as UTF-8 behind its length (uint16, little-endian), so that no two lists of texts read alike."""
    encoded = text.encode()
    return struct.pack("<H", len(encoded)) + encoded


_ROWS = {mode: b"fedpredict-mask-rows-1\0" + counted(mode.value) for mode in Mode}
"""What the digest of a round's rows begins with."""

"""A 64-bit hash of sample ids: for many at once in numpy, and the same for one in plain Python.

The id's bytes, padded with zeros to 64-bit words, are multiplied with secret odd numbers and summed with the length,
and the sum is mixed. The seed is drawn for each table, so that nobody can choose ids that fall into one bucket. Equal
hashes prove nothing: whoever looks up compares the bytes as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.sample_ids import SampleIds

_BITS = (1 << 64) - 1
_HALF = np.uint64(32)
_WORD = 8
_N_WORDS = MAX_SAMPLE_ID_BYTES // _WORD
_PAIRS = 65_536
"""So many are compared at a time, to bound the memory."""

Hashes = NDArray[np.uint64]
Words = NDArray[np.uint64]

_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(_WORD + 1)], dtype=np.uint64)
"""Keeps the first n bytes of a little-endian word."""


@dataclass(frozen=True, slots=True, eq=False)
class HashedIds:
    """Ids, hashed.

    Attributes:
        hashes: Shape (n,).
        lengths: Shape (n,), in bytes.
        words: The ids' 64-bit words, each of shape (n,): all first words, all second words ..., zero beyond the end;
            so many as `MAX_SAMPLE_ID_BYTES` holds.
    """

    hashes: Hashes
    lengths: NDArray[np.int64]
    words: tuple[Words, ...]


class IdHash:
    """The hash function of one seed."""

    def __init__(self, seed: int) -> None:
        """Derive the numbers of the function.

        Args:
            seed: 0 to 2^64 - 1.
        """
        self._length_key, self._mix_key, *keys = _odd_numbers(seed, _N_WORDS + 2)
        self._keys = tuple(keys)
        self._first_key, *self._further_keys = keys
        self._of_numpy = [np.uint64(key) for key in (self._length_key, self._mix_key, *keys)]

    def one(self, sample_id: bytes) -> int:
        """Return the hash of an id; of a longer one than `MAX_SAMPLE_ID_BYTES`, of its beginning and its length.

        >>> IdHash(1).one(b"u1") == int(IdHash(1).many(SampleIds.of([b"u1"])).hashes[0])
        True
        """
        return self.few((sample_id,))[0]

    def few(self, sample_ids: Iterable[bytes]) -> list[int]:
        """Return what `one` does for each of some ids: one loop, since calls take longer than what they would do."""
        length_key, mix_key, first_key = self._length_key, self._mix_key, self._first_key
        hashes = []
        for sample_id in sample_ids:
            words = int.from_bytes(sample_id if len(sample_id) <= _WORD else sample_id[:_WORD], "little")
            mixed = len(sample_id) * length_key + words * first_key
            if len(sample_id) > _WORD:
                mixed += self._of_rest(sample_id)
            mixed &= _BITS
            hashes.append(((mixed ^ (mixed >> 32)) * mix_key) & _BITS)
        return hashes

    def _of_rest(self, sample_id: bytes) -> int:
        """Return what the words after the first add to the sum."""
        rest = int.from_bytes(sample_id[_WORD:MAX_SAMPLE_ID_BYTES], "little")
        added = 0
        for key in self._further_keys:
            if not rest:
                break
            added += (rest & _BITS) * key
            rest >>= 64
        return added

    def many(self, sample_ids: SampleIds) -> HashedIds:
        """Return what `one` does for each of at least one id."""
        data = np.frombuffer(sample_ids.data + b"\0" * _WORD, dtype=np.uint8)
        lengths = sample_ids.lengths
        longest = min(int(np.maximum.reduce(lengths)), MAX_SAMPLE_ID_BYTES)
        words = id_words(data, sample_ids.offsets[:-1], lengths, longest)
        length_key, mix_key, *keys = self._of_numpy
        hashes = lengths.astype(np.uint64)
        hashes *= length_key
        for word, key in zip(words, keys, strict=False):
            hashes += word * key
        hashes ^= hashes >> _HALF
        hashes *= mix_key
        return HashedIds(hashes, lengths, words)


def id_words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], longest: int
) -> tuple[Words, ...]:
    """Return the 64-bit words of ids, zero beyond the end of an id.

    Args:
        data: The bytes that hold the ids, contiguous, with at least 8 more behind the last id.
        starts: Shape (n,): where in `data` an id begins.
        lengths: Shape (n,).
        longest: How many bytes of an id are wanted at most.
    """
    last = len(data) - _WORD
    # a word may begin at any byte: overlapping words, one byte apart, read only where asked
    every_word: Words = np.ndarray((last + 1,), dtype="<u8", buffer=data, strides=(1,))
    words = [every_word[starts] & _MASKS.take(lengths, mode="clip")] if longest else []
    for begin in range(_WORD, longest, _WORD):
        at = np.minimum(starts + begin, last)
        words.append(every_word[at] & _MASKS.take(lengths - begin, mode="clip"))
    return tuple(words)


def _odd_numbers(seed: int, count: int) -> list[int]:
    """Return odd 64-bit numbers by SplitMix64 (Steele, Lea and Flood, 2014)."""
    numbers = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & _BITS
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _BITS
        numbers.append((mixed ^ (mixed >> 31)) | 1)
    return numbers


def same_ids(sample_ids: SampleIds, left: NDArray[np.int64], right: NDArray[np.int64]) -> Bools:
    """Return pair by pair whether two of the ids, given by their positions, are the same bytes."""
    data = np.frombuffer(sample_ids.data + b"\0" * _WORD, dtype=np.uint8)
    lengths = sample_ids.lengths
    same: Bools = lengths[left] == lengths[right]
    for begin in range(0, len(left), _PAIRS):
        some = slice(begin, begin + _PAIRS)
        longest = int(lengths[left[some]].max())
        of_left, of_right = (
            id_words(data, sample_ids.offsets[side[some]], lengths[side[some]], longest) for side in (left, right)
        )
        for one, other in zip(of_left, of_right, strict=True):
            same[some] &= one == other
    return same

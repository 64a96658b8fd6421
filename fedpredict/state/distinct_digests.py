"""What stands for sample ids in the count of a caller's day: digests under a key of the party's own, never an id."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.buckets import HASH_BITS, places_of
from fedpredict.model.sample_ids import SampleIds

DIGEST_BYTES = 16
_AT_ONCE = 2_000
"""Digests that are made before other threads get their turn: some 1 ms."""
_GROUP_BITS = 8


@dataclass(frozen=True, slots=True)
class CallerDay:
    """A caller, by its party, and a day of the UTC calendar."""

    caller: str
    day: date


@dataclass(frozen=True, slots=True, eq=False)
class NewIds:
    """What a question adds to its caller's day, if nobody else does.

    Attributes:
        digests: Those of its ids that may be new, and perhaps others; end to end, each once.
        limit: How many the caller may ask about.
        list_digest: Stands for the whole list; empty: it is not remembered.
    """

    digests: bytes
    limit: int
    list_digest: bytes = b""


class DayDigests:
    """Makes the digests of one caller's day: nobody can compare them with those of another."""

    def __init__(self, secret: bytes, who: CallerDay) -> None:
        """Derive the day's keys from the party's."""
        named = f"{who.day.isoformat()} {who.caller}".encode()
        ids, groups = (
            hashlib.blake2b(named, key=secret, digest_size=32, person=what).digest() for what in (b"ids", b"groups")
        )
        self._hash = hashlib.blake2b(key=ids, digest_size=DIGEST_BYTES)
        # a bucket's ids have neighbouring places: digests that begin alike keep its rows together on the disk. Which
        # place has which beginning is the key's secret
        shuffled = sorted(range(1 << _GROUP_BITS), key=lambda place: _keyed(groups, bytes((place,))))
        self._groups = np.array(shuffled, dtype=np.uint8)
        self.check = self._digest(b"")
        """Stands for the key: nothing is the digest of, because an id is never empty."""

    def of_ids(self, sample_ids: SampleIds) -> bytes:
        """Return the digests of ids end to end, rising and each once, `DIGEST_BYTES` each.

        A digest is BLAKE2b under the day's key. Its first byte gives way to a permuted one of the id's place.
        """
        digests: list[bytes] = []
        for start in range(0, len(sample_ids), _AT_ONCE):
            if start:
                time.sleep(0)
            digests += map(self._digest, sample_ids.cut(start, min(start + _AT_ONCE, len(sample_ids))))
        rows = np.frombuffer(bytearray(b"".join(digests)), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        rows[:, 0] = self._groups[places_of(sample_ids) >> np.uint32(HASH_BITS - _GROUP_BITS)]
        return _rising(rows)

    def of_list(self, ids_sha256: str) -> bytes:
        """Return what stands for a whole list, from its digest in hex."""
        return self._digest(b"list " + bytes.fromhex(ids_sha256))

    def _digest(self, content: bytes) -> bytes:
        hashed = self._hash.copy()
        hashed.update(content)
        return hashed.digest()


def _keyed(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=key).digest()


def _rising(rows: NDArray[np.uint8]) -> bytes:
    if len(rows) <= 1:
        return rows.tobytes()
    halves = rows.view(">u8").astype(np.uint64)
    rows = rows[np.lexsort((halves[:, 1], halves[:, 0]))]
    is_first = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))
    return bytes(rows[is_first].data)

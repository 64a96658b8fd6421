from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.features.hashing import IdHash, same_ids
from fedpredict.features.rows import latest_rows
from fedpredict.model.sample_ids import SampleIds

SEED = 7
BITS = 1 << 64

ids = st.lists(st.binary(max_size=300), min_size=1, max_size=40)


def colliding(sample_id: bytes, seed: int = SEED) -> bytes:
    """Another id of the same hash, for an id of 16 bytes: whoever knows the seed can make one."""
    hashing = IdHash(seed)
    first, second = hashing._keys[:2]
    low, high = (int.from_bytes(half, "little") for half in (sample_id[:8], sample_id[8:]))
    # d1 * first + d2 * second = 0 modulo 2^64, and an odd number has an inverse there
    other_low = (low - second * pow(first, -1, BITS)) % BITS
    return other_low.to_bytes(8, "little") + ((high + 1) % BITS).to_bytes(8, "little")


@given(ids, st.integers(0, BITS - 1))
def test_one_id_and_many_have_the_same_hashes(sample_ids: list[bytes], seed: int) -> None:
    hashing = IdHash(seed)
    assert hashing.many(SampleIds.of(sample_ids)).hashes.tolist() == [hashing.one(each) for each in sample_ids]


def test_zeros_at_the_end_and_order_make_other_hashes() -> None:
    some = [b"", b"\0", b"\0" * 8, b"\0" * 9, b"a", b"a\0", b"a" * 8 + b"b" * 8, b"b" * 8 + b"a" * 8]
    assert len({IdHash(SEED).one(each) for each in some}) == len(some)


def test_another_seed_is_another_hash() -> None:
    assert len({IdHash(seed).one(b"u1") for seed in range(100)}) == 100


@pytest.mark.parametrize("pattern", ["u{:07d}", "{}", "{:030d}", "{:x}@example.org", "id-{:07d}-x"])
def test_numbered_ids_spread_as_random_numbers_do(pattern: str) -> None:
    n_ids = 20_000
    packed = SampleIds.of([pattern.format(i).encode() for i in range(n_ids)])
    hashes = IdHash(SEED).many(packed).hashes
    buckets = (hashes >> np.uint64(32)) * np.uint64(n_ids) >> np.uint64(32)
    counts = np.bincount(buckets.astype(np.int64), minlength=n_ids)
    # of random numbers e^-1 of the buckets are empty, and hardly ever 10 in one
    assert 0.36 < np.mean(counts == 0) < 0.38
    assert counts.max() < 12


@given(st.data())
def test_pairs_are_the_same_where_their_bytes_are(data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from([b"", b"a", b"b", b"a" * 8, b"a" * 9, b"a" * 8 + b"b"]), min_size=1))
    places = st.lists(st.integers(0, len(some) - 1), min_size=1, max_size=20)
    left = data.draw(places)
    right = data.draw(st.lists(st.integers(0, len(some) - 1), min_size=len(left), max_size=len(left)))
    same = same_ids(SampleIds.of(some), np.array(left), np.array(right))
    assert same.tolist() == [some[one] == some[other] for one, other in zip(left, right, strict=True)]


def test_ids_of_one_hash_get_another_seed() -> None:
    one = b"0123456789abcdef"
    other = colliding(one)
    assert other != one
    assert IdHash(SEED).one(other) == IdHash(SEED).one(one)

    latest = latest_rows(SampleIds.of([one, b"x", other]), np.array([1, 2, 3]), [SEED, 8])

    assert latest.seed == 8
    assert sorted(latest.rows.tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="no seed"):
        latest_rows(SampleIds.of([one, other]), np.array([1, 2]), [SEED])

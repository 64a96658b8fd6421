"""Hash buckets of sample ids: the same in numpy, DuckDB, Spark and Hive, and at every party.

An id's hash is the first 32 bits of MD5 over its UTF-8 bytes, its bucket the hash modulo n, where n is a power of two.
The bucket is then the hash's last bits; so ids in the order of their *place*, the hash with its bits reversed, stand
bucket by bucket for every n at once, and a bucket is one range of places (ADR 0030).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedpredict.errors import InputError
from fedpredict.model.kernel.md5 import md5_starts
from fedpredict.model.sample_ids import SampleIds

MAX_BUCKETS = 65_536
HASH_BITS = 32
PLACE_DIGITS = 8

REVERSED_DIGITS = "084c2a6e195d3b7f"
"""For each hexadecimal digit, the one with its four bits reversed."""

_REVERSED_BYTES = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint8).reshape(256, 2)

Hashes = NDArray[np.uint32]


def check_bucket_count(count: int) -> int:
    """Return `count` if ids can be cut into so many buckets: a power of two from 1 to `MAX_BUCKETS`.

    Raises:
        InputError: They cannot.
    """
    if not 1 <= count <= MAX_BUCKETS or count & (count - 1):
        raise InputError(f"{count} buckets: a power of two from 1 to {MAX_BUCKETS} is needed")
    return count


def bucket_count(n_rows: int, bucket_rows: int) -> int:
    """Return the fewest buckets, a power of two, whose mean size is at most `bucket_rows`.

    >>> bucket_count(0, 10), bucket_count(10, 10), bucket_count(50, 10)
    (1, 1, 8)
    """
    return min(MAX_BUCKETS, 1 << max(0, (max(n_rows, 1) - 1) // bucket_rows).bit_length())


def hashes_of(sample_ids: Iterable[bytes]) -> Hashes:
    """Return the hash of each id, shape (n,).

    >>> [int(each) for each in hashes_of([b"u1", b""])]
    [3833023709, 3558706393]
    """
    return md5_starts(SampleIds.of(sample_ids)).view(">u4")[:, 0].astype(np.uint32)


def buckets_of(sample_ids: Iterable[bytes], n_buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each id, 0 to n - 1, shape (n,).

    >>> buckets_of([b"u1", b""], 8).tolist()
    [5, 1]
    """
    return (hashes_of(sample_ids) & np.uint32(check_bucket_count(n_buckets) - 1)).astype(np.int64)


def places_of(sample_ids: Iterable[bytes]) -> Hashes:
    """Return the place of each id, its hash with the bits reversed; shape (n,).

    >>> [f"{int(each):08x}" for each in places_of([b"u1", b""])]
    ['bb32ee27', '9b31b82b']
    """
    # the hash's bytes in the other order, each with its bits in the other order
    return _REVERSED_BYTES[md5_starts(SampleIds.of(sample_ids))].view("<u4")[:, 0].astype(np.uint32, copy=False)


def order_of_places(places: Hashes) -> NDArray[np.intp]:
    """Return the rows in the order of their places, those of one place in the order they stand in; shape (n,).

    >>> order_of_places(np.array([70_000, 3, 70_000, 2], dtype=np.uint32)).tolist()
    [3, 1, 0, 2]
    """
    # half by half: of 16 bits numpy's stable sort is one by digits, of 32 it compares
    order = np.argsort((places & np.uint32(0xFFFF)).astype(np.uint16), kind="stable")
    return order[np.argsort((places >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]


def place_texts(places: Hashes) -> NDArray[np.uint8]:
    """Return places as tables hold them: `PLACE_DIGITS` hexadecimal digits in ASCII each; shape (n, PLACE_DIGITS).

    >>> place_texts(places_of([b"u1"])).tobytes()
    b'bb32ee27'
    """
    return _HEX[places.astype(">u4").view(np.uint8).reshape(-1, 4)].reshape(-1, PLACE_DIGITS)


def place_range(bucket: int, n_buckets: int) -> tuple[str, str]:
    """Return the first place of a bucket, and the first behind it, as text compares.

    >>> place_range(0, 1), place_range(1, 4), place_range(3, 4)
    (('00000000', 'g'), ('80000000', 'c0000000'), ('c0000000', 'g'))
    """
    first, end = place_bounds(bucket, n_buckets)
    return f"{first:0{PLACE_DIGITS}x}", "g" if end >> HASH_BITS else f"{end:0{PLACE_DIGITS}x}"


def place_bounds(bucket: int, n_buckets: int) -> tuple[int, int]:
    """Return the first place of a bucket, and the first behind it.

    >>> place_bounds(0, 1) == (0, 2**32), place_bounds(1, 4) == (2**31, 3 * 2**30)
    (True, True)
    """
    if not 0 <= bucket < check_bucket_count(n_buckets):
        raise InputError(f"bucket {bucket} of {n_buckets}")
    bits = n_buckets.bit_length() - 1
    rank, width = bucket_of_rank(bucket, n_buckets), 1 << (HASH_BITS - bits)  # reversing twice changes nothing
    return rank * width, (rank + 1) * width


def bucket_of_rank(rank: int, n_buckets: int) -> int:
    """Return which bucket has the places of that rank, from the lowest.

    >>> [bucket_of_rank(rank, 4) for rank in range(4)]
    [0, 2, 1, 3]
    """
    bits = n_buckets.bit_length() - 1
    return int(format(rank, f"0{bits}b")[::-1], 2) if bits else 0


def in_places(n_buckets: int) -> list[int]:
    """Return all buckets in the order of their places: neighbours stand side by side for any number of buckets.

    >>> in_places(8)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    return [bucket_of_rank(rank, n_buckets) for rank in range(n_buckets)]

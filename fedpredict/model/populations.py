"""The ids that an offline task is about: in one order at every party, cut into buckets, and told apart by digests.

Ids stand in the order of their *places* (`model.buckets`), those of one place in the order of their bytes, each once.
So they stand bucket by bucket, and both ends of a task know the position of every id without telling each other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedpredict.errors import InputError
from fedpredict.model.buckets import MAX_BUCKETS, bucket_count, places_of
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.ids import check_name
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, Share

BUCKET_ROWS = 262_144
"""Ids of a bucket of a population, on average at most; what travels in one message and is done again after a crash."""
BUCKET_BYTES = 6 * 1024 * 1024
"""What the ids of a bucket may take, on average."""
MAX_BUCKET_ROWS = 2 * BUCKET_ROWS
"""The most rows of one call for a bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationRows:
    """Rows of a bucket of a standing population.

    Attributes:
        population, version: Which.
        bucket_sha256: The digest of the whole bucket, in hex.
        first: The first row, from 0.
        rows: How many.
    """

    population: str
    version: int
    bucket_sha256: str
    first: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketQuery:
    """What a party is asked of one bucket of an offline task; asked again, the answer is the same.

    Attributes:
        request_id: Names the call in every log.
        task_id: The initiator's task.
        model_id: The model.
        manifest_sha256: The version that the task was begun with.
        params_sha256: The asked party's digest in it.
        mode: Nearline or offline.
        bucket, n_buckets: Which bucket of how many.
        rows: The ids, or which of a population that the party has accepted.
        ids_sha256: The digest of the ids asked for, which the answer must repeat. It stays with the caller: a query
            that came over the wire has none.
        epoch: As in a `ScoreQuery`.
    """

    request_id: str
    task_id: str
    model_id: str
    manifest_sha256: str
    params_sha256: str
    mode: Mode
    bucket: int
    n_buckets: int
    rows: SampleIds | PopulationRows
    ids_sha256: str = ""
    epoch: int = 0

    @property
    def n_rows(self) -> int:
        """How many samples are asked for."""
        return self.rows.rows if isinstance(self.rows, PopulationRows) else len(self.rows)


# not frozen, like the other values that hold shares
@dataclass(slots=True, kw_only=True, eq=False)
class BucketAnswer:
    """A party's answer to a `BucketQuery`.

    Attributes:
        share: In the order of the ids.
        ids_sha256: The digest of the ids that it is about, in hex.
        oldest_event_time: The oldest event time among the features used, in microseconds UTC, or None.
        elapsed_s: Seconds the party spent.
        masked: The share in a masked sum; `share` has the statuses and no numbers then. None: it is not masked.
        sources: What it comes from: a snapshot or a day's shares; two where that changed meanwhile; none: not known.
    """

    share: Share
    ids_sha256: str
    oldest_event_time: int | None
    elapsed_s: float
    masked: MaskedWords | None = None
    sources: tuple[str, ...] = ()


class BucketScorer(Protocol):
    """A party as an offline task sees it. An implementation computes in process, or wraps a channel."""

    @property
    def party(self) -> str:
        """The party's id."""

    async def score_bucket(self, query: BucketQuery, *, deadline_s: float) -> BucketAnswer:
        """Return the party's share of a bucket, or of some of its rows, within `deadline_s` seconds.

        Raises:
            PartyError: The party is away, slow, or refuses; or its answer is about other ids.
            ManifestMismatchError: It does not serve the version asked for.
            ModelNotReadyError: It is in this process, and cannot answer for the model now.
            PopulationRefusedError: It does not answer for that version of the population, or not yet.
        """


def check_population(value: str) -> str:
    """Return `value` if it names a population, as model ids are named; else raise `NameRefusedError`."""
    return check_name(value, "population")


def digest_of(sample_ids: SampleIds) -> str:
    """Return the digest of ids in their order, in hex.

    SHA-256 over the number of ids (uint64 little-endian), their n + 1 offsets (uint32 little-endian) and their bytes.

    >>> digest_of(SampleIds.of([b"u1", b"u2"]))[:16]
    '3558533452535f2e'
    """
    hashed = hashlib.sha256(len(sample_ids).to_bytes(8, "little"))
    hashed.update(np.ascontiguousarray(sample_ids.offsets, dtype="<u4").data)
    hashed.update(sample_ids.data)
    return hashed.hexdigest()


def in_order(sample_ids: SampleIds) -> SampleIds:
    """Return ids in the order of a population, each once.

    >>> list(in_order(SampleIds.of([b"u2", b"u1", b"u3", b"u1"])))
    [b'u2', b'u3', b'u1']
    """
    ids = sorted(set(sample_ids))
    order = np.argsort(places_of(ids), kind="stable")
    return SampleIds.of([ids[at] for at in order.tolist()])


def buckets_for(n_ids: int, n_bytes: int) -> int:
    """Return into how many buckets so many ids of so many bytes together are cut.

    Raises:
        InputError: They are too many, or too long, for `MAX_BUCKETS`.
    """
    count = max(bucket_count(n_ids, BUCKET_ROWS), bucket_count(n_bytes, BUCKET_BYTES))
    if n_ids > count * BUCKET_ROWS or n_bytes > count * BUCKET_BYTES:
        raise InputError(
            f"{n_ids} sample ids of {n_bytes} bytes are too many for {MAX_BUCKETS} buckets: cut the population"
        )
    return count

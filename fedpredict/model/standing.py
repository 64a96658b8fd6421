"""What the two ends of a standing population tell each other: its versions, and the ids of their buckets (ADR 0031)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fedpredict.errors import InputError
from fedpredict.model.arrays import all_true
from fedpredict.model.buckets import HASH_BITS, place_bounds, places_of
from fedpredict.model.id_sets import are_among, by_place
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.populations import MAX_BUCKET_ROWS
from fedpredict.model.sample_ids import SampleIds


class PopulationState(StrEnum):
    """What holds of a version at the party whose warehouse it is in."""

    RECEIVING = "receiving"
    """Told of, and not complete."""
    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    REVOKED = "revoked"


WHY_NOT = {
    PopulationState.RECEIVING: "it is not complete here: not all of its ids have come",
    PopulationState.PROPOSED: "its operator has not accepted it",
    PopulationState.REVOKED: "it was revoked here",
}
"""Why a participant does not answer for a version that is in that state there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationNotice:
    """An initiator tells a participant of a version, or only asks what became of it.

    Attributes:
        request_id: Names the call in every log.
        population: Its name.
        version: From 1.
        n_ids: In all buckets.
        digests: Of its buckets, in hex, in order; none where only the state is asked for.
    """

    request_id: str
    population: str
    version: int
    n_ids: int = 0
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationStanding:
    """What a participant says of a version.

    Attributes:
        state: What holds of it there; None: it knows no such version.
        missing: The buckets that it lacks, ascending.
        accepted_version: The newest accepted version of the population; 0: none.
    """

    state: PopulationState | None
    missing: tuple[int, ...] = ()
    accepted_version: int = 0


@dataclass(frozen=True, slots=True)
class BucketDelta:
    """What changed since another bucket of the same number.

    Attributes:
        base_sha256: The digest of that other bucket, in hex.
        added: Ids, in the order of a population.
        removed: Ids, likewise.
    """

    base_sha256: str
    added: SampleIds
    removed: SampleIds


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketIds:
    """The ids of a bucket, on their way to a participant.

    Attributes:
        request_id: Names the call in every log.
        population: Whose bucket.
        version: Of the population.
        bucket: Its number.
        sha256: Its digest, in hex.
        content: All ids, or what changed.
    """

    request_id: str
    population: str
    version: int
    bucket: int
    sha256: str
    content: SampleIds | BucketDelta


def delta_of(base_sha256: str, base: SampleIds, ids: SampleIds) -> BucketDelta:
    """Return what makes `ids` of `base`, both in the order of a population.

    >>> delta = delta_of("00" * 32, SampleIds.of([b"u2", b"u1"]), SampleIds.of([b"u2", b"u3"]))
    >>> list(delta.added), list(delta.removed)
    ([b'u3'], [b'u1'])
    """
    return BucketDelta(base_sha256, ids.select(~are_among(ids, base)), base.select(~are_among(base, ids)))


def applied(base: SampleIds, delta: BucketDelta) -> SampleIds:
    """Return what `delta_of` made the delta of."""
    kept = base.select(~are_among(base, delta.removed))
    return by_place(SampleIds.concat([kept, delta.added]))


def check_bucket_ids(sample_ids: SampleIds, bucket: int, n_buckets: int) -> None:
    """Check that ids are a bucket's: valid ones, in order, each once, none of another bucket, and not too many.

    Raises:
        InputError: They are not; the message holds no id.
    """
    if len(sample_ids) > MAX_BUCKET_ROWS:
        raise InputError(f"{len(sample_ids)} sample ids in a bucket; at most {MAX_BUCKET_ROWS} may be")
    if not all_true(valid_sample_ids(sample_ids)):
        raise InputError("a sample id of the bucket breaks the rules of sample ids")
    if not len(sample_ids):
        return
    places = places_of(sample_ids)
    bits = n_buckets.bit_length() - 1
    first, _ = place_bounds(bucket, n_buckets)
    if not all_true((places ^ np.uint32(first)).astype(np.uint64) >> np.uint64(HASH_BITS - bits) == 0):
        raise InputError("a sample id of the bucket belongs to another bucket")
    if not all_true(places[1:] >= places[:-1]):
        raise InputError("the sample ids of the bucket are not in order")
    for at in np.flatnonzero(places[1:] == places[:-1]).tolist():
        if sample_ids[at] >= sample_ids[at + 1]:
            raise InputError("the sample ids of the bucket are not in order, or one is there twice")

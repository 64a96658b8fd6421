"""The standing populations that initiators named, in this participant's warehouse: taken, and read when asked for.

Everything here blocks, and may be called from any thread. Another process may change the warehouse at any time: another
worker that takes buckets, or the operator who accepts and revokes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fedpredict.errors import InputError, PopulationRefusedError, ProtocolError, TableCorruptError
from fedpredict.model.buckets import MAX_BUCKETS, bucket_count
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.populations import BUCKET_BYTES, PopulationRows, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import (
    WHY_NOT,
    BucketDelta,
    BucketIds,
    PopulationNotice,
    PopulationStanding,
    PopulationState,
    applied,
    check_bucket_ids,
)
from fedpredict.participant.acceptance import log_change, prune
from fedpredict.participant.settings import CallerSettings, PopulationSettings
from fedpredict.tables import populations as tables
from fedpredict.tables.populations import PopulationVersion
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

MAX_VERSIONS = 1000
"""Versions of populations that one initiator may have here."""
MAX_DIGESTS = 8 * MAX_BUCKETS
"""Digests of buckets in all of these: they are read together."""
_CACHED_BUCKETS = 8
_HELD_S = 60.0
"""So long this process goes by what it knows of the buckets that are here: another process may remove some."""
_SETTINGS = "settings"
"""Who accepts where `accept_populations` says so."""

_Key = tuple[str, int]
_Sizes = dict[tuple[str, int, str], int]


@dataclass(slots=True)
class _Known:
    """What an initiator's versions were when the warehouse was last read, by population and number."""

    at: float
    versions: dict[_Key, PopulationVersion]


@dataclass(slots=True)
class _Held:
    """The buckets of an initiator that are here, by population, number and digest, with their sizes.

    Attributes:
        at: When that was read.
        sizes: How many ids each has.
        n_ids: How many all have.
    """

    at: float
    sizes: _Sizes
    n_ids: int


class StandingPopulations:
    """Takes and serves them."""

    def __init__(
        self,
        warehouse: Warehouse,
        settings: PopulationSettings,
        callers: Mapping[str, CallerSettings],
        *,
        poll_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            warehouse: This participant's.
            settings: What is taken.
            callers: Who is listened to.
            poll_s: How long what was read holds, so that a word of the operator counts after it.
            now: In seconds, from any beginning.
        """
        self._warehouse = warehouse
        self._settings = settings
        self._callers = callers
        self._poll_s = poll_s
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._held: dict[str, _Held] = {}
        self._cache: OrderedDict[tuple[str, str, int, str], SampleIds] = OrderedDict()
        self._ensured = False

    def notice(self, owner: str, notice: PopulationNotice) -> PopulationStanding:
        """Take word of a version, or say what became of it.

        Raises:
            PopulationRefusedError: It is not taken.
            WarehouseError: As the warehouse says.
        """
        if notice.digests:
            self._check_taken(owner, notice.population)
        versions = self._read(owner)
        version = versions.get((notice.population, notice.version))
        missing: tuple[int, ...] = ()
        if notice.digests:
            with self._lock:
                self._held.pop(owner, None)
            version = self._told(owner, notice, version, versions)
        if version is not None and version.state is PopulationState.RECEIVING:
            missing = tuple(tables.missing_buckets(self._warehouse, version))
            if notice.digests and not missing:
                version = self._complete(version)
        accepted = [
            each.version
            for each in self._read(owner).values()
            if each.population == notice.population and each.state is PopulationState.ACCEPTED
        ]
        state = None if version is None else version.state
        return PopulationStanding(state=state, missing=missing, accepted_version=max(accepted, default=0))

    def put(self, owner: str, put: BucketIds, check_rows: Callable[[int], object] = lambda _: None) -> None:
        """Take a bucket of a version that is not complete; one that is there already stays as it is.

        Args:
            owner: The initiator.
            put: The bucket.
            check_rows: Raises where so many ids of a bucket are more than its rule allows.

        Raises:
            TooManySamplesError: As `check_rows` says.
            PopulationRefusedError: It is not one of the version's, its ids are not what its digest says, or there is no
                such version that waits for buckets.
            WarehouseError: As the warehouse says.
        """
        self._check_taken(owner, put.population)
        version = self._fresh(owner, put.population, put.version)
        if version is None or not (put.bucket < version.n_buckets and version.digests[put.bucket] == put.sha256):
            raise refusal(put.population, f"bucket {put.bucket} with that digest is none of version {put.version}")
        if version.state is not PopulationState.RECEIVING:
            if version.state is PopulationState.REVOKED:
                raise refusal(put.population, WHY_NOT[version.state])
            return
        held = self._held_buckets(owner)
        if (put.population, put.bucket, put.sha256) in held.sizes:
            return
        ids = self._content(owner, put, held.sizes)
        check_rows(len(ids))
        try:
            check_bucket_ids(ids, put.bucket, version.n_buckets)
        except InputError as error:
            raise refusal(put.population, str(error)) from error
        if digest_of(ids) != put.sha256:
            raise refusal(put.population, f"the ids of bucket {put.bucket} do not have the digest that was told")
        if _n_here(version, held.sizes) + len(ids) > version.n_ids:
            raise refusal(put.population, f"version {put.version} has more ids than the {version.n_ids} that were told")
        self._store(owner, put, ids, held)

    def ids(self, owner: str, rows: PopulationRows, bucket: int, n_buckets: int) -> tuple[SampleIds, str]:
        """Return the ids that some rows of a bucket are, and their digest.

        Raises:
            PopulationRefusedError: The version is not accepted here, or the bucket is another one.
            ProtocolError: The bucket has no such rows.
            WarehouseError: As the warehouse says.
        """
        version = self._accepted(owner, rows.population, rows.version)
        if n_buckets != version.n_buckets or version.digests[bucket] != rows.bucket_sha256:
            raise refusal(rows.population, f"bucket {bucket} of version {rows.version} has another digest here")
        ids = self._cached(owner, rows.population, bucket, rows.bucket_sha256)
        if rows.first + rows.rows > len(ids):
            raise ProtocolError(f"rows {rows.first} to {rows.first + rows.rows} of a bucket of {len(ids)}")
        if rows.rows == len(ids):
            return ids, rows.bucket_sha256
        part = ids.cut(rows.first, rows.first + rows.rows)
        return part, digest_of(part)

    def _check_taken(self, owner: str, population: str) -> None:
        if owner not in self._callers or not self._settings.max_ids:
            raise refusal(population, "no populations are taken here")

    def _told(
        self,
        owner: str,
        notice: PopulationNotice,
        known: PopulationVersion | None,
        versions: dict[_Key, PopulationVersion],
    ) -> PopulationVersion:
        if known is not None and (known.n_ids, known.digests) == (notice.n_ids, notice.digests):
            return known
        if known is not None and known.state is not PopulationState.REVOKED:
            raise refusal(notice.population, f"version {notice.version} was told with other ids before")
        self._check_room(owner, notice, versions)
        now = datetime.now(UTC)
        version = PopulationVersion(
            owner=owner,
            population=notice.population,
            version=notice.version,
            n_ids=notice.n_ids,
            digests=notice.digests,
            state=PopulationState.RECEIVING,
            changed_by=owner,
            changed_at=now,
            created_at=now,
        )
        self._write(version)
        return version

    def _check_room(self, owner: str, notice: PopulationNotice, versions: Mapping[_Key, PopulationVersion]) -> None:
        if not self._ensured:
            tables.ensure_tables(self._warehouse)
            self._ensured = True
        if len(versions) >= MAX_VERSIONS:
            raise refusal(notice.population, f"{len(versions)} versions of populations are kept here: too many")
        most, n_buckets = self._settings.max_ids, len(notice.digests)
        # a population that was large keeps its buckets when it gets smaller
        if n_buckets > max(2 * notice.n_ids, bucket_count(most * MAX_SAMPLE_ID_BYTES, BUCKET_BYTES)):
            raise refusal(notice.population, f"{n_buckets} buckets are too many for {notice.n_ids} ids")
        n_digests = n_buckets + sum(each.n_buckets for each in versions.values())
        if n_digests > MAX_DIGESTS:
            raise refusal(notice.population, f"its versions would have {n_digests} buckets here: too many")
        stored = tables.bucket_sizes(self._warehouse, owner)
        shared = sum(stored.get((notice.population, *bucket), 0) for bucket in enumerate(notice.digests))
        expected = sum(stored.values()) + _n_expected(versions, stored, notice.population)
        if expected - shared + notice.n_ids > most:
            raise refusal(notice.population, f"with its {notice.n_ids} ids more than {most} would be kept here")

    def _complete(self, version: PopulationVersion) -> PopulationVersion:
        """Propose, or accept, a version whose buckets are all here."""
        sizes = tables.bucket_sizes(self._warehouse, version.owner)
        n_ids = sum(sizes[version.population, bucket, digest] for bucket, digest in enumerate(version.digests))
        if n_ids != version.n_ids:
            raise refusal(version.population, f"version {version.version} has {n_ids} ids; {version.n_ids} were told")
        caller = self._callers.get(version.owner)
        accepts = caller is not None and caller.accept_populations
        state = PopulationState.ACCEPTED if accepts else PopulationState.PROPOSED
        changed = replace(
            version, state=state, changed_by=_SETTINGS if accepts else version.owner, changed_at=datetime.now(UTC)
        )
        self._write(changed)
        if accepts:
            prune(self._warehouse, changed, self._settings.keep_versions)
        return changed

    def _write(self, version: PopulationVersion) -> None:
        tables.write_version(self._warehouse, version)
        with self._lock:
            self._known.pop(version.owner, None)
        log_change(version)

    def _store(self, owner: str, put: BucketIds, ids: SampleIds, held: _Held) -> None:
        most = self._settings.max_ids
        with self._lock:
            if held.n_ids + len(ids) > most:
                raise refusal(put.population, f"with bucket {put.bucket} more ids than {most} would be kept here")
            held.n_ids += len(ids)
        try:
            tables.write_bucket(self._warehouse, owner, put.population, put.bucket, ids)
        except BaseException:
            with self._lock:
                held.n_ids -= len(ids)
            raise
        held.sizes[put.population, put.bucket, put.sha256] = len(ids)

    def _content(self, owner: str, put: BucketIds, held: _Sizes) -> SampleIds:
        content = put.content
        if not isinstance(content, BucketDelta):
            return content
        if (put.population, put.bucket, content.base_sha256) not in held:
            raise refusal(put.population, f"the bucket that bucket {put.bucket} was changed from is not here")
        try:
            base = tables.read_bucket(self._warehouse, owner, put.population, put.bucket, content.base_sha256)
        except TableCorruptError as error:
            problem = f"the bucket that bucket {put.bucket} was changed from cannot be read"
            raise refusal(put.population, problem) from error
        return applied(base, content)

    def _held_buckets(self, owner: str) -> _Held:
        """Return the buckets that are here: read once in a while, and then as this process has changed them."""
        at = self._now()
        with self._lock:
            held = self._held.get(owner)
        if held is None or at - held.at > _HELD_S:
            sizes = tables.bucket_sizes(self._warehouse, owner)
            held = _Held(at, sizes, sum(sizes.values()))
            with self._lock:
                self._held[owner] = held
        return held

    def _accepted(self, owner: str, population: str, number: int) -> PopulationVersion:
        version = self._version(owner, population, number, self._poll_s)
        if version is None or version.state is not PopulationState.ACCEPTED:
            version = self._read(owner).get((population, number))  # perhaps it was accepted since
        if version is None:
            raise refusal(population, f"version {number} is not known here")
        if version.state is not PopulationState.ACCEPTED:
            raise refusal(population, f"version {number}: {WHY_NOT[version.state]}")
        return version

    def _fresh(self, owner: str, population: str, number: int) -> PopulationVersion | None:
        version = self._version(owner, population, number, self._poll_s)
        if version is None or version.state is not PopulationState.RECEIVING:
            version = self._read(owner).get((population, number))
        return version

    def _version(self, owner: str, population: str, number: int, most_s: float) -> PopulationVersion | None:
        """Return a version as it was at most so many seconds ago."""
        with self._lock:
            known = self._known.get(owner)
        if known is None or self._now() - known.at > most_s:
            return self._read(owner).get((population, number))
        return known.versions.get((population, number))

    def _read(self, owner: str) -> dict[_Key, PopulationVersion]:
        at = self._now()
        found = tables.list_versions(self._warehouse, owner=owner)
        versions = {(each.population, each.version): each for each in found}
        with self._lock:
            self._known[owner] = _Known(at, versions)
        return versions

    def _cached(self, owner: str, population: str, bucket: int, digest: str) -> SampleIds:
        key = (owner, population, bucket, digest)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        ids = tables.read_bucket(self._warehouse, owner, population, bucket, digest)
        with self._lock:
            self._cache[key] = ids
            while len(self._cache) > _CACHED_BUCKETS:
                self._cache.popitem(last=False)
        return ids


def _n_here(version: PopulationVersion, sizes: _Sizes) -> int:
    """Return how many ids of a version are here."""
    return sum(sizes.get((version.population, *bucket), 0) for bucket in enumerate(version.digests))


def _n_expected(versions: Mapping[_Key, PopulationVersion], sizes: _Sizes, besides: str) -> int:
    """Return how many ids are still to come, of the newest versions: the others are brought no more."""
    newest = {each.population: each for _, each in sorted(versions.items())}
    coming = [each for each in newest.values() if each.state is PopulationState.RECEIVING]
    return sum(each.n_ids - _n_here(each, sizes) for each in coming if each.population != besides)


def refusal(population: str, problem: str) -> PopulationRefusedError:
    """Return the error for what is not taken or not answered; it says nothing that the initiator may not read."""
    return PopulationRefusedError(f"population {population}: {problem}", population=population, problem=problem)

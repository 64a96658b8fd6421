"""Populations of sample ids in a warehouse: at the initiator that names them, and at participants that accept them.

The ids of a bucket are kept by their digest, written once and never changed, so that versions share what they have in
common; a bucket is there when its row in `fp_population_buckets` is, which is written after the ids. A version is the
list of its buckets' digests: its row in `fp_populations` is written again with every change of its state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, Warehouse
from fedpredict.wire.arrow_ids import ids_from_array, ids_to_array, joined

_KEYS = (Column("owner", ColumnType.STRING), Column("population", ColumnType.STRING))
_OF_BUCKET = (*_KEYS, Column("bucket", ColumnType.INT), Column("sha256", ColumnType.STRING))
_DIGEST_DIGITS = 64
_MAX_BYTES = 2**31 - 1

POPULATIONS = TableSchema(
    "fp_populations",
    (
        Column("n_ids", ColumnType.BIGINT),
        Column("digests", ColumnType.STRING),
        Column("state", ColumnType.STRING),
        Column("changed_by", ColumnType.STRING),
        Column("changed_at", ColumnType.TIMESTAMP),
        Column("created_at", ColumnType.TIMESTAMP),
    ),
    (*_KEYS, Column("version", ColumnType.INT)),
)
"""One row per version; `digests` are those of its buckets, in order, in hex, one behind the other."""
POPULATION_BUCKETS = TableSchema("fp_population_buckets", (Column("n_ids", ColumnType.INT),), _OF_BUCKET)
POPULATION_IDS = TableSchema(
    "fp_population_ids",
    (Column("position", ColumnType.INT), Column("sample_id", ColumnType.STRING)),
    _OF_BUCKET,
)
"""One row per id; `position` counts from 0 in the bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationVersion:
    """A version of a population.

    Attributes:
        owner: The initiator that names it.
        population: Its name.
        version: From 1.
        n_ids: In all buckets.
        digests: Of its buckets, in hex, in order; a power of two of them.
        state: What holds of it here.
        changed_by, changed_at: Who made it so, and when.
        created_at: When it was first told of.
    """

    owner: str
    population: str
    version: int
    n_ids: int
    digests: tuple[str, ...]
    state: PopulationState
    changed_by: str
    changed_at: datetime
    created_at: datetime

    @property
    def n_buckets(self) -> int:
        """Into how many buckets its ids are cut."""
        return len(self.digests)


def ensure_tables(warehouse: Warehouse) -> None:
    """Create the tables of this module."""
    for schema in (POPULATIONS, POPULATION_BUCKETS, POPULATION_IDS):
        warehouse.ensure(schema)


def list_versions(
    warehouse: Warehouse, *, owner: str | None = None, population: str | None = None
) -> list[PopulationVersion]:
    """Return versions by owner, population and number; of one owner or population where that is given.

    Raises:
        TableCorruptError: A row that no version gives.
    """
    given = {"owner": owner, "population": population}
    where: Partition = {name: value for name, value in given.items() if value is not None}
    names = [column.name for column in (*POPULATIONS.columns, *POPULATIONS.partitioned_by)]
    versions = [_version(row) for row in warehouse.read(POPULATIONS.name, names, where).to_pylist()]
    return sorted(versions, key=lambda each: (each.owner, each.population, each.version))


def write_version(warehouse: Warehouse, version: PopulationVersion) -> None:
    """Write a version's row, in place of what was there."""
    row = {
        "n_ids": version.n_ids,
        "digests": "".join(version.digests),
        "state": str(version.state),
        "changed_by": version.changed_by,
        "changed_at": version.changed_at,
        "created_at": version.created_at,
    }
    partition: Partition = {**_partition(version), "version": version.version}
    warehouse.replace(POPULATIONS.name, partition, pa.Table.from_pylist([row], schema=POPULATIONS.arrow_schema))


def known_buckets(warehouse: Warehouse, owner: str, population: str) -> set[tuple[int, str]]:
    """Return the buckets that are here, of any version: their numbers and digests."""
    where: Partition = {"owner": owner, "population": population}
    rows = warehouse.read(POPULATION_BUCKETS.name, ["bucket", "sha256"], where).to_pylist()
    return {(int(row["bucket"]), str(row["sha256"])) for row in rows}


def bucket_sizes(warehouse: Warehouse, owner: str) -> dict[tuple[str, int, str], int]:
    """Return how many ids an owner's buckets hold, by population, number and digest."""
    names = ["population", "bucket", "sha256", "n_ids"]
    rows = warehouse.read(POPULATION_BUCKETS.name, names, {"owner": owner}).to_pylist()
    return {(str(row["population"]), int(row["bucket"]), str(row["sha256"])): int(row["n_ids"]) for row in rows}


def missing_buckets(warehouse: Warehouse, version: PopulationVersion) -> list[int]:
    """Return the buckets of a version whose ids are not here, ascending."""
    there = known_buckets(warehouse, version.owner, version.population)
    return [bucket for bucket, digest in enumerate(version.digests) if (bucket, digest) not in there]


def write_bucket(warehouse: Warehouse, owner: str, population: str, bucket: int, sample_ids: SampleIds) -> str:
    """Write the ids of a bucket, which stand in a population's order, and return their digest."""
    digest = digest_of(sample_ids)
    partition: Partition = {"owner": owner, "population": population, "bucket": bucket, "sha256": digest}
    if len(sample_ids):
        positions = pa.array(np.arange(len(sample_ids), dtype=np.int32))
        rows = pa.table([positions, ids_to_array(sample_ids).cast(pa.string())], schema=POPULATION_IDS.arrow_schema)
        warehouse.replace(POPULATION_IDS.name, partition, rows)
    record = pa.Table.from_pylist([{"n_ids": len(sample_ids)}], schema=POPULATION_BUCKETS.arrow_schema)
    warehouse.replace(POPULATION_BUCKETS.name, partition, record)
    return digest


def read_bucket(warehouse: Warehouse, owner: str, population: str, bucket: int, digest: str) -> SampleIds:
    """Return the ids of a bucket, in the population's order.

    Raises:
        TableCorruptError: What is stored does not have that digest, or nothing is.
    """
    partition: Partition = {"owner": owner, "population": population, "bucket": bucket, "sha256": digest}
    rows = warehouse.read(POPULATION_IDS.name, ["position", "sample_id"], partition)
    sample_ids = SampleIds.of(())
    if rows.num_rows:
        if not np.array_equal(rows.column("position").to_numpy(), np.arange(rows.num_rows)):
            rows = rows.sort_by("position")
        sample_ids = ids_from_array(joined(rows.column("sample_id")), _MAX_BYTES)
    if digest_of(sample_ids) != digest:
        raise TableCorruptError(
            f"bucket {bucket} of population {population} of {owner}: {rows.num_rows} ids are stored that do not have"
            f" the digest {digest[:12]}: have it proposed again"
        )
    return sample_ids


def remove_versions(warehouse: Warehouse, versions: Iterable[PopulationVersion]) -> None:
    """Remove versions of populations, and the buckets that no version left has.

    A row goes last, and counts as one of a version that is not complete meanwhile: after a crash it says what is left.
    """
    for gone in versions:
        left = [
            each
            for each in list_versions(warehouse, owner=gone.owner, population=gone.population)
            if each.version != gone.version
        ]
        if gone.state is not PopulationState.RECEIVING:
            write_version(warehouse, replace(gone, state=PopulationState.RECEIVING))
        kept = {(bucket, digest) for each in left for bucket, digest in enumerate(each.digests)}
        remove_buckets(warehouse, gone.owner, gone.population, set(enumerate(gone.digests)) - kept)
        partition: Partition = {**_partition(gone), "version": gone.version}
        warehouse.replace(POPULATIONS.name, partition, POPULATIONS.arrow_schema.empty_table())


def remove_buckets(warehouse: Warehouse, owner: str, population: str, buckets: Iterable[tuple[int, str]]) -> None:
    """Remove buckets, by number and digest, that no version has."""
    for bucket, digest in buckets:
        partition: Partition = {"owner": owner, "population": population, "bucket": bucket, "sha256": digest}
        warehouse.replace(POPULATION_BUCKETS.name, partition, POPULATION_BUCKETS.arrow_schema.empty_table())
        warehouse.replace(POPULATION_IDS.name, partition, POPULATION_IDS.arrow_schema.empty_table())


def _partition(version: PopulationVersion) -> Partition:
    return {"owner": version.owner, "population": version.population}


def _version(row: dict[str, object]) -> PopulationVersion:
    try:
        return PopulationVersion(
            owner=str(row["owner"]),
            population=str(row["population"]),
            version=int(str(row["version"])),
            n_ids=int(str(row["n_ids"])),
            digests=_digests(str(row["digests"])),
            state=PopulationState(str(row["state"])),
            changed_by=str(row["changed_by"]),
            changed_at=_instant(row["changed_at"]),
            created_at=_instant(row["created_at"]),
        )
    except ValueError as error:
        raise TableCorruptError(f"{POPULATIONS.name}: {row['owner']}/{row['population']}: {error}") from error


def _digests(text: str) -> tuple[str, ...]:
    count = len(text) // _DIGEST_DIGITS
    if not count or len(text) != count * _DIGEST_DIGITS or count & (count - 1):
        raise ValueError(f"digests of {len(text)} characters")
    return tuple(text[at * _DIGEST_DIGITS : (at + 1) * _DIGEST_DIGITS] for at in range(count))


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no instant")  # noqa: TRY004  a damaged row, not a wrong argument
    return value

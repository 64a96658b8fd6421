"""What a participant answered to offline tasks: a record per call for a bucket, written some at a time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.warehouse.base import Column, ColumnType, TableSchema, Warehouse

ANSWERED = TableSchema(
    "fp_answered_buckets",
    (
        Column("caller", ColumnType.STRING),
        Column("task_id", ColumnType.STRING),
        Column("model_id", ColumnType.STRING),
        Column("manifest_sha256", ColumnType.STRING),
        Column("bucket", ColumnType.INT),
        Column("n_buckets", ColumnType.INT),
        Column("n_rows", ColumnType.INT),
        Column("n_scored", ColumnType.INT),
        Column("ids_sha256", ColumnType.STRING),
        Column("share_sha256", ColumnType.STRING),
        Column("elapsed_s", ColumnType.DOUBLE),
        Column("answered_at", ColumnType.TIMESTAMP),
    ),
    (Column("dt", ColumnType.STRING), Column("part", ColumnType.STRING)),
)
"""One row per answer; `part` names what was written together on a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredBucket:
    """An answer to a call for a bucket, or for some of its rows.

    Attributes:
        caller: The initiator that asked.
        task_id: Its task.
        model_id: The model.
        manifest_sha256: Of the version.
        bucket: Its number.
        n_buckets: Of so many.
        n_rows: How many samples were asked for.
        n_scored: How many have a share.
        ids_sha256: The digest of their ids, in hex.
        share_sha256: SHA-256 over the statuses (a byte each) and the shares (float64 little-endian, row by row).
        elapsed_s: Seconds that it took.
        answered_at: When.
    """

    caller: str
    task_id: str
    model_id: str
    manifest_sha256: str
    bucket: int
    n_buckets: int
    n_rows: int
    n_scored: int
    ids_sha256: str
    share_sha256: str
    elapsed_s: float
    answered_at: datetime


def write_answered(warehouse: Warehouse, records: Sequence[AnsweredBucket]) -> None:
    """Write records, beside those that are there; whole or not at all.

    Raises:
        WarehouseError: As the warehouse says.
    """
    names = [column.name for column in ANSWERED.columns]
    rows = [{name: getattr(record, name) for name in names} for record in records]
    partition = {"dt": datetime.now(UTC).date().isoformat(), "part": secrets.token_hex(8)}
    warehouse.ensure(ANSWERED)
    warehouse.replace(ANSWERED.name, partition, pa.Table.from_pylist(rows, schema=ANSWERED.arrow_schema))


def list_answered(warehouse: Warehouse, day: date | None = None) -> list[AnsweredBucket]:
    """Return the records, or those written on a day, oldest first.

    Raises:
        TableCorruptError: A row that no record gives.
        WarehouseError: As the warehouse says.
    """
    names = [column.name for column in ANSWERED.columns]
    rows = warehouse.read(ANSWERED.name, names, {} if day is None else {"dt": day.isoformat()}).to_pylist()
    if any(value is None for row in rows for value in row.values()):
        raise TableCorruptError(f"{ANSWERED.name}: a row with an empty column")
    return sorted((AnsweredBucket(**row) for row in rows), key=lambda each: each.answered_at)


def remove_answered(warehouse: Warehouse, before: date) -> int:
    """Remove the records written before a day, and return in how many parts they were."""
    rows = warehouse.read(ANSWERED.name, ["dt", "part"], {}).to_pylist()
    old = sorted({(row["dt"], row["part"]) for row in rows if row["dt"] < before.isoformat()})
    for dt, part in old:
        warehouse.replace(ANSWERED.name, {"dt": dt, "part": part}, ANSWERED.arrow_schema.empty_table())
    return len(old)

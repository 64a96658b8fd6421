"""Rows to measure with, made in pieces: ids in the order of their places, and features that can be checked.

A feature's value follows from the id's number, the seed of the party and the place of the feature alone, so that a
truth for any id is computed without what was stored. Memory is that of one piece, whatever the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.buckets import REVERSED_DIGITS
from fedpredict.tables.names import PLACE
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, write_pointer
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local_files import TableFolder

PIECE_ROWS = 983_040
GROUP_ROWS = 122_880
"""Eight groups of rows a piece; a group as the embedded warehouse writes them."""
SORT_MEMORY = "2GB"
INSTANT = 1_767_225_600_000_000
"""Event time of all rows: 2026-01-01, in microseconds."""
DIGITS = 11

Numbers = NDArray[np.int64]


def write_order(path: Path, n_rows: int) -> None:
    """Write the numbers 0 to n_rows - 1 in the order of their ids' places, with the places: sorted out of memory."""
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{SORT_MEMORY}'")
        connection.execute(f"SET temp_directory = '{path.parent / 'sorting'}'")
        connection.execute("SET enable_progress_bar = false")
        first = f"substr(md5('u' || lpad(range::VARCHAR, {DIGITS}, '0')), 1, 8)"
        place = f"translate(reverse({first}), '0123456789abcdef', '{REVERSED_DIGITS}')"
        connection.execute(
            f"COPY (SELECT range AS number, {place} AS {PLACE} FROM range({n_rows}) ORDER BY {PLACE}, number) "  # noqa: S608
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )


def write_ids(path: Path, n_rows: int) -> None:
    """Write a file of the ids, in the order of their numbers, which is none of their places."""
    schema = pa.schema([("sample_id", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for first in range(0, n_rows, PIECE_ROWS):
            numbers = np.arange(first, min(n_rows, first + PIECE_ROWS))
            writer.write_table(pa.table({"sample_id": ids_of(numbers)}, schema=schema))


def view_of(names: Sequence[str]) -> FeatureView:
    """Return a view of so many numbers."""
    features = tuple(ViewFeature(each, each, ColumnType.DOUBLE) for each in names)
    return FeatureView("people", 1, features, "id", None)


def pieces(order: Path, seed: int, names: Sequence[str]) -> Iterator[pa.Table]:
    """Give the rows of a snapshot in the order that `write_order` wrote: sample_id, event_time, features, places."""
    with pq.ParquetFile(order) as file:
        # of many features fewer rows, so that a piece stays below 100 MB
        rows = min(PIECE_ROWS, GROUP_ROWS * max(1, 80 // max(1, len(names))))
        for batch in file.iter_batches(rows, columns=["number", PLACE]):
            numbers = batch.column("number").to_numpy()
            instants = pa.array(np.full(len(numbers), INSTANT), pa.timestamp("us", tz="UTC"))
            columns = {"sample_id": ids_of(numbers), "event_time": instants, PLACE: batch.column(PLACE)}
            yield pa.table(columns | {name: values_of(numbers, seed, at) for at, name in enumerate(names)})


def publish(root: Path, order: Path, seed: int, snapshot: Snapshot) -> None:
    """Write a snapshot into an embedded warehouse, piece by piece, in its own layout.

    Args:
        root: The warehouse's folder.
        order: What `write_order` wrote.
        seed: Of the party.
        snapshot: With as many rows and ids, and with places.
    """
    from fedpredict.tables.schemas import VIEWS  # noqa: PLC0415
    from fedpredict.warehouse.local import LocalWarehouse  # noqa: PLC0415

    warehouse = LocalWarehouse(root)
    schema = snapshot.view.schema
    warehouse.ensure(VIEWS)
    warehouse.ensure(schema)
    names = [feature.column for feature in snapshot.view.features]

    def fill(file: BinaryIO) -> int:
        return write_pieces(pieces(order, seed, names), schema.arrow_schema, file)

    folder = TableFolder(root.absolute(), schema.name)
    with folder.locked():
        n_rows = folder.write_partition(schema, snapshot.partition, fill)
    if n_rows != snapshot.n_rows:
        raise SystemExit(f"{n_rows} rows were written instead of {snapshot.n_rows}")
    write_pointer(warehouse, snapshot)


def write_pieces(rows: Iterator[pa.Table], schema: pa.Schema, file: BinaryIO | Path) -> int:
    """Write pieces as one Parquet file, as the embedded warehouse would, and return the number of rows."""
    n_rows = 0
    coded = [name for name in schema.names if name != "sample_id"]
    options = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": coded}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for piece in rows:
            writer.write_table(piece.select(schema.names).cast(schema), row_group_size=GROUP_ROWS)
            n_rows += piece.num_rows
    return n_rows


def ids_of(numbers: Numbers) -> pa.Array:
    """Return the ids of numbers: `u` and eleven digits."""
    text = np.empty((len(numbers), DIGITS + 1), np.uint8)
    text[:, 0] = ord("u")
    left = numbers.astype(np.uint64)
    for at in range(DIGITS, 0, -1):
        left, digit = np.divmod(left, np.uint64(10))
        text[:, at] = digit.astype(np.uint8) + ord("0")
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * (DIGITS + 1)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text.reshape(-1)))


def values_of(numbers: Numbers, seed: int, feature: int) -> Floats:
    """Return a feature of ids: about normal (100, 30), of 0 to 3 digits behind the point, as features are.

    The four quarters of one mixed word (splitmix64) are added up: cheap, and near enough to a bell.
    """
    word = numbers.astype(np.uint64) + np.uint64((seed * 1_000 + feature + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    total = word.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
    spread = 65_536 / np.sqrt(3)
    return np.asarray(np.round(100.0 + 30.0 * (total - 2 * 65_535) / spread, feature % 4))

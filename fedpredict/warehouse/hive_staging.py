"""Where bulk rows wait as Parquet, in a place that this process writes and the server reads."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from fedpredict.errors import WarehouseWriteError

logger = logging.getLogger(__name__)


class Staging:
    """A location for rows on their way; everything in it is removed again by who put it there."""

    def __init__(self, location: str) -> None:
        """Take `location`: a URI that pyarrow knows, or an absolute path."""
        self._location = location.rstrip("/") if "://" in location else f"file://{location.rstrip('/')}"

    @contextlib.contextmanager
    def parked(self, name: str, rows: pa.Table) -> Iterator[str]:
        """Write `rows` to a new folder `name` and give its URI; remove the folder afterwards.

        Raises:
            WarehouseWriteError: The location cannot be written.
        """
        uri = f"{self._location}/{name}"
        try:
            filesystem, folder = fs.FileSystem.from_uri(uri)
            filesystem.create_dir(folder)
            pq.write_table(_without_zone(rows), f"{folder}/rows.parquet", filesystem=filesystem, store_schema=False)
        except (OSError, pa.ArrowException) as error:
            raise WarehouseWriteError(f"warehouse.staging {self._location} cannot be written: {error}") from error
        try:
            yield uri
        finally:
            try:
                filesystem.delete_dir(folder)
            except OSError:
                # the rows are where they belong, or the caller raises: what stays here only takes room
                logger.warning("hive.staging_left", extra={"location": uri}, exc_info=True)


def _without_zone(rows: pa.Table) -> pa.Table:
    """Return the rows with UTC timestamps as plain ones: of others, Hive makes its own zone's time."""
    for at, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(at, field.name, rows.column(at).cast(pa.timestamp("us")))
    return rows

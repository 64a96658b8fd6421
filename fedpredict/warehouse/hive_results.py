"""Columns as HiveServer2 sends them -> Arrow."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.warehouse.base import ARROW_TYPES, ColumnType

ARROW_OF_HIVE: dict[str, pa.DataType] = {
    "BOOLEAN_TYPE": pa.bool_(),
    "TINYINT_TYPE": pa.int32(),
    "SMALLINT_TYPE": pa.int32(),
    "INT_TYPE": pa.int32(),
    "BIGINT_TYPE": pa.int64(),
    "FLOAT_TYPE": pa.float64(),
    "DOUBLE_TYPE": pa.float64(),
    "TIMESTAMP_TYPE": ARROW_TYPES[ColumnType.TIMESTAMP],
    "ARRAY_TYPE": ARROW_TYPES[ColumnType.DOUBLES],
}
"""Thrift's type name -> Arrow; every other type comes as text. Of lists there are those of numbers only."""

_FRACTION = re.compile(r"(\.\d{6})\d+$")


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of a result: its name without the table's, and its type on the wire."""

    name: str
    hive_type: str

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the column's values."""
        return ARROW_OF_HIVE.get(self.hive_type, pa.string())


def arrow_column(column: ResultColumn, values: Sequence[object], nulls: bytes) -> pa.Array:
    """Return one column of one batch.

    Args:
        column: What the values are.
        values: As Thrift decoded them; where a value is NULL there is a placeholder.
        nulls: One bit per value, lowest first, set for NULL; missing bits at the end are zero.

    Raises:
        pa.ArrowInvalid: A timestamp that is not one between the years 1 and 9999.
    """
    is_null = _bits(nulls, len(values))
    if column.arrow_type == ARROW_TYPES[ColumnType.DOUBLES]:  # JSON, but for NaN and the infinities
        lists = [None if gone else json.loads(str(value)) for value, gone in zip(values, is_null, strict=True)]
        return pa.array(lists, column.arrow_type)
    if column.arrow_type != ARROW_TYPES[ColumnType.TIMESTAMP]:
        return pa.array(values, type=column.arrow_type, mask=is_null)
    # microseconds are what the contract has; Hive shows nine digits where a row has nanoseconds
    texts = pa.array([_FRACTION.sub(r"\1", str(value)) for value in values], type=pa.string(), mask=is_null)
    return pc.assume_timezone(texts.cast(pa.timestamp("us")), "UTC")


def _bits(nulls: bytes, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    flags = np.zeros(count, dtype=np.bool_)
    given = np.unpackbits(np.frombuffer(nulls, dtype=np.uint8), bitorder="little")[:count]
    flags[: len(given)] = given
    return flags


def arrow_table(columns: Sequence[ResultColumn], batches: Sequence[Sequence[pa.Array]]) -> pa.Table:
    """Return the batches of a result as one table."""
    chunks = [
        pa.chunked_array([batch[at] for batch in batches], type=column.arrow_type) for at, column in enumerate(columns)
    ]
    return pa.Table.from_arrays(chunks, names=[column.name for column in columns])

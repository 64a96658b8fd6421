"""The contract of a source of raw rows: the events of the people who are asked for, in their declared types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.script import declared_column, raw_table
from fedpredict.tables.script_types import ScriptType
from fedpredict.tables.script_view import ScriptSource
from fedpredict.warehouse.base import Value, Warehouse

_PLAIN: dict[str, pa.DataType] = {
    "text": pa.string(),
    "int": pa.int64(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "boolean": pa.bool_(),
}


class RawSource(Protocol):
    """The raw rows of one event table, by sample id. Calls may come from any thread; each blocks until it is done."""

    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids, in any order.

        Args:
            sample_ids: Different ones, at least one.
            before: In microseconds since 1970 UTC; only earlier events are returned, and none without a time.

        Returns:
            Every declared column, in the type of `arrow_type`. What cannot be read in it is NULL, and so is a double
            that is not finite.

        Raises:
            FedPredictError: The source cannot be read now.
        """

    def close(self) -> None:
        """Release connections; closing twice is harmless."""


@runtime_checkable
class CheckedSource(Protocol):
    """A source that can say whether what is there can be read."""

    def check(self) -> tuple[str, str]:
        """Return what is there, in the operator's words, and a warning or an empty text.

        Raises:
            FedPredictError: It cannot be used as it is.
        """


def arrow_type(kind: ScriptType) -> pa.DataType:
    """Return how raw values of a type are held."""
    return pa.decimal128(kind.digits, kind.scale) if kind.kind == "decimal" else _PLAIN[kind.kind]


def arrow_schema(source: ScriptSource) -> pa.Schema:
    """Return the columns of a source's rows."""
    return pa.schema([(name, arrow_type(kind)) for name, kind in source.types.items()])


def read_typed(
    warehouse: Warehouse,
    source: ScriptSource,
    where: Sequence[exp.Expr] = (),
    params: Mapping[str, Value] | None = None,
) -> pa.Table:
    """Return rows of a raw table in the warehouse, in their declared types.

    Decimals and dates pass as text, which all engines write alike and not all of them send otherwise.

    Args:
        warehouse: Whose engine reads them.
        source: The table.
        where: Conditions on its columns.
        params: What to bind for their placeholders.
    """
    query = exp.Select(expressions=typed_columns(source)).from_(raw_table(source), copy=False).where(*where, copy=False)
    return as_declared(warehouse.run(query, params or {}), source)


def typed_columns(source: ScriptSource) -> list[exp.Expr]:
    """Return the declared columns as a query gives them, in any engine; decimals and dates as text."""
    columns = []
    for name, kind in source.types.items():
        value = declared_column(name, kind)
        if kind.kind in ("decimal", "date"):
            value = exp.Cast(this=value, to=exp.DataType.build("TEXT"))
        columns.append(sql.named(value, name))
    return columns


def as_declared(rows: pa.Table, source: ScriptSource) -> pa.Table:
    """Return rows as the types say, from rows whose decimals and dates may be text."""
    columns = [_cast(rows.column(name), arrow_type(kind)) for name, kind in source.types.items()]
    return pa.table(columns, schema=arrow_schema(source))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return pc.cast(column, kind)

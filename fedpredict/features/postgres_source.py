"""Raw rows out of a table in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from threading import BoundedSemaphore

import msgspec
import pyarrow as pa
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import StateError
from fedpredict.features.raw import (
    CheckedSource,
    RawSource,
    arrow_schema,
    arrow_type,
    as_declared,
    typed_columns,
)
from fedpredict.features.realtime import QueryEngine
from fedpredict.model.ids import whole_number
from fedpredict.state.outside import OutsideTable
from fedpredict.tables.script_types import ScriptType
from fedpredict.tables.script_view import ScriptSource

MOST_AT_ONCE = 8
"""Questions to one table at the same time: half of the threads, so that one server that hangs leaves some to others."""
WAIT_S = 0.5
"""How long one more waits."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS = "fp_rows"
_SAME: dict[str, type] = {
    "text": str,
    "int": int,
    "decimal": Decimal,
    "double": float,
    "timestamp": datetime,
    "date": date,
    "boolean": bool,
}
"""Declared types -> what the driver gives for columns that are of them."""
_KNOWN = frozenset(_SAME.values())


class PostgresSource(RawSource, CheckedSource):
    """An event table in PostgreSQL, with an index on its key."""

    def __init__(self, table: OutsideTable, source: ScriptSource, key: str, engine: QueryEngine) -> None:
        """Read nothing yet.

        Args:
            table: The table; closed by this.
            source: Its declaration.
            key: The column that is the sample id.
            engine: Casts what is of other types than the declared ones, as a refresh does; its owner closes it.
        """
        self._engine = engine
        self._turns = BoundedSemaphore(MOST_AT_ONCE)
        self._query = exp.Select(expressions=typed_columns(source)).from_(_ROWS, copy=False).sql("duckdb")
        self._table = table
        self._source = source
        self._key = key

    @override
    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids."""
        types = self._source.types
        keys: Sequence[str | int] = sample_ids
        if types[self._key].kind == "int":
            numbers = map(whole_number, sample_ids)
            keys = [each for each in numbers if each is not None]
        rows: Sequence[Sequence[object]] = ()
        if keys:
            rows = self._rows(keys, _EPOCH + timedelta(microseconds=before))
        columns = [[row[at] for row in rows] for at in range(len(types))]
        arrays = [_of_one_type(values, kind) for values, kind in zip(columns, types.values(), strict=True)]
        if all(array.type == arrow_type(kind) for array, kind in zip(arrays, types.values(), strict=True)):
            return pa.table(arrays, schema=arrow_schema(self._source))
        given = pa.table(arrays, names=list(types))
        return as_declared(self._engine.query(self._query, {}, {_ROWS: given}), self._source)

    def _rows(self, keys: Sequence[str | int], before: datetime) -> Sequence[Sequence[object]]:
        if not self._turns.acquire(timeout=WAIT_S):
            raise StateError(f"the raw table {self._source.table} has {MOST_AT_ONCE} questions to answer already")
        try:
            time = str(self._source.event_time)
            return self._table.rows(list(self._source.types), key=self._key, keys=keys, time=time, before=before)
        finally:
            self._turns.release()

    @override
    def check(self) -> tuple[str, str]:
        """Look at the table's columns and indexes."""
        return self._table.check(list(self._source.types), key=self._key, time=str(self._source.event_time))

    @override
    def close(self) -> None:
        """Release connections."""
        self._table.close()


def _of_one_type(values: Sequence[object], kind: ScriptType) -> pa.Array:
    """Return a column in its declared type if its values are of that, or else as the table has it."""
    same = _SAME[kind.kind]
    given: list[object] = [_told(each) for each in values]
    try:
        if all(each is None or (type(each) is same and not _is_odd(each)) for each in given):
            return pa.array(given, arrow_type(kind))
        found = pa.array(given)
    except pa.ArrowInvalid:  # a decimal of more digits than Arrow has, or than the declared type
        found = None
    if found is None or (pa.types.is_decimal(found.type) and kind.kind in ("text", "decimal")):
        return pa.array([None if each is None else _text(each) for each in given], pa.string())
    return found


def _told(value: object) -> object:
    """Return a value of a type that Arrow and the engine have in common."""
    if value is None or (isinstance(value, Decimal) and not value.is_finite()):
        return None
    return value if type(value) in _KNOWN else _text(value)


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)

"""Raw rows out of a table in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from typing_extensions import override

from fedpredict.features.event_source import declared_array
from fedpredict.features.raw import RawSource, arrow_schema
from fedpredict.state.outside import OutsideTable
from fedpredict.tables.script_view import ScriptSource

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PostgresSource(RawSource):
    """An event table in PostgreSQL, with an index on its key."""

    def __init__(self, table: OutsideTable, source: ScriptSource, key: str) -> None:
        """Read nothing yet.

        Args:
            table: The table; closed by this.
            source: Its declaration.
            key: The column that is the sample id.
        """
        self._table = table
        self._source = source
        self._key = key

    @override
    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids."""
        types = self._source.types
        keys: Sequence[str | int] = sample_ids
        if types[self._key].kind == "int":
            keys = [int(each) for each in sample_ids if each.lstrip("-").isdecimal() and str(int(each)) == each]
        rows: Sequence[Sequence[object]] = ()
        if keys:
            rows = self._table.rows(
                list(types),
                key=self._key,
                keys=keys,
                time=str(self._source.event_time),
                before=_EPOCH + timedelta(microseconds=before),
            )
        columns = [declared_array([row[at] for row in rows], kind) for at, kind in enumerate(types.values())]
        return pa.table(columns, schema=arrow_schema(self._source))

    @override
    def close(self) -> None:
        """Release connections."""
        self._table.close()

"""Raw rows out of a table of the party's own warehouse: what its engine finds by sample id, however long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from sqlglot import exp
from typing_extensions import override

from fedpredict.features.raw import RawSource, arrow_schema, read_typed
from fedpredict.tables.script import declared_column
from fedpredict.tables.script_types import TEXT, TIMESTAMP
from fedpredict.tables.script_view import ScriptSource
from fedpredict.warehouse.base import Value, Warehouse

MOST_IDS = 1_000
"""Sample ids of one statement."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WarehouseSource(RawSource):
    """An event table of a warehouse. The warehouse is its owner's: closing this closes nothing."""

    def __init__(self, warehouse: Warehouse, source: ScriptSource, key: str) -> None:
        """Read nothing yet.

        Args:
            warehouse: Where the table is.
            source: Its declaration.
            key: The column that is the sample id.
        """
        self._warehouse = warehouse
        self._source = source
        self._key = key

    @override
    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids."""
        parts = [
            self._some(sample_ids[start : start + MOST_IDS], before) for start in range(0, len(sample_ids), MOST_IDS)
        ]
        return pa.concat_tables([arrow_schema(self._source).empty_table(), *parts])

    @override
    def close(self) -> None:
        """Do nothing."""

    def _some(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        instant = (_EPOCH + timedelta(microseconds=before)).replace(tzinfo=None)
        params: dict[str, Value] = {f"id_{at}": each for at, each in enumerate(sample_ids)}
        types, time = self._source.types, str(self._source.event_time)
        key = exp.Cast(this=declared_column(self._key, types[self._key]), to=TEXT.sql)
        chosen = exp.In(
            this=key, expressions=[exp.Cast(this=exp.Placeholder(this=name), to=TEXT.sql) for name in params]
        )
        moment = exp.Cast(this=exp.Placeholder(this="before"), to=TIMESTAMP.sql)
        is_earlier = exp.LT(this=declared_column(time, types[time]), expression=moment)
        params["before"] = instant.isoformat(" ", "microseconds")
        return read_typed(self._warehouse, self._source, [chosen, is_earlier], params)

"""Raw rows out of the event store: JSON back into columns of declared types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa
from typing_extensions import override

from fedpredict.features.event_feed import Feed, OddEventError, stored_value
from fedpredict.features.raw import RawSource, arrow_schema, arrow_type
from fedpredict.state.event_base import EventStore
from fedpredict.tables.script_types import ScriptType


class EventSource(RawSource):
    """The events of one feed. The store is its owner's: closing this closes nothing."""

    def __init__(self, store: EventStore, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self._schema = arrow_schema(feed.source)
        # a row of thousands: without a dictionary, and nothing for the garbage collector to walk
        names = [(f"c{at}", name) for at, name in enumerate(feed.source.types)]
        row = msgspec.defstruct("Row", [(own, Any, None) for own, _ in names], rename=dict(names), gc=False)
        self._decode = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
        self._getters = [attrgetter(own) for own, _ in names]

    @override
    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids."""
        contents = self._store.contents(self._feed.name, sample_ids, before)
        rows = self._decode(f"[{','.join(contents)}]")
        kinds = self._feed.source.types.values()
        columns = [stored_column([*map(get, rows)], kind) for get, kind in zip(self._getters, kinds, strict=True)]
        return pa.table(columns, schema=self._schema)

    @override
    def close(self) -> None:
        """Do nothing."""


def stored_column(values: list[Any], kind: ScriptType) -> pa.Array:
    """Return values in the form of `stored_value` as a column of a declared type; NULL where one is of another."""
    wanted = arrow_type(kind)
    try:
        return pa.array(values, pa.string()).cast(wanted) if kind.kind in _PARSED else pa.array(values, wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # stored when a version of the view declared another type
        return declared_array(values, kind)


_PARSED: dict[str, Callable[[Any], Any]] = {
    "decimal": Decimal,
    "timestamp": datetime.fromisoformat,
    "date": date.fromisoformat,
}


def declared_array(values: Sequence[Any], kind: ScriptType) -> pa.Array:
    """Return values of any kind as a column of a declared type; NULL where one cannot be read in it."""
    read, wanted = [_declared(value, kind) for value in values], arrow_type(kind)
    try:
        return pa.array(read, wanted)
    except pa.ArrowInvalid:  # one value must not keep everybody else's from being read
        return pa.array([each if _fits(each, wanted) else None for each in read], wanted)


def _fits(value: Any, wanted: pa.DataType) -> bool:
    try:
        pa.array([value], wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _declared(value: Any, kind: ScriptType) -> Any:
    if value is None:
        return None
    try:
        plain = stored_value("", value, kind)
    except OddEventError:
        return None
    return _PARSED[kind.kind](plain) if kind.kind in _PARSED else plain

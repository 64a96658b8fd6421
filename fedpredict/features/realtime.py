"""A registered view computed for the people who are asked for, at the instant of the question, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import pyarrow as pa
from sqlglot import exp

from fedpredict.errors import ModelNotReadyError
from fedpredict.features.array_script import ArrayRows, ArrayScript, array_script
from fedpredict.features.array_values import Values
from fedpredict.features.raw import RawSource
from fedpredict.model.arrays import Bools, Floats
from fedpredict.tables.script import Script, compile_script, raw_table
from fedpredict.tables.script_shape import Shape, parse_shape
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptSource
from fedpredict.tables.views import FeatureView
from fedpredict.warehouse.base import ColumnType, Value

ARRAY_ROWS = 20_000
"""Up to so many events numpy computes a view faster than DuckDB plans it and runs; see docs/benchmarks.md."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class QueryEngine(Protocol):
    """Runs queries over rows in memory; calls may come from any thread."""

    def query(self, sql: str, params: Mapping[str, Value], tables: Mapping[str, pa.Table]) -> pa.Table:
        """Return the rows of a query in DuckDB's dialect; raise `StatementError` where it is refused."""

    def close(self) -> None:
        """Let go of its memory."""


@dataclass(slots=True, eq=False)
class Extracted:
    """A view's features of some people.

    Attributes:
        places: Sample id -> row; who has no row has no event that counts.
        numbers: Column -> shape (n_rows,); NaN where NULL, infinite where out of its range.
        texts: Column -> texts; None where NULL.
        refused: Column of texts -> shape (n_rows,): whether the view does not allow the text.
    """

    places: dict[str, int]
    numbers: dict[str, Floats] = field(default_factory=dict)
    texts: dict[str, Sequence[str | None]] = field(default_factory=dict)
    refused: dict[str, Bools] = field(default_factory=dict)


class RealtimeView:
    """One version of a registered view over one source of raw rows."""

    def __init__(self, registered: RegisteredView, source: RawSource, engine: QueryEngine) -> None:
        """Compile it; nothing is read.

        Args:
            registered: The version.
            source: Its events.
            engine: For what numpy does not compute.

        Raises:
            ViewRefusedError: The script cannot be compiled for DuckDB.
        """
        self.view: FeatureView = registered.view.feature_view(registered.version)
        self._source = source
        self._engine = engine
        self._shape: Shape = parse_shape(registered.view, registered.script)
        self._script: Script = compile_script(registered.view, registered.script, "duckdb")
        self._arrays: ArrayScript | None = array_script(self._shape, self._script)
        self._sql = _over_aliases(self._script.query, self._shape)
        features = registered.view.features
        self._allowed = {each.column: frozenset(features[each.name].texts) for each in self.view.features}
        self._tables: Mapping[str, pa.Table] | None = None
        self._rows: Mapping[str, ArrayRows] = {}
        self.array_rows = ARRAY_ROWS
        """Up to so many events are computed by numpy."""

    @property
    def dimensions(self) -> dict[str, ScriptSource]:
        """Alias -> the tables that events are joined with."""
        return {join.alias: self._shape.sources[join.alias] for join in self._shape.joins}

    @property
    def is_in_arrays(self) -> bool:
        """Whether numpy computes few rows, and not the engine."""
        return self._arrays is not None

    def put_dimensions(self, tables: Mapping[str, pa.Table]) -> None:
        """Use these rows of the dimensions from now on; alias -> rows in declared types."""
        arrays = self._arrays
        self._rows = {} if arrays is None else {alias: arrays.dimension(alias, rows) for alias, rows in tables.items()}
        self._tables = dict(tables)

    def extract(self, sample_ids: Sequence[str], as_of: int) -> Extracted:
        """Return the features of different ids as of an instant, in microseconds since 1970 UTC.

        Raises:
            ModelNotReadyError: The dimensions have not been read.
            FedPredictError: The source cannot be read now.
        """
        if self._tables is None and self._shape.joins:
            raise ModelNotReadyError(f"view {self.view.name}: its dimension tables have not been read yet")
        if not sample_ids:
            return Extracted({})
        return self.compute(self._source.fetch(sample_ids, as_of), as_of)

    def compute(self, events: pa.Table, as_of: int) -> Extracted:
        """Return the features that events give, with the dimensions that were put last."""
        if self._arrays is not None and events.num_rows <= self.array_rows:
            names, columns = self._arrays.run(events, self._rows, as_of)
            return self._of_arrays(names, {name: values for (_, name), values in columns.items()})
        return self._of_table(self._run(events, as_of))

    def _run(self, events: pa.Table, as_of: int) -> pa.Table:
        tables = {_name(next(iter(self._shape.sources))): events}
        tables |= {_name(alias): rows for alias, rows in (self._tables or {}).items()}
        return self._engine.query(self._sql, self._script.params(_EPOCH + timedelta(microseconds=as_of)), tables)

    def _of_arrays(self, names: list[str], columns: Mapping[str, Values]) -> Extracted:
        made = Extracted({name: place for place, name in enumerate(names)})
        for feature in self.view.features:
            if not names:
                break
            values = columns[feature.column]
            if feature.type is ColumnType.DOUBLE:
                made.numbers[feature.column] = np.where(values.valid, values.data, np.nan).astype(np.float64)
            else:
                self._put_texts(
                    made,
                    feature.column,
                    [each if there else None for each, there in zip(values.data, values.valid, strict=True)],
                )
        return made

    def _of_table(self, rows: pa.Table) -> Extracted:
        made = Extracted({name: place for place, name in enumerate(rows.column("sample_id").to_pylist())})
        for feature in self.view.features:
            column = rows.column(feature.column)
            if feature.type is ColumnType.DOUBLE:
                made.numbers[feature.column] = np.asarray(column.to_numpy(), dtype=np.float64)
            else:
                self._put_texts(made, feature.column, column.to_pylist())
        return made

    def _put_texts(self, made: Extracted, column: str, texts: list[str | None]) -> None:
        made.texts[column] = texts
        allowed = self._allowed[column]
        if allowed:
            made.refused[column] = np.array(
                [each is not None and each not in allowed for each in texts], dtype=np.bool_
            )


def _name(alias: str) -> str:
    return f"fp_raw_{alias}"


def _over_aliases(query: exp.Select, shape: Shape) -> str:
    """Return a query's text for DuckDB, each raw table under the name of its alias."""
    names = {raw_table(source): _name(alias) for alias, source in shape.sources.items()}

    def put(node: exp.Expr) -> exp.Expr:
        return exp.table_(names[node], quoted=True) if isinstance(node, exp.Table) else node

    return query.transform(put).sql(dialect="duckdb", identify=True)

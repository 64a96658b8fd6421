"""A view's compiled query over a few rows in numpy: what DuckDB would plan for longer than it would run (ADR 0032).

It reads the same tree that DuckDB gets, in which every step's type is written as a cast, and gives the same. What it
does not know makes `array_script` return None, and DuckDB runs the query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from fedpredict.features.array_casts import Plan, UnknownNodeError, plan_of
from fedpredict.features.array_groups import Groups
from fedpredict.features.array_nodes import Builder
from fedpredict.features.array_values import Array, Values, from_arrow, is_true
from fedpredict.model.arrays import Bools
from fedpredict.tables.script import Script
from fedpredict.tables.script_shape import Shape, compared_columns
from fedpredict.tables.script_types import ScriptType

Columns: TypeAlias = dict[tuple[str, str], Values]

_NOWHERE = -1


@dataclass(slots=True, eq=False)
class ArrayRows:
    """A dimension's rows, read once for many questions: by the values of its key, where in `columns` they are."""

    columns: dict[str, Values]
    places: dict[tuple[object, ...], int]


@dataclass(frozen=True, slots=True, eq=False)
class _Join:
    alias: str
    keeps: bool
    key: tuple[str, ...]
    mine: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class ArrayScript:
    """A query that numpy can compute; calls may come from any thread."""

    shape: Shape
    script: Script
    plan: Plan
    where: Callable[[Plan], Values] | None
    outputs: dict[str, Callable[[Plan], Values]]
    joins: tuple[_Join, ...]
    compared: list[str]
    types: dict[str, dict[str, ScriptType]] = field(default_factory=dict)

    def dimension(self, alias: str, rows: pa.Table) -> ArrayRows:
        """Return a dimension's rows (declared types) for `run`; of several rows with one key the first counts."""
        columns = self._columns(alias, rows)
        join = next(each for each in self.joins if each.alias == alias)
        places: dict[tuple[object, ...], int] = {}
        for place, key in enumerate(zip(*(_python(columns[name]) for name in join.key), strict=True)):
            if None not in key:
                places.setdefault(key, place)
        return ArrayRows(columns, places)

    def run(self, events: pa.Table, dimensions: Mapping[str, ArrayRows], as_of: int) -> tuple[list[str], Columns]:
        """Return the keys that have a row, and the features by column name under the alias "".

        Args:
            events: Of some keys in any order; columns in their declared types.
            dimensions: By alias.
            as_of: The instant, in microseconds since 1970; later events do not count.
        """
        alias, source = next(iter(self.shape.sources.items()))
        read = self._columns(alias, events)
        key = read[self.shape.key.name.lower()]
        time = read[str(source.event_time)]
        counts = key.valid & time.valid & (time.data < as_of)
        counts = np.broadcast_to(counts, (events.num_rows,))
        if not source.unique:
            ranks = [time, *(read[name] for name in self.compared)]
            counts = _once(counts, key, read[str(source.event_id)], ranks)
        columns = {(alias, name): each for name, each in read.items()}
        counts = self._join(columns, dimensions, counts)
        with np.errstate(all="ignore"):
            if self.where is not None and counts.any():
                plan = self.plan.at(columns, Groups(np.zeros(1, dtype=np.intp), events.num_rows), as_of)
                counts = counts & is_true(self.where(plan))
            names, rows, starts = _grouped(key.data, counts)
            if not names:
                return [], {}
            taken = {place: _taken(each, rows) for place, each in columns.items()}
            plan = self.plan.at(taken, Groups(starts, len(rows)), as_of)
            return names, {("", name): _each(output(plan), len(names)) for name, output in self.outputs.items()}

    def _columns(self, alias: str, rows: pa.Table) -> dict[str, Values]:
        return {name: from_arrow(rows.column(name), kind) for name, kind in self.types[alias].items()}

    def _join(self, columns: Columns, dimensions: Mapping[str, ArrayRows], counts: Bools) -> Bools:
        for join in self.joins:
            rows = dimensions[join.alias]
            keys = zip(*(_python(columns[place]) for place in join.mine), strict=True)
            places = np.array([rows.places.get(key, _NOWHERE) for key in keys], dtype=np.intp)
            met = places != _NOWHERE
            for name, values in rows.columns.items():
                columns[join.alias, name] = _met(values, places, met)
            if not join.keeps:
                counts = counts & met
        return counts


def array_script(shape: Shape, script: Script) -> ArrayScript | None:
    """Return a compiled query as a program for numpy, or None where it has something that only an engine knows.

    Args:
        shape: Of the script.
        script: The same, compiled for DuckDB.
    """
    types = {alias: source.types for alias, source in shape.sources.items()}
    inner = script.query.find(exp.Subquery)
    if inner is None or not isinstance(inner.this, exp.Select):
        return None
    plan = plan_of(script)
    builder = Builder(types)
    try:
        where = inner.this.args.get("where")
        condition = None if where is None else builder.row(where.this).run
        given = {each.alias: each.this for each in inner.this.expressions[2:]}
        inside = {name: builder.group(node) for name, node in given.items()}
        outer = Builder({"": {}}, inside)
        outputs = {
            each.alias_or_name: outer.group(each.this if isinstance(each, exp.Alias) else each).run
            for each in script.query.expressions[2:]
        }
        joins = tuple(_join_of(each) for each in inner.this.args.get("joins") or ())
    except UnknownNodeError:
        return None
    return ArrayScript(shape, script, plan, condition, outputs, joins, compared_columns(shape), types)


def _once(counts: Bools, key: Values, number: Values, ranks: list[Values]) -> Bools:
    """Return the rows that count, each id of a key once: its newest row, of these the one of the largest values."""
    rows = np.flatnonzero(counts & number.valid)
    numbers = number.data[rows].tolist()
    if len(set(numbers)) == len(numbers):
        return counts
    columns = [
        list(zip(np.broadcast_to(each.valid, counts.shape)[rows].tolist(), each.data[rows].tolist(), strict=True))
        for each in ranks
    ]
    chosen: dict[tuple[object, object], tuple[Any, ...]] = {}
    for row, *found in zip(rows.tolist(), key.data[rows].tolist(), numbers, *columns, strict=True):
        # NULL is the smallest, whatever stands in its place
        rank = (*((there, value) if there else (False,) for there, value in found[2:]), row)
        place = (found[0], found[1])
        chosen[place] = max(chosen.get(place, ()), rank)
    kept = counts & ~number.valid
    kept[[rank[-1] for rank in chosen.values()]] = True
    return kept


def _join_of(join: exp.Join) -> _Join:
    alias = join.this.alias
    conditions = join.args["on"]
    pairs = list(conditions.flatten()) if isinstance(conditions, exp.And) else [conditions]
    key, mine = [], []
    for pair in (each.unnest() for each in pairs):
        left, right = pair.this, pair.args.get("expression")
        if not (isinstance(pair, exp.EQ) and isinstance(left, exp.Column) and isinstance(right, exp.Column)):
            raise UnknownNodeError("a join on something else than columns")
        ours, other = (left, right) if left.table.lower() == alias else (right, left)
        key.append(ours.name.lower())
        mine.append((other.table.lower(), other.name.lower()))
    return _Join(alias, join.side.upper() == "LEFT", tuple(key), tuple(mine))


def _python(values: Values) -> list[object]:
    return [
        each if there else None
        for each, there in zip(values.data.tolist(), np.broadcast_to(values.valid, values.data.shape), strict=True)
    ]


def _met(values: Values, places: NDArray[np.intp], met: Bools) -> Values:
    """Return a dimension's column for each event; NULL where it has no row."""
    if not len(values.data):
        return Values(np.zeros(len(places), dtype=values.data.dtype), met)
    return Values(values.data.take(places, mode="clip"), met & values.valid.take(places, mode="clip"))


def _taken(values: Values, rows: NDArray[np.intp]) -> Values:
    if len(values.data) == 1:
        return values
    return Values(values.data.take(rows), values.valid if len(values.valid) == 1 else values.valid.take(rows))


def _grouped(keys: Array, counts: Bools) -> tuple[list[str], NDArray[np.intp], NDArray[np.intp]]:
    """Return the keys in order, the rows that count, key by key, and where each key's begin."""
    rows = np.flatnonzero(counts)
    if not len(rows):
        return [], rows, rows
    places: dict[object, int] = {}
    codes = np.array([places.setdefault(key, len(places)) for key in keys.take(rows).tolist()], dtype=np.intp)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return [str(key) for key in places], rows[order], starts


def _each(values: Values, n_groups: int) -> Values:
    return Values(np.broadcast_to(values.data, (n_groups,)), np.broadcast_to(values.valid, (n_groups,)))

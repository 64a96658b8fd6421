"""A feature view's script -> one query for an engine, as of an instant (docs/views.md has the language)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlglot import exp

from fedpredict.errors import ViewRefusedError
from fedpredict.tables import sql
from fedpredict.tables.script_compile import Compiler
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_scope import Scope, Typed, column_of
from fedpredict.tables.script_shape import TOO_DEEP, Shape, compared_columns, parse_shape
from fedpredict.tables.script_types import DOUBLE, TEXT, ScriptType
from fedpredict.tables.script_view import ScriptFeature, ScriptSource, ScriptView
from fedpredict.tables.script_words import stray_comma
from fedpredict.warehouse.base import Value


@dataclass(frozen=True, slots=True)
class Script:
    """A script compiled for one engine.

    Attributes:
        query: sample_id, event_time (the instant itself) and the features by column name; one row for each key.
        types: Output -> the type that the script gives it.
        offsets: Parameter -> how long before the instant it is.
        texts: Parameter -> text.
    """

    query: exp.Select
    types: dict[str, ScriptType]
    offsets: dict[str, timedelta]
    texts: dict[str, str]

    def params(self, as_of: datetime) -> dict[str, Value]:
        """Return what to bind for an instant (with a time zone).

        Raises:
            ViewRefusedError: A window begins before the year 1.
        """
        instant = as_of.astimezone(UTC).replace(tzinfo=None)
        try:
            moments = {name: (instant - by).isoformat(" ", "microseconds") for name, by in self.offsets.items()}
        except OverflowError:
            raise ViewRefusedError(f"as of {as_of.isoformat()}, a window begins before the year 1") from None
        return {**moments, **self.texts}


def lint_script(view: ScriptView, text: str) -> dict[str, ScriptType]:
    """Compile a script for every target of its view and return the types of its outputs.

    Raises:
        ViewRefusedError: With line and column, and the fix.
    """
    types = {engine: compile_script(view, text, engine).types for engine in view.targets}[view.targets[0]]
    comma = stray_comma(text)
    if comma is not None:  # the parser passes over it, so a script of before goes on
        raise ViewRefusedError(f"line {comma[0]}, column {comma[1]}: a comma with nothing beside it: leave it out")
    return types


def compile_script(view: ScriptView, text: str, engine: str) -> Script:
    """Return a script's query for an engine.

    Only events before the instant count: a row's time must be smaller than it. A row without a time never counts.

    Args:
        view: The definition.
        text: The script.
        engine: "duckdb", "spark" or "hive".

    Raises:
        ViewRefusedError: With line and column, and the fix.
    """
    try:
        return _compiled(parse_shape(view, text), view, engine)
    except RecursionError:
        raise ViewRefusedError(TOO_DEEP) from None


def _compiled(shape: Shape, view: ScriptView, engine: str) -> Script:
    scope = Scope(engine, shape.sources)
    key = column_of(*scope.column(shape.key)[:2])
    given = {name: Compiler(scope, shape.key).compile(node) for name, node in shape.outputs.items()}
    where = None if shape.where is None else Compiler(scope).condition(shape.where)
    columns = [
        sql.named(exp.Cast(this=key.copy(), to=TEXT.sql), "sample_id"),
        sql.named(scope.instant().tree, "event_time"),
    ]
    features = {each.column: view.features[each.name] for each in view.feature_view(1).features}
    for name, feature in features.items():
        columns.append(sql.named(_output(shape.outputs[name], name, feature, given[name]), name))
    inner = exp.Select(expressions=columns).from_(_events(shape, scope), copy=False)
    for join in shape.joins:
        condition = [exp.EQ(this=mine, expression=other) for mine, other in join.pairs]
        source = _declared(shape.sources[join.alias]).subquery(join.alias, copy=False)
        inner = inner.join(source, on=exp.and_(*condition), join_type=join.side or "inner", copy=False)
    if where is not None:
        inner = inner.where(where, copy=False)
    inner = inner.group_by(key, copy=False)
    outer = [*sql.columns_of("sample_id", "event_time"), *(_in_range(name, each) for name, each in features.items())]
    offsets = {name: timedelta(seconds=seconds) for seconds, name in scope.offsets.items()}
    texts = {name: text for text, name in scope.texts.items()}
    return Script(sql.select_from(outer, inner), {name: each.type for name, each in given.items()}, offsets, texts)


def _output(node: exp.Expr, name: str, feature: ScriptFeature, given: Typed) -> exp.Expr:
    if feature.type == "text":
        if given.type.kind not in ("text", "null"):
            raise refused(
                node, f"{name} is {given.type}, and the view declares text: CAST(... AS VARCHAR), or declare number"
            )
        return given.tree if given.type.kind == "text" else exp.Cast(this=given.tree, to=TEXT.sql)
    if not (given.type.is_number or given.type.kind == "null"):
        fixes = {
            "boolean": "CASE WHEN ... THEN 1 ELSE 0 END makes a number of it",
            "timestamp": "seconds_between or days_between make a number of it",
            "date": "days_between makes a number of it",
        }
        fix = fixes.get(given.type.kind, "declare it text")
        raise refused(node, f"{name} is {given.type}, and the view declares a number: {fix}")
    return exp.Cast(this=given.tree, to=DOUBLE.sql)


def _in_range(name: str, feature: ScriptFeature) -> exp.Expr:
    """Return a feature; a number beyond its range is infinite, which every model answers with FEATURE_INVALID."""
    branches = [
        (operator(this=sql.column(name), expression=sql.double(repr(limit))), sql.double(infinite))
        for operator, limit, infinite in ((exp.LT, feature.min, "-Infinity"), (exp.GT, feature.max, "Infinity"))
        if limit is not None
    ]
    return sql.named(sql.case(sql.column(name), *branches), name) if branches else sql.column(name)


def _events(shape: Shape, scope: Scope) -> exp.Subquery:
    """Return the events before the instant, in their declared types, each id of a key once."""
    alias, source = scope.events
    rows = _declared(source)
    if source.event_time is None or source.event_id is None:  # a dimension after FROM
        return rows.subquery(alias, copy=False)
    time = declared_column(source.event_time, source.types[source.event_time])
    rows = rows.where(exp.LT(this=time, expression=scope.instant().tree), copy=False)
    if not source.unique:
        rows = _once(rows, shape, source.event_id, source.event_time)
    return rows.subquery(alias, copy=False)


def _once(rows: exp.Select, shape: Shape, event_id: str, event_time: str) -> exp.Select:
    """Return the rows that count of those with one key and id: the newest, of these the largest values.

    A row without an id is like no other.
    """
    _, source = next(iter(shape.sources.items()))
    ranks = [
        exp.Ordered(this=sql.column(name), desc=True, nulls_first=False)
        for name in (event_time, *compared_columns(shape))
    ]
    number = exp.Window(
        this=exp.RowNumber(),
        partition_by=sql.columns_of(shape.key.name.lower(), event_id),
        order=exp.Order(expressions=ranks),
    )
    names = sql.columns_of(*source.types)
    numbered = sql.select_from([*names, sql.named(number, "fp_repeat")], rows)
    has_none = exp.Is(this=sql.column(event_id), expression=exp.Null())
    chosen = exp.or_(has_none, sql.equals("fp_repeat", 1))
    return sql.select_from([each.copy() for each in names], numbered).where(chosen, copy=False)


def _declared(source: ScriptSource) -> exp.Select:
    """Return a source's declared columns, each in its declared type."""
    columns = [sql.named(declared_column(name, kind), name) for name, kind in source.types.items()]
    return exp.Select(expressions=columns).from_(raw_table(source), copy=False)


def raw_table(source: ScriptSource) -> exp.Table:
    """Return a source's raw table."""
    return exp.table_(source.table, db=source.database, quoted=True)


def declared_column(name: str, kind: ScriptType) -> exp.Expr:
    """Return a raw column in its declared type; NULL where it cannot be, as where a double is not finite."""
    value = exp.TryCast(this=sql.column(name), to=kind.sql)
    if kind.kind != "double":
        return value
    is_finite = exp.LTE(this=exp.Abs(this=value.copy()), expression=sql.double(sql.LARGEST))
    return exp.Case(ifs=[exp.If(this=is_finite, true=value)])


def duplicates_query(source: ScriptSource) -> exp.Select:
    """Return the query for the number of keys (`n`) that more than one row of a dimension has."""
    keys = [sql.column(name) for name in source.key]
    table = raw_table(source)
    several = exp.GT(this=exp.Count(this=exp.Star()), expression=sql.number(1))
    given = [exp.Not(this=exp.Is(this=each.copy(), expression=exp.Null())) for each in keys]
    repeated = (
        exp.Select(expressions=keys)
        .from_(table, copy=False)
        .where(*given, copy=False)
        .group_by(*(each.copy() for each in keys), copy=False)
        .having(several, copy=False)
    )
    return sql.select_from([sql.named(exp.Count(this=exp.Star()), "n")], repeated)

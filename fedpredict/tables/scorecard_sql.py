"""The shares of scorecard parts in the engine's SQL.

Every row of features meets every feature's position once, so that one value stands in a row; the bins of that feature
are joined by the position, and the one that holds the value gives its points. So the text has a branch for each feature
and nothing for a bin, and no bound or number of points stands in it.
"""

from __future__ import annotations

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.scorecard import BASE
from fedpredict.tables.source import Source
from fedpredict.tables.version import ModelVersion

_SAMPLE = ("sample_id", "event_time")


def scorecard_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says."""
    missing, hit = sql.compare(exp.GT, "fp_missing", 0), sql.compare(exp.GT, "fp_hits", 0)
    points = sql.case(
        sql.column("fp_if_outside"), (missing, sql.column("fp_if_missing")), (hit, sql.column("fp_points"))
    )
    unusable = _flag(exp.and_(missing.copy(), _is_null("fp_if_missing")))
    unknown = exp.and_(sql.equals("fp_missing", 0), sql.equals("fp_hits", 0), _is_null("fp_if_outside"))
    columns = [
        *sql.columns_of(*_SAMPLE),
        sql.named(sql.number(0), "output"),
        sql.named(_sum(points), "fp_raw"),
        sql.named(_sum(unusable), "fp_unusable"),
        sql.named(_sum(_flag(exp.or_(sql.compare(exp.GT, "fp_infinite", 0), unknown))), "fp_infinite"),
        sql.named(_sum(sql.column("fp_ties")), "fp_ties"),
    ]
    return sql.select_from(columns, _by_feature(version, source)).group_by(*sql.columns_of(*_SAMPLE), copy=False)


def _by_feature(version: ModelVersion, source: Source) -> exp.Select:
    """Return for each row and feature the points of the bin that holds its value, of a missing and of another one."""
    bins = sql.stored(
        sql.columns_of("position", "rule", "low", "high", "low_closed", "high_closed", "text", "points"),
        version.parameter_tables[0],
        version.partition,
    )
    hit = _is_hit()
    is_base = _rule("base")
    own_points = exp.Coalesce(this=sql.column("points", "fp_b"), expressions=[sql.double("0")])
    columns = [
        *(sql.column(name, "fp_v") for name in (*_SAMPLE, "position")),
        sql.named(_sum(_flag(hit)), "fp_hits"),
        sql.named(_sum(sql.case(exp.null(), (hit.copy(), own_points))), "fp_points"),
        sql.named(_of_rule("missing"), "fp_if_missing"),
        sql.named(_of_rule("outside"), "fp_if_outside"),
        sql.named(exp.Max(this=sql.column("fp_missing", "fp_v")), "fp_missing"),
        sql.named(exp.Max(this=sql.column("fp_infinite", "fp_v")), "fp_infinite"),
        sql.named(_sum(_flag(is_base)), "fp_ties"),
    ]
    same = exp.EQ(this=sql.column("position", "fp_v"), expression=sql.column("position", "fp_b"))
    return (
        exp.Select(expressions=columns)
        .from_(_values(version, source).subquery("fp_v", copy=False), copy=False)
        .join(bins.subquery("fp_b", copy=False), on=same, join_type="inner", copy=False)
        .group_by(*(sql.column(name, "fp_v") for name in (*_SAMPLE, "position")), copy=False)
    )


def _is_hit() -> exp.Expr:
    """Return whether a bin holds the value: the base row always does, a NULL value is in none."""
    value, low, high = sql.column("fp_number", "fp_v"), sql.column("low", "fp_b"), sql.column("high", "fp_b")
    above = exp.or_(
        exp.Is(this=low, expression=exp.null()),
        exp.GT(this=value, expression=low.copy()),
        exp.and_(sql.column("low_closed", "fp_b"), exp.EQ(this=value.copy(), expression=low.copy())),
    )
    below = exp.or_(
        exp.Is(this=high, expression=exp.null()),
        exp.LT(this=value.copy(), expression=high.copy()),
        exp.and_(sql.column("high_closed", "fp_b"), exp.EQ(this=value.copy(), expression=high.copy())),
    )
    is_number = exp.Not(this=exp.Is(this=value.copy(), expression=exp.null()))
    same_text = exp.EQ(this=sql.column("fp_text", "fp_v"), expression=sql.column("text", "fp_b"))
    return exp.or_(
        _rule("base"), exp.and_(_rule("interval"), is_number, above, below), exp.and_(_rule("text"), same_text)
    )


def _values(version: ModelVersion, source: Source) -> exp.Select:
    """Return a row for each row of features and each position: a finite number or a text, and what is odd about it.

    The position of the base points has no value: it carries what the source says of its rows.
    """
    number, text = sql.column("fp_number"), sql.column("fp_text")
    size, largest = exp.Abs(this=number), sql.double(sql.LARGEST)
    finite = exp.LTE(this=size, expression=largest)
    infinite = exp.LT(this=exp.Neg(this=size.copy()), expression=exp.Neg(this=largest.copy()))
    has_text = exp.Not(this=exp.Is(this=text, expression=exp.null()))
    is_base = sql.equals("position", BASE)
    # -0.0 becomes 0.0: not every engine takes the two for equal
    positive_zero = exp.Add(this=number.copy(), expression=sql.double("0"))
    columns = [
        *sql.columns_of(*_SAMPLE, "position"),
        sql.named(sql.case(exp.null(), (finite.copy(), positive_zero)), "fp_number"),
        text.copy(),
        sql.named(
            sql.case(
                sql.number(1),
                (exp.or_(finite, has_text, infinite), sql.number(0)),
                (is_base, sql.column("fp_source_missing")),
            ),
            "fp_missing",
        ),
        sql.named(
            sql.case(
                sql.number(0), (infinite.copy(), sql.number(1)), (is_base.copy(), sql.column("fp_source_infinite"))
            ),
            "fp_infinite",
        ),
    ]
    return sql.select_from(columns, _crossed(version, source))


def _crossed(version: ModelVersion, source: Source) -> exp.Select:
    """Return a row for each row of features and each position, with the value of that feature."""
    position = sql.column("position", "fp_p")

    def picked(*, texts: bool) -> exp.Expr:
        branches = [
            (
                exp.EQ(this=position.copy(), expression=sql.number(place)),
                sql.column(source.column_of[name], "fp_f"),
            )
            for place, name in enumerate(version.features)
            if (name in version.categories) == texts
        ]
        nothing = exp.cast(exp.null(), exp.DataType.Type.TEXT if texts else exp.DataType.Type.DOUBLE)
        return sql.case(nothing, *branches) if branches else nothing

    flags = source.flags or ()
    told: list[exp.Expr] = [sql.column(name, "fp_f") for name in flags]
    told = told or [sql.number(0), sql.number(0)]
    columns = [
        *(sql.column(name, "fp_f") for name in _SAMPLE),
        position,
        sql.named(picked(texts=False), "fp_number"),
        sql.named(picked(texts=True), "fp_text"),
        sql.named(told[0], "fp_source_missing"),
        sql.named(told[1], "fp_source_infinite"),
    ]
    rows = source.rows([*_SAMPLE, *source.column_of.values(), *flags])
    positions = sql.stored(sql.columns_of("position"), version.parameter_tables[0], version.partition).where(
        exp.In(this=sql.column("rule"), expressions=[exp.Literal.string("base"), exp.Literal.string("outside")]),
        copy=False,
    )
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_f", copy=False), copy=False)
        .join(positions.subquery("fp_p", copy=False), join_type="cross", copy=False)
    )


def _rule(name: str) -> exp.Expr:
    return exp.EQ(this=sql.column("rule", "fp_b"), expression=exp.Literal.string(name))


def _of_rule(name: str) -> exp.Expr:
    return exp.Max(this=sql.case(exp.null(), (_rule(name), sql.column("points", "fp_b"))))


def _is_null(name: str) -> exp.Expr:
    return exp.Is(this=sql.column(name), expression=exp.null())


def _flag(condition: exp.Expr) -> exp.Expr:
    return sql.case(sql.number(0), (condition, sql.number(1)))


def _sum(expression: exp.Expr) -> exp.Expr:
    return exp.Sum(this=expression)

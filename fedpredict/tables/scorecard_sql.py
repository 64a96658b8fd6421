"""The shares of scorecard parts in the engine's SQL.

Every row of features meets every feature's position once, so that one value stands in a row, with the points of a
missing value and of one in no bin. The bin that holds it, if one does, is joined to it, and the points are added up. So
the text has a branch for each feature and nothing for a bin, and no bound or number of points stands in it.

The join asks for the bin within its condition: joined with all bins of their feature and then grouped, 4 million values
took several times as long (ADR 0025).
"""

from __future__ import annotations

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.scorecard import BASE
from fedpredict.tables.source import Source
from fedpredict.tables.version import ModelVersion

_SAMPLE = ("sample_id", "event_time")
_OF_VALUE = ("fp_number", "fp_key", "fp_missing", "fp_infinite", "fp_if_missing", "fp_if_outside")


def scorecard_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says."""
    missing, infinite = sql.compare(exp.GT, "fp_missing", 0), sql.compare(exp.GT, "fp_infinite", 0)
    hit = exp.Not(this=_is_null("fp_points"))
    points = sql.case(
        sql.column("fp_if_outside"), (missing, sql.column("fp_if_missing")), (hit, sql.column("fp_points"))
    )
    unusable = exp.and_(missing.copy(), _is_null("fp_if_missing"))
    unknown = exp.and_(sql.equals("fp_missing", 0), _is_null("fp_points"), _is_null("fp_if_outside"))
    columns = [
        *sql.columns_of(*_SAMPLE),
        sql.named(sql.number(0), "output"),
        sql.named(_sum(points), "fp_raw"),
        sql.named(_sum(_flag(unusable)), "fp_unusable"),
        sql.named(_sum(_flag(exp.or_(infinite, unknown))), "fp_infinite"),
        sql.named(_sum(_flag(sql.equals("position", BASE))), "fp_ties"),
    ]
    return sql.select_from(columns, _with_points(version, source)).group_by(*sql.columns_of(*_SAMPLE), copy=False)


def _with_points(version: ModelVersion, source: Source) -> exp.Select:
    """Return every value with the points of the bin that holds it, NULL where none does: bins do not overlap."""
    bins = sql.stored(
        [
            *sql.columns_of("position", "low", "high", "low_closed", "high_closed", "points"),
            sql.named(exp.Coalesce(this=sql.column("text"), expressions=[_literal("")]), "fp_key"),
        ],
        version.parameter_tables[0],
        version.partition,
    ).where(_is_rule("interval", "text"), copy=False)
    columns = [
        *(sql.column(name, "fp_v") for name in (*_SAMPLE, "position", *_OF_VALUE)),
        sql.named(sql.column("points", "fp_b"), "fp_points"),
    ]
    return (
        exp.Select(expressions=columns)
        .from_(_values(version, source).subquery("fp_v", copy=False), copy=False)
        .join(bins.subquery("fp_b", copy=False), on=_holds(version), join_type="left", copy=False)
    )


def _holds(version: ModelVersion) -> exp.Expr:
    """Return whether a bin holds a value: by the text, or by its bounds, of which a text has none."""
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
    keys = ["position", "fp_key"] if version.categories else ["position"]
    same = [exp.EQ(this=sql.column(name, "fp_v"), expression=sql.column(name, "fp_b")) for name in keys]
    return exp.and_(*same, above, below)


def _values(version: ModelVersion, source: Source) -> exp.Select:
    """Return a row for each row of features and each position: a finite number or a text, and what is odd about it.

    The position of the base points has no value: it carries what the source says of its rows, and the base points as
    those of a value in no bin.
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
        sql.named(exp.Coalesce(this=text.copy(), expressions=[_literal("")]), "fp_key"),
        *sql.columns_of("fp_if_missing", "fp_if_outside"),
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
        *(sql.column(name, "fp_p") for name in ("position", "fp_if_missing", "fp_if_outside")),
        sql.named(picked(texts=False), "fp_number"),
        sql.named(picked(texts=True), "fp_text"),
        sql.named(told[0], "fp_source_missing"),
        sql.named(told[1], "fp_source_infinite"),
    ]
    rows = source.rows([*_SAMPLE, *source.column_of.values(), *flags])
    return (
        exp.Select(expressions=columns)
        .from_(rows.subquery("fp_f", copy=False), copy=False)
        .join(_positions(version).subquery("fp_p", copy=False), join_type="cross", copy=False)
    )


def _positions(version: ModelVersion) -> exp.Select:
    """Return a row for each feature and one for the base points, with the points of what is missing or in no bin."""
    base = exp.Coalesce(this=sql.column("points"), expressions=[sql.double("0")])
    missing = sql.case(exp.null(), (_is_rule("missing"), sql.column("points")))
    outside = sql.case(exp.null(), (_is_rule("base"), base), (_is_rule("outside"), sql.column("points")))
    columns = [
        sql.column("position"),
        sql.named(exp.Max(this=missing), "fp_if_missing"),
        sql.named(exp.Max(this=outside), "fp_if_outside"),
    ]
    rows = sql.stored(columns, version.parameter_tables[0], version.partition)
    rows = rows.where(_is_rule("base", "missing", "outside"), copy=False)
    return rows.group_by(sql.column("position"), copy=False)


def _is_rule(*names: str) -> exp.Expr:
    return exp.In(this=sql.column("rule"), expressions=[_literal(name) for name in names])


def _is_null(name: str) -> exp.Expr:
    return exp.Is(this=sql.column(name), expression=exp.null())


def _literal(text: str) -> exp.Expr:
    return exp.Literal.string(text)


def _flag(condition: exp.Expr) -> exp.Expr:
    return sql.case(sql.number(0), (condition, sql.number(1)))


def _sum(expression: exp.Expr) -> exp.Expr:
    return exp.Sum(this=expression)

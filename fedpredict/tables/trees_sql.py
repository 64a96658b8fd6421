"""The shares of summed trees in the engine's SQL: every sample walks down all trees at once, a level per join.

A row of the walk is a sample in a tree: where it is, and the values that the trees look at, as one array of numbers and
one of texts. Each level joins the splits, looks at one value by its place, and goes to a child; a sample that is at a
leaf stays. The leaves are joined last, and their values added up. The base score is one more tree, of a leaf alone.
ADR 0021 has the alternatives, and what they took.

Values are made ready before the walk, once per sample, so that a level asks little: one that is missing is NULL, one of
a model that compares in float32 is rounded, and categories are texts between bars, as `category_sets` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sqlglot import exp

from fedpredict.model.trees import MAX_CODE, CodeRule
from fedpredict.tables import sql
from fedpredict.tables.category_sets import BAR, ESCAPES, UNKNOWN, set_text
from fedpredict.tables.source import Source
from fedpredict.tables.trees import BASE, KNOWN
from fedpredict.tables.trees_options import TreesOptions, parse_options
from fedpredict.tables.version import ModelVersion

_LARGEST_FLOAT32 = repr(float(np.finfo(np.float32).max))
_TINY = float(np.float32(1e-35))
"""What is at most this far from zero counts as zero, where zero counts as missing."""
_SAMPLE = ("sample_id", "event_time", "fp_unusable", "fp_infinite")


def tree_scores(version: ModelVersion, source: Source) -> exp.Select:
    """Return the raw scores of every row of a source, as `statements.Scored` says.

    Of trees that are split across parties these are leaf masks: a split of another party is two rows, one for each
    child, so that a sample goes both ways, and each leaf that it gets to adds its bit.
    """
    options = parse_options(version.options)
    walk = _at_roots(version, options, _prepared(version, options, source))
    for level in range(options.depth):
        walk = _next_level(version, options, walk, level)
    ends = _joined([*_SAMPLE, "fp_tree", "output", "leaf_value"], walk, _leaves(version), side="INNER")
    keys = ("sample_id", "event_time", "output")
    value = exp.Coalesce(this=sql.column("leaf_value"), expressions=[sql.double("0")])
    is_base = sql.case(sql.number(0), (sql.equals("fp_tree", BASE), sql.number(1)))
    columns = [
        *sql.columns_of(*keys),
        sql.named(exp.Sum(this=value), "fp_raw"),
        *(sql.named(exp.Max(this=sql.column(name)), name) for name in ("fp_unusable", "fp_infinite")),
        sql.named(exp.Sum(this=is_base), "fp_ties"),
    ]
    return sql.select_from(columns, ends).group_by(*sql.columns_of(*keys), copy=False)


def _prepared(version: ModelVersion, options: TreesOptions, source: Source) -> exp.Select:
    """Return every row of the source with its flags, and what the trees look at: `fp_numbers` and `fp_texts`."""
    columns = [source.column_of[name] for name in version.features]
    numbers = [_number(columns[at], options, zero_is_missing=zero) for at, zero in options.numbers]
    texts = [
        _known_text(columns[at], at)
        if version.features[at] in version.categories
        else _code(columns[at], options, zero_is_missing=zero)
        for at, zero in options.sets
    ]
    selected = [*sql.columns_of("sample_id", "event_time"), *_flags(version, options, source)]
    selected += [
        sql.named(exp.Array(expressions=values), name)
        for name, values in (("fp_numbers", numbers), ("fp_texts", texts))
        if values
    ]
    rows = source.rows(["sample_id", "event_time", *columns, *(source.flags or ())])
    prepared = sql.select_from(selected, rows)
    texts_of_sets = (at for at, _ in options.sets if version.features[at] in version.categories)
    known = sorted({*options.closed, *texts_of_sets})
    if known:
        prepared = prepared.join(
            _known_sets(version, known).subquery("fp_k", copy=False), join_type="cross", copy=False
        )
    return prepared


def _flags(version: ModelVersion, options: TreesOptions, source: Source) -> list[exp.Expr]:
    """Return fp_unusable and fp_infinite: whether a feature that must not miss does, and whether one is invalid."""
    usable: list[exp.Expr] = []
    infinite: list[exp.Expr] = []
    for at, name in enumerate(version.features):
        column = sql.column(source.column_of[name])
        is_text = name in version.categories
        if at not in options.may_miss:
            usable.append(_is_there(column) if is_text else _in_range(column, options))
        if not is_text:
            size, lowest = exp.Neg(this=exp.Abs(this=column.copy())), exp.Neg(this=_top(options))
            infinite.append(exp.LT(this=size, expression=lowest))
        if at in options.closed:
            infinite.append(_is_outside(version, options, at, source.column_of[name]))
    flags = (
        sql.case(sql.number(1), (sql.balanced(exp.And, usable or [exp.true()]), sql.number(0))),
        sql.case(sql.number(0), (sql.balanced(exp.Or, infinite or [exp.false()]), sql.number(1))),
    )
    before = [[sql.column(name)] for name in source.flags] if source.flags else [[], []]
    return [
        sql.named(sql.balanced(exp.Add, [flag, *more]), name)
        for flag, more, name in zip(flags, before, ("fp_unusable", "fp_infinite"), strict=True)
    ]


def _is_outside(version: ModelVersion, options: TreesOptions, at: int, column: str) -> exp.Expr:
    """Return whether a closed feature has a category that training did not know; not true where it is missing."""
    if version.features[at] in version.categories:
        return exp.EQ(this=_known_text(column, at), expression=_literal(UNKNOWN))
    code = _code(column, options, zero_is_missing=False)
    return exp.EQ(this=_position(sql.column(_known_column(at)), code), expression=sql.number(0))


def _top(options: TreesOptions) -> exp.Expr:
    return sql.double(_LARGEST_FLOAT32 if options.float32 else sql.LARGEST)


def _in_range(column: exp.Expr, options: TreesOptions) -> exp.Expr:
    """Return whether a number is there, and in the range of the comparison; not true for NULL, NaN and infinities."""
    return exp.LTE(this=exp.Abs(this=column.copy()), expression=_top(options))


def _is_there(column: exp.Expr) -> exp.Expr:
    return exp.Not(this=exp.Is(this=column.copy(), expression=exp.null()))


def _number(name: str, options: TreesOptions, *, zero_is_missing: bool) -> exp.Expr:
    """Return a number as the splits compare it, NULL where it is missing."""
    return _if_there(name, options, lambda number: number, zero_is_missing=zero_is_missing)


def _code(name: str, options: TreesOptions, *, zero_is_missing: bool) -> exp.Expr:
    """Return a number's code as the text that sets are searched for, NULL where the number is missing."""

    def text(number: exp.Expr) -> exp.Expr:
        if options.codes is CodeRule.WHOLE:
            number = sql.column(name)  # not rounded
        # a BIGINT in Hive and Spark, so only what is in its range is cut; -0.5 has the code of 0.5 where it has one
        whole: exp.Expr = exp.cast(exp.Floor(this=exp.Abs(this=number.copy())), exp.DataType.Type.BIGINT)
        if options.codes is CodeRule.BYTE:
            whole = exp.Mod(this=whole, expression=sql.number(256))
        code: exp.Expr = _between_bars(exp.cast(whole, exp.DataType.Type.TEXT))
        if options.codes is CodeRule.WHOLE:
            is_whole = exp.EQ(this=exp.cast(whole.copy(), exp.DataType.Type.DOUBLE), expression=number.copy())
            code = sql.case(_literal(UNKNOWN), (is_whole, code))
        rounds = options.float32 and options.codes is not CodeRule.WHOLE
        below = -1.0 if options.codes is CodeRule.CUT else _before(0.0, rounds=rounds)
        lowest, highest = (_last(each, rounds=rounds) for each in (below, _before(MAX_CODE + 1.0, rounds=rounds)))
        reaches = exp.GT(this=sql.column(name), expression=_double(lowest))
        is_code = exp.and_(reaches, exp.LTE(this=sql.column(name), expression=_double(highest)))
        if options.codes is CodeRule.BYTE:
            return sql.case(_literal(UNKNOWN), (is_code, code), (reaches.copy(), _literal(set_text(["0"]))))
        return sql.case(_literal(UNKNOWN), (is_code, code))

    return _if_there(name, options, text, zero_is_missing=zero_is_missing)


def _if_there(
    name: str, options: TreesOptions, of: Callable[[exp.Expr], exp.Expr], *, zero_is_missing: bool
) -> exp.Expr:
    """Return what `of` makes of a number in the precision of the comparison, NULL where it is missing.

    It is asked for its range first, because DuckDB refuses to round a number that is beyond float32. The rounded number
    stays a FLOAT, which engines compare with a DOUBLE exactly: Hive takes a cast to FLOAT and back for none. It was
    seen to do so where a rounded number meets a literal, too: those meet the number as it is (`_last`).
    """
    number: exp.Expr = sql.column(name)
    if options.float32:
        number = exp.cast(number, exp.DataType.Type.FLOAT)
    value = of(number)
    if zero_is_missing:
        tiny = _double(_last(_TINY, rounds=options.float32))
        is_zero = exp.LTE(this=exp.Abs(this=sql.column(name)), expression=tiny)
        value = sql.case(value, (is_zero, exp.null()))
    return sql.case(exp.null(), (_in_range(sql.column(name), options), value))


def _last(limit: float, *, rounds: bool) -> float:
    """Return the largest number that is at most a limit, after it is rounded to float32 where numbers are."""
    if not rounds:
        return limit
    near = np.float32(limit)
    middle = (float(near) + float(np.nextafter(near, np.float32(np.inf)))) / 2
    return middle if np.float32(middle) <= near else float(np.nextafter(middle, -np.inf))


def _before(number: float, *, rounds: bool) -> float:
    """Return the number before one, of those that numbers are rounded to."""
    if rounds:
        return float(np.nextafter(np.float32(number), np.float32(-np.inf)))
    return float(np.nextafter(number, -np.inf))


def _double(number: float) -> exp.Expr:
    value = sql.double(repr(abs(number)))
    return exp.Neg(this=value) if number < 0 else value


def _known_text(name: str, at: int) -> exp.Expr:
    """Return a text as sets are searched for it, `UNKNOWN` where it is no category, NULL where it is missing."""
    escaped: exp.Expr = sql.column(name)
    for character, escape in ESCAPES:
        escaped = exp.Replace(this=escaped, expression=_literal(character), replacement=_literal(escape))
    text = _between_bars(escaped)
    return sql.case(
        exp.null(),
        (_contains(sql.column(_known_column(at)), text), text.copy()),
        (_is_there(sql.column(name)), _literal(UNKNOWN)),
    )


def _known_sets(version: ModelVersion, features: Sequence[int]) -> exp.Select:
    """Return one row with the categories of each text feature."""
    columns = [
        sql.named(
            exp.Max(this=sql.case(exp.null(), (sql.equals("node", at), sql.column("categories")))), _known_column(at)
        )
        for at in features
    ]
    return _stored(version, columns, sql.equals("tree", KNOWN))


def _known_column(at: int) -> str:
    return f"fp_known_{at}"


def _at_roots(version: ModelVersion, options: TreesOptions, prepared: exp.Select) -> exp.Select:
    """Return every sample at the root of every tree.

    A root of several rows (a leaf with a value for each output, the base score, a split of another party) has one of
    output 0. To ask for it rather than for distinct rows spares Hive counters, of which it has few.
    """
    columns = [sql.named(sql.column("tree"), "fp_tree"), sql.named(sql.number(0), "fp_node")]
    is_leaf = exp.Is(this=sql.column("left_child"), expression=exp.null())
    one_row = exp.and_(is_leaf, sql.compare(exp.GTE, "tree", 0))
    output = sql.column("output") if options.wide else sql.case(sql.column("output"), (one_row, sql.number(0)))
    is_first = exp.EQ(this=exp.Coalesce(this=output, expressions=[sql.number(0)]), expression=sql.number(0))
    roots = _stored(version, columns, sql.equals("node", 0), sql.compare(exp.GTE, "tree", BASE), is_first)
    return sql.select_from(sql.columns_of(*_carried(options), "fp_tree", "fp_node"), prepared).join(
        roots.subquery("fp_t", copy=False), join_type="cross", copy=False
    )


def _next_level(version: ModelVersion, options: TreesOptions, walk: exp.Select, level: int) -> exp.Select:
    """Return every sample at the child that it goes to, or where it was if that is no split of this level."""
    child = sql.case(sql.column("right_child"), (_goes_left(options), sql.column("left_child")))
    node = exp.Coalesce(this=child, expressions=[sql.column("fp_node")])
    columns: list[str | exp.Expr] = [*_carried(options), "fp_tree", sql.named(node, "fp_node")]
    return _joined(columns, walk, _splits(version, options, level), side="LEFT")


def _goes_left(options: TreesOptions) -> exp.Expr:
    number = exp.Bracket(this=sql.column("fp_numbers"), expressions=[_place("fp_number")], offset=0)
    below = (exp.LT if options.strict else exp.LTE)(this=number, expression=sql.column("threshold"))
    by_number = exp.Coalesce(this=below, expressions=[sql.column("fp_missing_left")])
    text = exp.Bracket(this=sql.column("fp_texts"), expressions=[_place("fp_text")], offset=0)
    is_unknown = exp.or_(
        exp.EQ(this=text.copy(), expression=_literal(UNKNOWN)),
        exp.EQ(this=_position(sql.column("known"), text), expression=sql.number(0)),
    )
    by_set = sql.case(
        _contains(sql.column("categories"), text),
        (exp.Is(this=text.copy(), expression=exp.null()), sql.column("fp_missing_left")),
        (is_unknown, sql.column("fp_unknown_left")),
    )
    if not options.inputs:  # every split is another party's
        return exp.false()
    if not options.sets:
        return by_number
    return sql.case(by_number, (_is_there(sql.column("fp_text")), by_set)) if options.numbers else by_set


def _splits(version: ModelVersion, options: TreesOptions, level: int) -> exp.Select:
    """Return the splits of one level, and the place of what each looks at among the numbers or the texts."""
    columns = sql.columns_of("tree", "node", "threshold", "left_child", "right_child")
    columns.append(sql.named(_is_left("missing"), "fp_missing_left"))
    n_numbers = len(options.numbers)
    is_number = sql.compare(exp.LT, "input", n_numbers)
    if options.numbers:
        columns.append(sql.named(sql.case(exp.null(), (is_number, sql.column("input"))), "fp_number"))
    if options.sets:
        place = exp.Sub(this=sql.column("input"), expression=sql.number(n_numbers))
        columns.append(sql.named(sql.case(place, (is_number.copy(), exp.null())), "fp_text"))
        columns += [*sql.columns_of("categories", "known"), sql.named(_is_left("unknown"), "fp_unknown_left")]
    return _stored(version, columns, sql.equals("level", level), _is_there(sql.column("left_child")))


def _leaves(version: ModelVersion) -> exp.Select:
    columns = sql.columns_of("tree", "node", "output", "leaf_value")
    no_split = exp.Is(this=sql.column("left_child"), expression=exp.null())
    return _stored(version, columns, sql.compare(exp.GTE, "tree", BASE), no_split)


def _stored(version: ModelVersion, columns: list[exp.Expr], *conditions: exp.Expr) -> exp.Select:
    return sql.stored(columns, version.parameter_tables[0], version.partition).where(*conditions, copy=False)


def _joined(columns: Sequence[str | exp.Expr], walk: exp.Select, nodes: exp.Select, side: str) -> exp.Select:
    """Return columns of samples in trees and the nodes that they are at."""
    is_at = exp.and_(
        exp.EQ(this=sql.column("fp_tree"), expression=sql.column("tree")),
        exp.EQ(this=sql.column("fp_node"), expression=sql.column("node")),
    )
    listed = [sql.column(each) if isinstance(each, str) else each for each in columns]
    return sql.select_from(listed, walk).join(nodes.subquery("fp_n", copy=False), on=is_at, join_type=side, copy=False)


def _carried(options: TreesOptions) -> list[str]:
    values = (("fp_numbers", options.numbers), ("fp_texts", options.sets))
    return [*_SAMPLE, *(name for name, inputs in values if inputs)]


def _place(name: str) -> exp.Expr:
    """Return the place of an element, from 0; the type lets sqlglot count from 1 for the engines that do."""
    return exp.cast(sql.column(name), exp.DataType.Type.INT)


def _is_left(name: str) -> exp.Expr:
    return exp.EQ(this=sql.column(name), expression=_literal("left"))


def _contains(text: exp.Expr, part: exp.Expr) -> exp.Expr:
    return exp.GT(this=_position(text, part), expression=sql.number(0))


def _position(text: exp.Expr, part: exp.Expr) -> exp.Expr:
    return exp.StrPosition(this=text, substr=part.copy())


def _between_bars(text: exp.Expr) -> exp.Expr:
    return exp.Concat(expressions=[_literal(BAR), text, _literal(BAR)])


def _literal(text: str) -> exp.Expr:
    return exp.Literal.string(text)

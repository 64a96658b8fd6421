"""One level of steps as a query around the level before: what its columns are made of, and what of a row is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlglot import exp

from fedpredict.model.step import StepKind
from fedpredict.tables import sql
from fedpredict.tables.steps_options import StepShape
from fedpredict.tables.version import ModelVersion

KEYS = ("sample_id", "event_time")
FLAGS = ("fp_missing", "fp_invalid")


@dataclass(slots=True)
class Level:
    """The query for one level of steps."""

    version: ModelVersion
    names: Mapping[str, str]
    steps: Sequence[tuple[int, StepShape]]
    carried: Sequence[str]
    refused: Mapping[int, Sequence[str]]
    """Place of a step -> the inputs that make a row invalid where they are infinite."""
    pivoted: dict[tuple[int, str, int, int, str], str] = field(default_factory=dict)
    """(step, name, item, output, column of the table) -> the column of the one row of parameters."""
    joins: list[tuple[exp.Select, str, exp.Expr]] = field(default_factory=list)
    """Queries to join, under a name, on a condition."""
    lets: tuple[list[exp.Expr], list[exp.Expr]] = field(default_factory=lambda: ([], []))
    """Columns worked out before the outputs, and others that read those: a value that is long and stands often."""
    flags: tuple[list[exp.Expr], list[exp.Expr]] = field(default_factory=lambda: ([], []))
    """Conditions under which a row is missing something, and under which it is invalid."""

    def around(self, rows: exp.Select, emit: Mapping[StepKind, Emit]) -> exp.Select:
        """Return the query around the one of the level before.

        Args:
            rows: That one.
            emit: What makes the columns of a step.
        """
        made = [
            sql.named(value, self.names[name])
            for place, step in self.steps
            for name, value in zip(step.outputs, emit[step.kind](self, place, step), strict=True)
        ]
        for place, _ in self.steps:
            for name in self.refused[place]:
                self.tell(1, is_infinite(sql.column(self.names[name], "fp_f")))
        flags = [
            sql.named(self._flag(name, conditions), name)
            for name, conditions in zip(FLAGS, self.flags, strict=True)
        ]  # fmt: skip
        for lets in self.lets:
            if lets:
                rows = sql.select_from([exp.Star(), *lets], rows)
        kept = [sql.column(name, "fp_f") for name in (*KEYS, *(self.names[each] for each in self.carried))]
        query = exp.Select(expressions=[*kept, *made, *flags]).from_(rows.subquery("fp_f", copy=False), copy=False)
        if self.pivoted:
            query = query.join(self._parameters().subquery("fp_p", copy=False), join_type="cross", copy=False)
        for joined, name, condition in self.joins:
            query = query.join(joined.subquery(name, copy=False), on=condition, join_type="left", copy=False)
        return query

    def input(self, step: StepShape, place: int = 0) -> exp.Expr:
        """Return a column that a step reads."""
        return sql.column(self.names[step.inputs[place]], "fp_f")

    def let(self, turn: int, value: exp.Expr) -> exp.Column:
        """Return a column of a value that is worked out before.

        Args:
            turn: 0, or 1 if the value reads what the turn before worked out.
            value: Of columns without the name of a table.
        """
        name = f"fp_l{turn}_{len(self.lets[turn])}"
        self.lets[turn].append(sql.named(value, name))
        return sql.column(name)

    def number(self, step: int, name: str, item: int = 0, output: int = 0, *, column: str = "value") -> exp.Expr:
        """Return a parameter of a step; `column`: text or number for the key that its row is for."""
        known = self.pivoted.setdefault((step, name, item, output, column), f"fp_p{len(self.pivoted)}")
        return sql.column(known, "fp_p")

    def tell(self, place: int, condition: exp.Expr) -> None:
        """Have rows flagged where a condition holds: as missing (0), as invalid (1)."""
        self.flags[place].append(condition)

    def _flag(self, name: str, conditions: Sequence[exp.Expr]) -> exp.Expr:
        before = sql.column(name, "fp_f")
        if not conditions:
            return before
        found = sql.case(sql.number(0), (sql.balanced(exp.Or, conditions), sql.number(1)))
        return sql.balanced(exp.Add, [before, found])

    def _parameters(self) -> exp.Select:
        columns = [sql.named(picked(*key), name) for key, name in self.pivoted.items()]
        return sql.stored(columns, self.version.parameter_tables[0], self.version.partition)

    def joined(self, place: int, step: StepShape) -> tuple[list[exp.Expr], exp.Expr]:
        """Join the rows of a map; return its values, and whether the input is none of its keys."""
        name, width = f"fp_m{place}", len(step.outputs)
        is_number = "key" in step.shapes
        key: exp.Expr = positive(sql.column("number")) if is_number else sql.column("text")
        values: list[exp.Expr] = [sql.column("value")]
        if width > 1:  # one row per key has to be made; with one output a key has one already, which Hive joins at once
            key, values = exp.Max(this=key), [picked(place, "values", None, output) for output in range(width)]
        columns = [sql.named(key, "fp_key"), *(sql.named(each, f"fp_v{at}") for at, each in enumerate(values))]
        rows = sql.stored(columns, self.version.parameter_tables[0], self.version.partition)
        of_values = exp.EQ(this=sql.column("name"), expression=exp.Literal.string("values"))
        rows = rows.where(exp.and_(sql.equals("step", place), of_values), copy=False)
        if width > 1:
            rows = rows.group_by(sql.column("item"), copy=False)
        joined = sql.column("fp_key", name)
        given = positive(self.input(step)) if is_number else self.input(step)
        self.joins.append((rows, name, exp.EQ(this=given, expression=joined)))
        return [sql.column(f"fp_v{output}", name) for output in range(width)], is_null(joined.copy())


def positive(value: exp.Expr) -> exp.Expr:
    """Return 0.0 for -0.0: a join may tell them apart."""
    return exp.Add(this=value, expression=sql.double("0"))


def picked(step: int, name: str, item: int | None, output: int | None, column: str = "value") -> exp.Expr:
    """Return the one value of some rows of the table, NULL for none; None: of any item or output that is grouped."""
    wanted = [sql.equals("step", step), exp.EQ(this=sql.column("name"), expression=exp.Literal.string(name))]
    if item is not None:
        wanted.append(sql.equals("item", item))
    if output is not None:
        wanted.append(sql.equals("output", output))
    return exp.Max(this=sql.case(exp.null(), (exp.and_(*wanted), sql.column(column))))


def is_null(value: exp.Expr) -> exp.Expr:
    """Return whether a value is NULL."""
    return exp.Is(this=value, expression=exp.null())


def is_infinite(value: exp.Expr) -> exp.Expr:
    """Return whether a value is infinite; NaN, which some engines hold for larger than all numbers, is not."""
    lowest = exp.Neg(this=sql.double(sql.LARGEST))
    return exp.LT(this=exp.Neg(this=exp.Abs(this=value)), expression=lowest)


Emit: TypeAlias = Callable[[Level, int, StepShape], list[exp.Expr]]
"""(the level, the place of a step, the step) -> its outputs."""

"""What the engines call the same thing by: the script language's functions, for each engine that has them.

sqlglot passes a function that it does not know on to the engine, so this table, not the parser, decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.script_types import DATE, DOUBLE, INT, TEXT, ScriptType, decimal

Render: TypeAlias = Callable[..., exp.Expr]

SECONDS = decimal(20, 6)
"""Of a time between two instants: exact to the microsecond."""

RANDOM = frozenset(
    {
        "currentdate", "currentdatetime", "currenttime", "currenttimestamp", "current_date", "current_timestamp",
        "currentuser", "gen_random_uuid", "getdate", "localtime", "localtimestamp", "now", "rand", "randn", "random",
        "sysdate", "today", "unix_timestamp", "uuid",
    }
)  # fmt: skip
"""What does not give the same answer twice."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language.

    Attributes:
        arguments: For each argument, the kinds of types that it takes.
        result: The type of what it gives.
        renders: Engine -> what makes the tree from the arguments' trees.
    """

    arguments: tuple[tuple[str, ...], ...]
    result: ScriptType
    renders: Mapping[str, Render]


def _call(name: str) -> Render:
    return lambda *arguments: exp.Anonymous(this=name, expressions=list(arguments))


def _as(value: exp.Expr, kind: ScriptType) -> exp.Expr:
    return exp.Cast(this=value, to=kind.sql)


def _everywhere(render: Render) -> dict[str, Render]:
    return dict.fromkeys(("duckdb", "spark", "hive"), render)


def _part(name: str) -> Function:
    kinds = ("timestamp",) if name in ("hour", "minute") else ("timestamp", "date")

    def render(value: exp.Expr) -> exp.Expr:
        return _as(exp.Extract(this=exp.Var(this=name.upper()), expression=value), INT)

    return Function((kinds,), INT, _everywhere(render))


def _days(name: str) -> Render:
    return lambda start, end: _as(_call(name)(_as(end, DATE), _as(start, DATE)), INT)


def _seconds(start: exp.Expr, end: exp.Expr) -> exp.Expr:
    since = [_as(each, SECONDS) for each in (end, start)]  # both servers give seconds since 1970, in UTC
    return _as(exp.Paren(this=exp.Sub(this=since[0], expression=since[1])), SECONDS)


def _seconds_duckdb(start: exp.Expr, end: exp.Expr) -> exp.Expr:
    micros = exp.Paren(this=exp.Sub(this=_call("EPOCH_US")(end), expression=_call("EPOCH_US")(start)))
    millionth = _as(exp.Literal.string("0.000001"), decimal(7, 6))
    return _as(exp.Paren(this=exp.Mul(this=_as(micros, decimal(20, 0)), expression=millionth)), SECONDS)


def _weekday_hive(value: exp.Expr) -> exp.Expr:
    # Hive's Sunday is 1
    shifted = exp.Paren(this=exp.Add(this=_call("DAYOFWEEK")(value), expression=sql.number(5)))
    return _as(exp.Add(this=exp.Mod(this=shifted, expression=sql.number(7)), expression=sql.number(1)), INT)


_TIMES = ("timestamp", "date")

FUNCTIONS: dict[str, Function] = {
    **{name: _part(name) for name in ("year", "month", "day", "hour", "minute")},
    "day_of_week": Function(
        (_TIMES,),
        INT,
        {
            "duckdb": lambda value: _as(_call("ISODOW")(value), INT),
            "spark": lambda value: _as(exp.Add(this=_call("WEEKDAY")(value), expression=sql.number(1)), INT),
            "hive": _weekday_hive,
        },
    ),
    "days_between": Function(
        (_TIMES, _TIMES),
        INT,
        {
            "duckdb": lambda start, end: _as(
                _call("DATE_DIFF")(exp.Literal.string("day"), _as(start, DATE), _as(end, DATE)), INT
            ),
            "spark": _days("DATEDIFF"),
            "hive": _days("DATEDIFF"),
        },
    ),
    "seconds_between": Function(
        (("timestamp",), ("timestamp",)),
        SECONDS,
        {"duckdb": _seconds_duckdb, "spark": _seconds, "hive": _seconds},
    ),
    "date_of": Function((("timestamp",),), DATE, _everywhere(lambda value: _as(value, DATE))),
    "trim": Function((("text",),), TEXT, _everywhere(_call("TRIM"))),
}
"""Functions of a row or of a group, by name; those that aggregate, and those whose type follows from their arguments,
are in `script_compile`."""


def newest(engine: str, time: exp.Expr, number: exp.Expr, value: exp.Expr, condition: exp.Expr) -> exp.Expr:
    """Return the value of the newest row that meets a condition: by its time, then by its number."""
    given = {"t": time, "i": number, "x": value}
    if engine == "duckdb":
        pairs = [exp.PropertyEQ(this=exp.to_identifier(name), expression=each) for name, each in given.items()]
        row: exp.Expr = exp.Struct(expressions=pairs)
    else:
        flat = [part for name, each in given.items() for part in (exp.Literal.string(name), each)]
        row = _call("NAMED_STRUCT")(*flat)
    largest = exp.Max(this=exp.Case(ifs=[exp.If(this=condition, true=row)]))
    if engine == "duckdb":
        return _call("STRUCT_EXTRACT")(largest, exp.Literal.string("x"))
    return exp.Dot(this=largest, expression=exp.to_identifier("x"))


def ratio(numerator: exp.Expr, divisor: exp.Expr) -> exp.Expr:
    """Return the quotient as a double; NULL where the divisor is zero."""
    whole = exp.Div(this=_as(numerator, DOUBLE), expression=_as(divisor.copy(), DOUBLE), typed=True)
    is_zero = exp.EQ(this=_as(divisor, DOUBLE), expression=sql.double("0"))
    return sql.case(whole, (is_zero, exp.Cast(this=exp.Null(), to=DOUBLE.sql)))

"""What of a view's raw tables cannot be used, counted in the engine: values of another type, keys that are no ids."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.tables import sql
from fedpredict.tables.script import declared_column, raw_table
from fedpredict.tables.script_types import TEXT, TIMESTAMP
from fedpredict.tables.script_view import ScriptSource

CONTROL = "fp_control"
"""The parameter for `CONTROL_CHARACTER`."""
CONTROL_CHARACTER = r"\p{Cc}"
"""As regular expressions of all engines say it."""
INSTANT = "fp_instant"
"""The parameter for the instant before which keys are counted."""

_MOST_BYTES_OF_ONE = 4


def is_no_id(text: exp.Expr) -> exp.Expr:
    """Return whether a text that is not empty can name no sample, as `model.ids` says; unknown of NULL."""
    control = exp.RegexpLike(this=text.copy(), expression=exp.Placeholder(this=CONTROL))
    # every engine gives the bytes of a text in hexadecimal digits, two each
    n_digits = exp.Length(this=exp.Anonymous(this="HEX", expressions=[text.copy()]))
    is_long = exp.and_(
        exp.GT(this=exp.Length(this=text.copy()), expression=sql.number(MAX_SAMPLE_ID_BYTES // _MOST_BYTES_OF_ONE)),
        exp.GT(this=n_digits, expression=sql.number(2 * MAX_SAMPLE_ID_BYTES)),
        copy=False,
    )
    return exp.Paren(this=exp.or_(control, is_long, copy=False))


def only_ids(query: exp.Select) -> exp.Select:
    """Return a compiled script's query without the rows of keys that are no ids; NULL and empty ones stay."""
    key = sql.column("sample_id")
    missing = exp.Is(this=key.copy(), expression=exp.Null())
    return query.where(exp.or_(missing, exp.Not(this=is_no_id(key)), copy=False))


def unread_query(source: ScriptSource, columns: Sequence[str]) -> exp.Select:
    """Return the query for how many values of columns there are (`given_0` ...), and can be read (`read_0` ...)."""
    counted = []
    for at, name in enumerate(columns):
        declared = declared_column(name, source.types[name])
        counted.append(sql.named(exp.Count(this=sql.column(name)), f"given_{at}"))
        counted.append(sql.named(exp.Count(this=declared), f"read_{at}"))
    return exp.Select(expressions=counted).from_(raw_table(source), copy=False)


def odd_keys_query(source: ScriptSource, key: str) -> exp.Select:
    """Return the query for the number of keys (`n`) that are no ids, of the events before an instant."""
    keys = exp.Count(this=exp.Distinct(expressions=[sql.column(key)]))
    query = exp.Select(expressions=[sql.named(keys, "n")]).from_(raw_table(source), copy=False)
    if source.event_time is not None:
        time = declared_column(source.event_time, source.types[source.event_time])
        instant = exp.Cast(this=exp.Placeholder(this=INSTANT), to=TIMESTAMP.sql)
        query = query.where(exp.LT(this=time, expression=instant), copy=False)
    return query.where(is_no_id(exp.Cast(this=sql.column(key), to=TEXT.sql)), copy=False)

"""`top` on a terminal: one table a kind of thing, numbers to the right, trouble in red."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedpredict.cli.output import as_text
from fedpredict.cli.top_sum import Row

Show = Callable[[object], str]

_GAP, _EDGES = 2, 2
"""Blanks between columns, and around a table."""
_TEXT = 14
"""Columns that a text keeps where the terminal is narrow."""


def _plain(value: object) -> str:
    return as_text(value)


def count(value: object) -> str:
    """Return a number as people read it.

    >>> count(0.0), count(3.14159), count(12345.6), count(2_500_000), count(None)
    ('0', '3.1', '12,346', '2,500,000', '-')
    """
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.1f}" if 0 < value < 10 and not isinstance(value, int) else f"{value:,.0f}"


def milliseconds(value: object) -> str:
    """Return milliseconds with three digits that count.

    >>> milliseconds(0.4321), milliseconds(12.34), milliseconds(1234.0), milliseconds(None)
    ('0.43', '12.3', '1,234', '-')
    """
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def size(value: object) -> str:
    """Return bytes in units of 1,000.

    >>> size(999), size(82_000_000), size(2_400_000_000), size(None)
    ('999 B', '82 MB', '2.4 GB', '-')
    """
    if not isinstance(value, int | float):
        return "-"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def age(value: object) -> str:
    """Return seconds as an age.

    >>> age(42.0), age(3_700.0), age(180_000.0), age(None)
    ('42 s', '1 h 1 min', '2 d 2 h', '-')
    """
    if not isinstance(value, int | float):
        return "-"
    if value < 60:
        return f"{value:.0f} s"
    minutes, hours, days = int(value // 60), int(value // 3600), int(value // 86400)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"


def percent(value: object) -> str:
    """Return a part of 1 in per cent.

    >>> percent(1.0), percent(0.9987), percent(None)
    ('100 %', '99.9 %', '-')
    """
    if not isinstance(value, int | float):
        return "-"
    return f"{100 * value:.0f} %" if value in (0, 1) else f"{100 * value:.1f} %"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: the row's key, its title, how values are written, and which of them are trouble."""

    key: str
    title: str
    show: Show = _plain
    justify: Literal["left", "right"] = "right"
    bad: Callable[[object], bool] = lambda _: False


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _text(key: str, title: str = "", bad: Callable[[object], bool] = lambda _: False) -> _Column:
    return _Column(key, title or key, _plain, "left", bad)


_PER_S = _Column("per_s", "per s", count)
_P50, _P99 = _Column("p50_ms", "p50 ms", milliseconds), _Column("p99_ms", "p99 ms", milliseconds)
_FAILED = _Column("failed_per_s", "failed/s", count, bad=_positive)

TABLES: Mapping[str, Sequence[_Column]] = {
    "servers": (
        _text("at", "server"),
        _text("state", bad=lambda value: value != "up"),
        _text("who", "is"),
        *(_PER_S, _P50, _P99, _FAILED),
        _Column("queue", "queue", count),
        _Column("in_flight", "rounds", count),
        _Column("connections", "conns", count),
        _Column("lag_p99_ms", "lag p99", milliseconds),
        _Column("memory_bytes", "memory", size),
    ),
    "models": (
        _text("model"),
        _text("mode"),
        _text("ready", bad=lambda value: value is False),
        *(_PER_S, _P50, _P99, _FAILED),
        _Column("rows_per_s", "rows/s", count),
        _Column("rounds_per_s", "rounds/s", count),
        _Column("requests_a_round", "req/round", count),
        _Column("rows_a_round", "rows/round", count),
    ),
    "shares": (
        _text("caller", "asked by"),
        _text("model"),
        *(_PER_S, _P50, _P99, _FAILED),
        _Column("rows_per_s", "rows/s", count),
        _Column("scored", "scored", percent),
    ),
    "parties": (
        _text("party"),
        _text("state", bad=lambda value: value == "away"),
        _text("carrier"),
        _Column("links", "links", count),
        *(_PER_S, _P50, _P99, _FAILED),
        _Column("reconnects", "reconnects", count),
    ),
    "stores": (
        _text("party", "store of"),
        _text("view"),
        _Column("view_version", "version"),
        _Column("age_s", "age", age),
        _Column("rows", "rows", count),
        _Column("bytes", "size", size),
    ),
}


def view(tables: Mapping[str, Sequence[Row]], note: str, width: int) -> RenderableType:
    """Return everything as one thing to print; tables without rows are left out.

    Args:
        tables: As `summed` returns them.
        note: A line at the end.
        width: Of the terminal; columns at the right that do not fit are left out.
    """
    rows = {**tables, "servers": [_named(row) for row in tables["servers"]]}
    shown = [_table(TABLES[name], rows[name], width) for name in TABLES if rows[name]]
    return Group(*shown, Text(note, style="dim"))


def _named(row: Row) -> Row:
    """Return a server's row with its address and what it is in a word each."""
    worker = f" #{row['worker']}" if row.get("worker", "0") not in ("0", "") else ""
    who = f"{row.get('role', '')} {row.get('party', '')}{worker}".strip()
    return {**row, "at": urlsplit(str(row["url"])).netloc, "who": who}


def _table(columns: Sequence[_Column], rows: Sequence[Row], width: int) -> Table:
    """Return a table whose numbers are whole: texts are cut where it is too wide, then the last columns left out."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    widest = [
        max(len(column.title), *(len(column.show(row.get(column.key))) for row in rows)) + _GAP for column in columns
    ]
    if sum(widest) > width - _EDGES:
        widest = [
            min(each, _TEXT + _GAP) if column.justify == "left" else each
            for each, column in zip(widest, columns, strict=True)
        ]
    left = width - _EDGES
    for column, needed in zip(columns, widest, strict=True):
        left -= needed
        if left < 0:
            break
        table.add_column(column.title, justify=column.justify, no_wrap=True, width=needed - _GAP)
    for row in rows:
        table.add_row(*(_cell(column, row.get(column.key)) for column in columns[: len(table.columns)]))
    return table


def _cell(column: _Column, value: object) -> Text:
    return Text(column.show(value), style="bold red" if column.bad(value) else "")

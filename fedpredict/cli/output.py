"""What commands print: tables and lines for people, or one JSON document for scripts (`--json`).

Results go to standard output; errors, notes and progress to standard error, so that a pipe gets results alone.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Annotated, TypeAlias

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""

Advance: TypeAlias = Callable[[int, int], None]
"""Told (steps done, steps in all) by whatever takes long."""

JsonFlag: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]


class Output:
    """Where a command's results go.

    Attributes:
        as_json: Whether results are one JSON document.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console = Console(
            file=sys.stdout, soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False
        )
        self._notes = Console(file=sys.stderr, stderr=True, soft_wrap=True, highlight=False)

    def rows(self, columns: Sequence[str], rows: Sequence[Mapping[str, object]], *, empty: str) -> None:
        """Print rows as a table, or as a JSON array of objects.

        Args:
            columns: What the table shows, in order; JSON has every key of every row.
            rows: One mapping per row.
            empty: What a person reads when there are no rows.
        """
        if self.as_json:
            self._print_json(list(rows))
        elif not rows:
            self.say(empty)
        else:
            self._console.print(_table(columns, rows))

    def fields(self, values: Mapping[str, object]) -> None:
        """Print one thing: `name: value` lines, or a JSON object."""
        if self.as_json:
            self._print_json(values)
            return
        width = max(len(name) for name in values) + 1
        for name, value in values.items():
            self.say(f"{(name + ':').ljust(width)} {as_text(value)}")

    def result(self, values: Mapping[str, object], text: str) -> None:
        """Print one result: a sentence for people, or a JSON object."""
        if self.as_json:
            self._print_json(values)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line of the result for people; nothing with `--json`."""
        if not self.as_json:
            self._console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line to standard error: never part of the result."""
        self._notes.print(text, markup=False)

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Advance]:
        """Show progress on standard error while the block runs: a bar, or a spinner where `total` is unknown.

        Nothing is shown unless standard error is a terminal.
        """
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._notes,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            task = bar.add_task(label, total=total)
            yield lambda done, of: bar.update(task, completed=done, total=of)

    def _print_json(self, value: object) -> None:
        self._console.file.write(json.dumps(jsonable(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def jsonable(value: object) -> object:
    """Return `value` as JSON can hold it: NaN and infinities as null, instants in ISO format, the rest as text.

    >>> jsonable({"score": float("nan"), "at": datetime(2026, 1, 2)})
    {'score': None, 'at': '2026-01-02T00:00:00'}
    """
    if isinstance(value, Enum):
        return value.name.lower() if isinstance(value, int) else value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


def as_text(value: object) -> str:
    """Return `value` as a person reads it in a line or a cell.

    >>> as_text(("hospital", "lab")), as_text(None), as_text(True), as_text(0.1)
    ('hospital, lab', '-', 'yes', '0.1')
    """
    if value is None or value in ("", (), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list | tuple):
        return ", ".join(as_text(inner) for inner in value)
    plain = jsonable(value)
    text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict) else str(plain)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    # what comes from files and peers must not steer the terminal
    return character if character.isprintable() else ascii(character)[1:-1]


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(Text(name.replace("_", " ")), overflow="fold")
    for row in rows:
        table.add_row(*(Text(as_text(row.get(name))) for name in columns))
    return table

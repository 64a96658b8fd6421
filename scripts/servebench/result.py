"""What a measurement says, as a line of `--json` and of the table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from servebench.wrk import Measured


@dataclass
class Line:
    """One line of the result.

    Attributes:
        work: What was done.
        connections: Connections, or calls under way.
        rows: Sample ids a request.
        tls: Whether the parties spoke mutual TLS.
        per_s: Requests a second, answered in full.
        non_ok: Answers that were not, and connections that failed.
        more: What this work says besides.
        problem: Why there are no numbers.
    """

    work: str
    connections: int
    rows: int
    tls: bool
    per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    non_ok: int | None = None
    more: dict[str, object] = field(default_factory=dict)
    problem: str = ""

    def document(self) -> dict[str, object]:
        """Return the line as `--json` prints it."""
        names = ("work", "connections", "rows", "tls", "per_s", "p50_ms", "p99_ms", "non_ok")
        found = {name: rounded(getattr(self, name)) for name in names}
        found |= {name: rounded(value) for name, value in self.more.items()}
        return found | ({"problem": self.problem} if self.problem else {})


def rounded(value: object) -> object:
    """Return a number with the digits that a measurement has."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def middle(runs: list[Measured]) -> Measured:
    """Return the medians of several runs, and the sum of what went wrong."""
    return Measured(
        per_s=median(run.per_s for run in runs),
        p50_ms=median(run.p50_ms for run in runs),
        p99_ms=median(run.p99_ms for run in runs),
        non_ok=sum(run.non_ok for run in runs),
        what=next((run.what for run in runs if run.what), ""),
    )


def line_of(work: str, connections: int, rows: int, measured: Measured, *, tls: bool, **more: object) -> Line:
    """Return the line of a measurement; what the first bad answer was goes along."""
    further = dict(more) | ({"first_bad": measured.what} if measured.non_ok and measured.what else {})
    return Line(
        work, connections, rows, tls, measured.per_s, measured.p50_ms, measured.p99_ms, measured.non_ok, further
    )


class Printer:
    """Prints lines as they come, or one table at the end; progress goes to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: list[Line] = []
        self._notes = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print progress."""
        self._notes.print(text, markup=False, style="dim")

    def add(self, line: Line) -> None:
        """Take a line."""
        self._lines.append(line)
        if self._as_json:
            print(json.dumps(line.document()), flush=True)

    def finish(self, machine: str) -> int:
        """Print the table; return 1 where an answer was wrong or a work failed, else 0."""
        if not self._as_json and self._lines:
            self._print_table(machine)
        failed = [line for line in self._lines if line.more.get("failed")]
        return 1 if failed else 0

    def _print_table(self, machine: str) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=machine)
        for name in ("work", "connections", "rows", "tls", "per s", "p50 ms", "p99 ms", "not ok", ""):
            table.add_column(name, justify="left" if name in ("work", "tls", "") else "right", overflow="fold")
        for line in self._lines:
            numbers = [_number(line.per_s), _number(line.p50_ms), _number(line.p99_ms)]
            more = ", ".join(f"{name} {_number(value)}" for name, value in line.more.items())
            table.add_row(
                line.work,
                str(line.connections),
                str(line.rows),
                "mutual" if line.tls else "off",
                *numbers,
                "" if line.non_ok is None else str(line.non_ok),
                Text(line.problem or more),  # what a server said is no markup
            )
        Console(highlight=False, width=None if sys.stdout.isatty() else 180).print(table)


def _number(value: object) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and value < 1000
        else (f"{value:,.0f}" if isinstance(value, float) else "" if value is None else str(value))
    )

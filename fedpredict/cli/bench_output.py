"""What `fedpredict bench` shows while it runs, prints, and saves."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fedpredict.cli.output import Output
from fedpredict.client.load import picture
from fedpredict.client.load.histogram import write_log
from fedpredict.client.load.record import Requests, Summary
from fedpredict.client.load.run import Progress as RunProgress
from fedpredict.errors import InputError

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}
PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Shown:
    """One rate's measurement.

    Attributes:
        summary: Its numbers.
        requests: What was measured, request by request.
        began: When it started.
    """

    summary: Summary
    requests: Requests
    began: datetime


class Watch:
    """A line on standard error that says how a run goes; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr, stderr=True, highlight=False),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("asking", total=None)
        self._rate, self._ended = 0.0, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, rate: float, seconds: float) -> None:
        """Start the line of a rate."""
        self._rate = rate
        self._bar.reset(self._task, total=seconds, description=f"{rate:,.0f}/s")

    def tick(self, progress: RunProgress) -> None:
        """Tell how far it is."""
        record = progress.record
        text = (
            f"{self._rate:,.0f}/s  ended {len(record):,}  under way {progress.under_way}  waiting {progress.waiting}  "
            f"p99 {record.recent_ms():.2f} ms  failed {record.failures():,}"
        )
        self._bar.update(self._task, completed=progress.elapsed_s, description=text)


def check_files(plot: Path | None, hdr: Path | None) -> None:
    """Raise an error where a result could not be saved, before anything is measured.

    Raises:
        InputError: No such folder, or no kind of picture.
        ConfigError: The library for pictures is missing.
    """
    if plot is not None:
        if plot.suffix.lower() not in PICTURES:
            raise InputError(f"{plot}: pictures are {', '.join(PICTURES)}; name the file so")
        picture.check_library()
    for path in (plot, hdr):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.absolute().parent}")


def save_files(shown: Sequence[Shown], plot: Path | None, hdr: Path | None, *, title: str) -> None:
    """Save the picture and the log, where they were asked for and something was measured."""
    if not shown:
        return
    if hdr is not None:
        write_log(hdr, [(_label(each.summary), each.began, each.requests) for each in shown])
    if plot is not None:
        picture.draw(plot, [picture.Drawn(_label(each.summary), each.summary, each.requests) for each in shown], title)


def print_results(
    output: Output,
    facts: Mapping[str, object],
    shown: Sequence[Shown],
    capacity: float | None,
    *,
    find: bool,
    limit_ms: float,
) -> None:
    """Print what was measured: a line per rate for people, one document for scripts."""
    rows = [row(each.summary) for each in shown]
    found = {"capacity_per_s": capacity, "limit_ms": limit_ms} if find else {}
    if output.as_json:
        output.fields({**facts, **found, "runs": rows})
    else:
        output.rows(("rate", "per_s", *PERCENTILES, "max_ms", "errors"), [_plain(each) for each in rows], empty="")
    if find:
        output.say(
            f"capacity: {capacity:,.0f} requests a second with p99 at most {limit_ms:g} ms"
            if capacity is not None
            else f"capacity: not found; even the lowest rate broke p99 at most {limit_ms:g} ms"
        )
    _note(output, [each.summary for each in shown])


def row(summary: Summary) -> dict[str, object]:
    """Return the numbers of one rate, by the names that `--json` gives them."""
    numbers: dict[str, object] = {"rate": summary.asked_per_s, "per_s": round(summary.per_s, 1)}
    numbers |= {name: summary.histogram.at_ms(percentile) for name, percentile in PERCENTILES.items()}
    return numbers | {
        "max_ms": summary.histogram.max_ms(),
        "ok": summary.ok,
        "errors": dict(summary.errors),
        "seconds": round(summary.seconds, 3),
        "interrupted": summary.interrupted,
        "generator": {
            "lag_p99_ms": round(summary.lag_p99_s * 1e3, 3),
            "busy": round(summary.busy, 3),
            "limited": summary.generator_limited,
        },
    }


def _label(summary: Summary) -> str:
    return f"{summary.asked_per_s:g}/s"


def _plain(numbers: Mapping[str, object]) -> dict[str, object]:
    errors = numbers["errors"]
    shown = {**numbers, "rate": f"{numbers['rate']:g}", "per_s": f"{numbers['per_s']:,.1f}"}
    shown |= {name: f"{value:.2f}" for name, value in numbers.items() if name.endswith("_ms") and value is not None}
    assert isinstance(errors, dict)  # noqa: S101  what `row` puts there
    return {**shown, "errors": ", ".join(f"{count} {kind}" for kind, count in errors.items())}


def _note(output: Output, summaries: Sequence[Summary]) -> None:
    for each in summaries:
        if each.interrupted:
            output.note(f"{_label(each)}: interrupted; these are the requests that had ended by then")
    limited = [each for each in summaries if each.generator_limited]
    if limited:
        found = "; ".join(
            f"at {_label(each)} its loop was {each.lag_p99_s * 1e3:.1f} ms late at p99 and used {each.busy:.0%} of a "
            "processor"
            for each in limited
        )
        output.note(
            f"the GENERATOR itself was a bottleneck: {found}. The server may be faster than this says: give the "
            "generator a machine with processors to spare, or run several at a lower rate each"
        )

"""The picture of a run: latency by percentile, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpredict.client.load.record import Requests, Summary
from fedpredict.errors import ConfigError, InputError

NINES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
SHORTEST_S = 0.2
MAX_MARKS = 60
"""Of the line over time, so that a long run stays a line."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One run of a picture.

    Attributes:
        label: What the legend says.
        summary: Its numbers.
        requests: Its requests.
    """

    label: str
    summary: Summary
    requests: Requests


def check_library() -> None:
    """Raise `ConfigError`, with what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415  an optional dependency
    except ImportError as error:
        raise ConfigError("a picture needs the extra bench: pip install 'fedpredict[bench]'") from error


def draw(path: Path, runs: Sequence[Drawn], title: str) -> None:
    """Save the picture of some runs.

    Args:
        path: The file; its suffix says the format.
        runs: At least one.
        title: What was measured.

    Raises:
        InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(12.5, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    by_percentile, over_time = figure.subplots(1, 2)
    for run in runs:
        if len(run.summary.histogram):
            _draw_percentiles(by_percentile, run)
            _draw_over_time(over_time, run, alone=len(runs) == 1)
    _finish(by_percentile, over_time)
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def _draw_percentiles(axis: Any, run: Drawn) -> None:
    count = len(run.summary.histogram)
    # beyond one in `count` there is nothing that was measured
    depth = np.linspace(0.0, max(np.log10(count), 0.31), 200)
    places = 1.0 - 10.0**-depth
    axis.plot(10.0**depth, run.summary.histogram.curve((100.0 * places).tolist()), label=run.label)


def _draw_over_time(axis: Any, run: Drawn, *, alone: bool) -> None:
    counted = run.requests.waited()
    step = max(SHORTEST_S, run.summary.seconds / MAX_MARKS)
    interval = (counted.due_s // step).astype(np.int64)
    numbers = np.unique(interval)
    when = (numbers + 0.5) * step
    parts = [counted.took_s[interval == number] * 1e3 for number in numbers]
    for percentile, style in ((50.0, "-"), (99.0, "--"), (100.0, ":")) if alone else ((99.0, "-"),):
        name = "max" if percentile == 100.0 else f"p{percentile:.0f}"
        label = name if alone else f"{name} at {run.label}"
        axis.plot(when, [np.percentile(part, percentile) for part in parts], style, marker=".", label=label)


def _finish(by_percentile: Any, over_time: Any) -> None:
    limit = max([10.0, *(line.get_xdata()[-1] for line in by_percentile.get_lines())])
    shown = [nine for nine in NINES if 1.0 / (1.0 - nine) <= limit * 1.01]
    by_percentile.set_xscale("log")
    by_percentile.set_xticks([1.0 / (1.0 - nine) for nine in shown], [f"{100.0 * nine:g} %" for nine in shown])
    by_percentile.minorticks_off()
    by_percentile.set(xlabel="percentile of requests", ylabel="ms from when a request was due", yscale="log")
    over_time.set(xlabel="s from the start of measuring, by when a request was due", ylabel="ms", yscale="log")
    for axis in (by_percentile, over_time):
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        axis.grid(visible=True, which="major", alpha=0.4)
        if axis.get_lines():
            axis.legend()

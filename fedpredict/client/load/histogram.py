"""HDR histograms of latencies: the only module that knows the library (extra `bench`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpredict.errors import ConfigError, InputError
from fedpredict.model.arrays import Floats

if TYPE_CHECKING:
    from fedpredict.client.load.record import Requests

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
MAX_UNIT = 1e3


class Histogram:
    """Latencies to three significant digits, from a microsecond to an hour."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return int(self.inner.get_total_count())

    def at_ms(self, percentile: float) -> float | None:
        """Return a percentile in milliseconds, None where nothing was recorded."""
        return self.inner.get_value_at_percentile(percentile) / 1e3 if len(self) else None

    def max_ms(self) -> float | None:
        """Return the longest in milliseconds, None where nothing was recorded."""
        return self.inner.get_max_value() / 1e3 if len(self) else None

    def curve(self, percentiles: Sequence[float]) -> list[float]:
        """Return the milliseconds at several percentiles."""
        return [self.inner.get_value_at_percentile(each) / 1e3 for each in percentiles]


def check_library() -> None:
    """Raise `ConfigError`, with what to install, where the library is missing."""
    try:
        import hdrh.histogram  # noqa: F401, PLC0415  an optional dependency
    except ImportError as error:
        raise ConfigError("percentiles need the extra bench: pip install 'fedpredict[bench]'") from error


def histogram_of(seconds: Floats) -> Histogram:
    """Return the histogram of some latencies.

    >>> histogram_of(np.arange(1, 1001) / 1e3).at_ms(50.0)
    500.223
    """
    check_library()
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415

    inner = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    microseconds = np.clip(np.rint(seconds * 1e6), LOWEST_US, HIGHEST_US - 1).astype(np.int64)
    values, counts = np.unique(microseconds, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        inner.record_value(value, count)
    return Histogram(inner)


def write_log(path: Path, runs: Sequence[tuple[str, datetime, Requests]], interval_s: float = 1.0) -> None:
    """Write a standard HDR histogram log: one histogram a second, in microseconds, tagged by run where there are many.

    Args:
        path: The file; replaced.
        runs: (tag, when it started, its requests) each.
        interval_s: The length of an interval.

    Raises:
        InputError: The file cannot be written.
    """
    from hdrh.log import HistogramLogWriter  # noqa: PLC0415

    try:
        with path.open("w", encoding="ascii") as file:
            writer = HistogramLogWriter(file)
            writer.output_log_format_version()
            start = runs[0][1] if runs else datetime.now(UTC)
            # the library's own output_start_time fails (it calls iso_format)
            writer.output_comment(f"[StartTime: {start.timestamp():.3f} (seconds since epoch), {start.isoformat()}]")
            writer.output_comment("microseconds from when a request was due; Interval_Max in milliseconds")
            writer.output_legend()
            for tag, began, requests in runs:
                offset = (began - start).total_seconds()
                for begin, histogram in _intervals(requests, interval_s):
                    file.write(f"Tag={tag}," if len(runs) > 1 else "")
                    # the library takes a start of 0 from the histogram
                    histogram.inner.set_start_time_stamp((offset + begin) * 1e3)
                    writer.output_interval_histogram(
                        histogram.inner, offset + begin, offset + begin + interval_s, MAX_UNIT
                    )
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _intervals(requests: Requests, interval_s: float) -> Iterator[tuple[float, Histogram]]:
    counted = requests.waited()
    interval = (counted.due_s // interval_s).astype(np.int64)
    for number in np.unique(interval).tolist():
        yield number * interval_s, histogram_of(counted.took_s[interval == number])

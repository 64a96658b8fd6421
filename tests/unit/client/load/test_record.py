"""Percentiles and counts, against values computed by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hdrh.log import HistogramLogReader

from fedpredict.client.load.histogram import histogram_of, write_log
from fedpredict.client.load.record import LOST, NO_NUMBER, OK, TIMEOUT, Record, summarise
from fedpredict.errors import InputError


@pytest.mark.parametrize(
    ("percentile", "milliseconds"),
    [
        # 1 ms to 1,000 ms, each once. HDR with 3 digits has 2,048 buckets per power of two: values from 2^18 to 2^19 us
        # are told to 256 us, from 2^19 to 2^20 to 512 us, and a percentile is the largest value of its bucket
        (1.0, 10_000 // 8 * 8 + 7),
        (10.0, 100_000 // 64 * 64 + 63),
        (50.0, 500_000 // 256 * 256 + 255),
        (90.0, 900_000 // 512 * 512 + 511),
        (99.0, 990_000 // 512 * 512 + 511),
        (99.9, 999_000 // 512 * 512 + 511),
    ],
)
def test_percentiles_are_those_of_hdr(percentile: float, milliseconds: int) -> None:
    histogram = histogram_of(np.arange(1, 1_001) / 1e3)

    assert histogram.at_ms(percentile) == milliseconds / 1e3


def test_an_hour_and_more_is_an_hour_and_less_than_a_microsecond_is_one() -> None:
    histogram = histogram_of(np.array([1e-9, 9_999.0]))

    assert histogram.at_ms(50.0) == 0.001
    assert histogram.max_ms() == pytest.approx(3_600_000.0, rel=1e-3)


def test_nothing_recorded_has_no_percentile() -> None:
    histogram = histogram_of(np.array([]))

    assert (histogram.at_ms(99.0), histogram.max_ms(), len(histogram)) == (None, None, 0)


def test_what_was_due_in_the_warm_up_does_not_count() -> None:
    record = Record()
    for due, took in [(0.5, 4.0), (1.5, 0.010), (2.5, 0.020)]:
        record.add(due, took, OK)

    summary = summarise(record, asked_per_s=1.0, since_s=1.0, until_s=3.0, busy=0.0)

    assert summary.ok == 2
    assert summary.histogram.max_ms() == pytest.approx(20.0, rel=1e-3)


def test_the_rate_achieved_counts_answers_as_they_came() -> None:
    record = Record()
    # due evenly, answered at a tenth of the pace: the server falls behind, and most answers come after the end
    for number in range(100):
        record.add(number * 0.1, number * 0.9, OK)

    summary = summarise(record, asked_per_s=10.0, since_s=0.0, until_s=10.0, busy=0.0)

    assert (summary.ok, summary.per_s) == (100, 1.0)


def test_a_refusal_is_an_error_and_not_a_fast_answer() -> None:
    record = Record()
    for number in range(99):
        record.add(number / 10, 0.0001, "HTTP 429")
    record.add(9.9, 0.5, OK)

    summary = summarise(record, asked_per_s=10.0, since_s=0.0, until_s=20.0, busy=0.0)

    assert (summary.ok, summary.errors) == (1, {"HTTP 429": 99})
    assert summary.histogram.at_ms(1.0) == pytest.approx(500.0, rel=1e-3)


def test_who_gave_up_waited_at_least_so_long() -> None:
    record = Record()
    for kind, took in [(OK, 0.001), (NO_NUMBER, 0.002), (LOST, 0.003), (TIMEOUT, 5.0)]:
        record.add(1.0, took, kind)

    summary = summarise(record, asked_per_s=1.0, since_s=0.0, until_s=2.0, busy=0.0)

    assert len(summary.histogram) == 3
    assert summary.histogram.max_ms() == pytest.approx(5_000.0, rel=1e-3)
    assert summary.errors == {NO_NUMBER: 1, LOST: 1, TIMEOUT: 1}


@pytest.mark.parametrize(
    ("lags", "busy", "limited"),
    [([0.0001] * 100, 0.3, False), ([0.0001] * 90 + [0.02] * 10, 0.3, True), ([0.0001] * 100, 0.97, True)],
)
def test_a_generator_that_is_late_or_busy_is_told(lags: list[float], busy: float, limited: bool) -> None:
    record = Record()
    record.add(0.0, 0.001, OK)
    record.lag.extend(lags)

    summary = summarise(record, asked_per_s=1.0, since_s=0.0, until_s=1.0, busy=busy)

    assert summary.generator_limited is limited


def test_a_server_cannot_invent_more_kinds_than_are_counted() -> None:
    record = Record()
    for number in range(1_000):
        record.add(0.0, 0.001, f"HTTP {number}")

    record.add(0.0, 0.001, OK)
    record.add(0.0, 0.001, "HTTP 0")

    counts = record.table().counts()

    assert sum(counts.values()) == 1_002
    assert counts["other"] > 700
    assert (counts[OK], counts["HTTP 0"], record.failures()) == (1, 2, 1_001)


def test_a_log_is_read_back_by_the_library_second_by_second(tmp_path: Path) -> None:
    record = Record()
    for number in range(40):
        record.add(number * 0.1, 0.001 * (number + 1), OK)
    began = datetime(2026, 11, 26, tzinfo=UTC)
    path = tmp_path / "run.hlog"

    write_log(path, [("a", began, record.table()), ("b", began + timedelta(seconds=10), record.table())])

    from hdrh.histogram import HdrHistogram

    reader = HistogramLogReader(str(path), HdrHistogram(1, 3_600_000_000, 3))
    found = []
    while (interval := reader.get_next_interval_histogram()) is not None:
        found.append((interval.get_tag(), interval.get_start_time_stamp() % 60_000, interval.get_total_count()))
    reader.close()
    assert [(tag, count) for tag, _, count in found] == [("a", 10)] * 4 + [("b", 10)] * 4
    assert [start for _, start, _ in found] == [0, 1_000, 2_000, 3_000, 10_000, 11_000, 12_000, 13_000]


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_log(tmp_path, [])

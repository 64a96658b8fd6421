from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from fedpredict.warehouse.hive_results import ResultColumn, arrow_column, arrow_table


def test_null_bits_run_from_the_lowest_and_may_end_early() -> None:
    column = arrow_column(ResultColumn("x", "DOUBLE_TYPE"), [float(at) for at in range(10)], bytes([0b00000101]))

    assert column.to_pylist() == [None, 1.0, None, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_timestamps_are_utc_with_microseconds() -> None:
    texts = ["1969-12-31 23:59:59.999999999", "2026-01-02 03:04:05", "2026-01-02 03:04:05.5", ""]

    column = arrow_column(ResultColumn("t", "TIMESTAMP_TYPE"), texts, bytes([0b1000]))

    assert column.to_pylist() == [
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2026, 1, 2, 3, 4, 5, 0, UTC),
        datetime(2026, 1, 2, 3, 4, 5, 500000, UTC),
        None,
    ]


def test_a_timestamp_beyond_the_year_9999_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        arrow_column(ResultColumn("t", "TIMESTAMP_TYPE"), ["+10000-01-01 05:44:59.999999"], b"")


def test_types_that_are_not_ours_come_as_text() -> None:
    column = arrow_column(ResultColumn("d", "DECIMAL_TYPE"), ["1.50"], b"")

    assert column.type == pa.string()


def test_a_result_without_rows_keeps_its_columns() -> None:
    table = arrow_table([ResultColumn("n", "INT_TYPE"), ResultColumn("s", "STRING_TYPE")], [])

    assert table.schema == pa.schema([("n", pa.int32()), ("s", pa.string())])
    assert table.num_rows == 0

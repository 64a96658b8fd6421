from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import InputError
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.hive_literals import bound, literal, quoted


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, ColumnType.DOUBLE, "CAST(NULL AS DOUBLE)"),
        (5e-324, ColumnType.DOUBLE, "CAST('5e-324' AS DOUBLE)"),
        (-0.0, ColumnType.DOUBLE, "CAST('-0.0' AS DOUBLE)"),
        (math.nan, ColumnType.DOUBLE, "CAST('NaN' AS DOUBLE)"),
        (math.inf, ColumnType.DOUBLE, "CAST('Infinity' AS DOUBLE)"),
        (-math.inf, ColumnType.DOUBLE, "CAST('-Infinity' AS DOUBLE)"),
        (-(2**63), ColumnType.BIGINT, "CAST('-9223372036854775808' AS BIGINT)"),
        (7, ColumnType.INT, "CAST('7' AS INT)"),
        (True, ColumnType.BOOLEAN, "TRUE"),
        ("plain", ColumnType.STRING, "'plain'"),
        ("a'b\\", ColumnType.STRING, "'a\\u0027b\\u005c'"),
        ("😀", ColumnType.STRING, "'\\ud83d\\ude00'"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), ColumnType.TIMESTAMP, "TIMESTAMP'2026-01-02 03:04:05.000006'"),
        (
            datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=8))),
            ColumnType.TIMESTAMP,
            "TIMESTAMP'2025-12-31 16:00:00.000000'",
        ),
    ],
)
def test_a_value_has_one_literal(value: object, kind: ColumnType, text: str) -> None:
    assert literal(value, kind) == text


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, ColumnType.DOUBLE),
        (1.0, ColumnType.INT),
        (True, ColumnType.INT),
        ("1", ColumnType.DOUBLE),
        (1, ColumnType.STRING),
        (1, ColumnType.BOOLEAN),
        (datetime(2026, 1, 1), ColumnType.TIMESTAMP),  # noqa: DTZ001 - no zone is the point
    ],
)
def test_a_value_of_another_type_is_refused(value: object, kind: ColumnType) -> None:
    with pytest.raises(InputError):
        literal(value, kind)


@given(st.text())
def test_a_text_cannot_leave_its_quotes(text: str) -> None:
    inner = quoted(text)[1:-1]

    assert re.fullmatch(r"(?:\\u[0-9a-f]{4}|[^'\\\"`$%;])*", inner)
    assert inner.isascii()


@given(st.text())
def test_a_text_is_what_java_reads_from_its_literal(text: str) -> None:
    inner = quoted(text)[1:-1]

    units = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), inner)

    assert units.encode("utf-16-be", "surrogatepass").decode("utf-16-be") == text


def test_parameters_are_typed_by_their_values() -> None:
    assert [bound(value) for value in (None, 1, 0.5, "x")] == [
        "NULL", "CAST('1' AS BIGINT)", "CAST('0.5' AS DOUBLE)", "'x'",
    ]  # fmt: skip

"""How far back scripts look."""

from __future__ import annotations

import pytest

from fedpredict.tables.script_shape import parse_shape
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.script_window import Window, window_of

DAY = 86_400
VIEW = ScriptView.model_validate({
    "name": "v",
    "key": "who",
    "sources": {
        "t": {
            "table": "raw",
            "event_id": "id",
            "event_time": "at",
            "columns": {"id": "text", "at": "timestamp", "other": "timestamp", "who": "text", "x": "int"},
        },
        "d": {"table": "dim", "kind": "dimension", "key": ["x"], "columns": {"x": "int", "y": "int"}},
    },
    "features": {"a": {"type": "number"}, "b": {"type": "number"}},
})  # fmt: skip
DAYS_2 = "COUNT(*) FILTER (WHERE t.at >= :as_of - INTERVAL '2' DAY)"


def window(a: str, b: str = DAYS_2, rest: str = "") -> Window | None:
    return window_of(parse_shape(VIEW, f"SELECT t.who, {a} AS a, {b} AS b FROM t {rest} GROUP BY t.who"))


@pytest.mark.parametrize(
    ("output", "seconds"),
    [
        ("COUNT_IF(t.at >= :as_of - INTERVAL '3' DAY AND t.x > 1)", 3 * DAY),
        ("COUNT_IF(t.x > 1 AND (:as_of - INTERVAL '3' DAY < t.at))", 3 * DAY),
        ("COUNT_IF(t.x > 1) FILTER (WHERE t.at > :as_of - INTERVAL '4' DAY)", 4 * DAY),
        ("COUNT_IF(t.at >= :as_of - INTERVAL '5' DAY) FILTER (WHERE t.at > :as_of - INTERVAL '9' DAY)", 5 * DAY),
        ("SUM(t.x) FILTER (WHERE t.at BETWEEN :as_of - INTERVAL '2' WEEK AND :as_of)", 14 * DAY),
        ("RATIO(COUNT_IF(t.at >= :as_of - INTERVAL '8' DAY), COUNT_IF(t.at > :as_of - INTERVAL '1' HOUR))", 8 * DAY),
        ("LAST(t.x) FILTER (WHERE at >= :as_of - INTERVAL '1' HOUR)", 2 * DAY),
        ("MAX(CASE WHEN t.at >= :as_of - INTERVAL '6' DAY THEN t.x WHEN t.at > :as_of THEN 0 END)", 6 * DAY),
        # no such aggregate, no such column, no such side, or one of two: everything counts
        ("COUNT(*)", None),
        ("MAX(t.x)", None),
        ("MAX(CASE WHEN t.at >= :as_of - INTERVAL '1' DAY THEN t.x ELSE 0 END)", None),
        ("MAX(CASE WHEN t.at >= :as_of - INTERVAL '1' DAY THEN t.x WHEN t.x > 0 THEN 0 END)", None),
        ("COUNT_IF(t.other >= :as_of - INTERVAL '1' DAY)", None),
        ("COUNT_IF(t.at < :as_of - INTERVAL '1' DAY)", None),
        ("COUNT_IF(t.at >= :as_of - INTERVAL '1' DAY OR t.x > 1)", None),
        ("COUNT_IF(NOT t.at >= :as_of - INTERVAL '1' DAY)", None),
        ("COUNT_IF(t.at >= TIMESTAMP '2024-01-01 00:00:00')", None),
        ("RATIO(COUNT_IF(t.at >= :as_of - INTERVAL '8' DAY), SUM(t.x))", None),
    ],
)
def test_the_longest_window_of_all_aggregates_counts_and_older_events_make_the_row(
    output: str, seconds: int | None
) -> None:
    assert window(output) == (None if seconds is None else Window(seconds, needs_older=True))


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("WHERE t.at >= :as_of - INTERVAL '30' DAY", Window(30 * DAY, needs_older=False)),
        ("WHERE t.x > 0 AND t.at > :as_of - INTERVAL '30' DAY", Window(30 * DAY, needs_older=False)),
        # an older event makes a row only where it meets the condition
        ("WHERE t.x > 0", None),
        ("JOIN d ON d.x = t.x", None),
        ("LEFT JOIN d ON d.x = t.x", Window(2 * DAY, needs_older=True)),
    ],
)
def test_a_where_bounds_all(rest: str, found: Window | None) -> None:
    assert window(DAYS_2, rest=rest) == found
    if rest.startswith("WHERE t.at"):
        assert window("SUM(t.x)", rest=rest) == found

"""Every function of the script language gives the same in every engine, over random rows of every type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedpredict.features.view_fixture import generated, run_fixture
from fedpredict.features.view_test import differences
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse

pytestmark = pytest.mark.timeout(600)

OUTPUTS = {
    "n_all": "COUNT(*)",
    "n_text": "COUNT(e.s)",
    "n_texts": "COUNT(DISTINCT e.s)",
    "n_days": "COUNT_DISTINCT(DATE_OF(e.at))",
    "n_true": "COUNT_IF(e.b)",
    "n_untrue": "COUNT_IF(NOT e.b)",
    "n_neither": "COUNT_IF(e.b OR e.n IS NULL)",
    "n_both": "COUNT_IF(e.b AND e.d > 0) FILTER (WHERE e.s <> 'a')",
    "n_spaced": "COUNT_IF(TRIM(e.s) = 'a')",
    "n_quoted": "COUNT_IF(e.s IN ('it''s', 'é', ''))",
    "n_between": "COUNT_IF(e.n BETWEEN -1 AND 2.5)",
    "n_dates": "COUNT_IF(e.born >= DATE '2023-02-28')",
    "n_since": "COUNT_IF(e.at >= TIMESTAMP '2024-02-29 00:00:00')",
    "n_window": "COUNT_IF(e.at >= :as_of - INTERVAL '1' WEEK)",
    "sum_x": "SUM(e.x)",
    "sum_n": "SUM(e.n)",
    "sum_calc": "SUM(e.x * 3 - e.n + 0.125)",
    "sum_double": "SUM(e.d * e.x)",
    "avg_x": "AVG(e.x)",
    "avg_n": "AVG(e.n) FILTER (WHERE e.at >= :as_of - INTERVAL '1' DAY)",
    "min_x": "MIN(e.x)",
    "max_d": "MAX(e.d)",
    "max_abs": "MAX(ABS(e.n - 50))",
    "negative": "MIN(-e.x)",
    "last_n": "LAST(e.n)",
    "last_d": "LAST(e.d) FILTER (WHERE e.b)",
    "last_x": "LAST(e.x)",
    "share": "RATIO(SUM(e.x) FILTER (WHERE e.s = 'a'), SUM(e.x))",
    "nothing": "RATIO(COUNT(*), COUNT(*) - COUNT(*))",
    "nulled": "NULLIF(COUNT(e.n), 3)",
    "filled": "COALESCE(MAX(e.n) FILTER (WHERE e.s = 'no such'), -1)",
    "cased": "CASE WHEN COUNT(*) > 2 THEN SUM(e.x) WHEN MAX(e.b_text) IS NULL THEN 1 ELSE 0.5 END",
    "parts": "SUM(YEAR(e.at) * 1000 + MONTH(e.at) * 100 + EXTRACT(DAY FROM e.at))",
    "clock": "SUM(HOUR(e.at) * 60 + MINUTE(e.at))",
    "weekday": "SUM(DAY_OF_WEEK(e.at) * 10 + DAY_OF_WEEK(e.born))",
    "days": "SUM(DAYS_BETWEEN(e.born, e.at))",
    "seconds": "SUM(SECONDS_BETWEEN(e.at, :as_of))",
    "dimension": "SUM(k.weight) FILTER (WHERE k.open OR k.born IS NULL)",
}
TEXTS = {
    "last_s": "LAST(e.s)",
    "last_wide": "LAST(CAST(e.n AS VARCHAR))",
    "kind": "CASE WHEN COUNT_IF(e.b) > 0 THEN 'some' ELSE 'it''s none' END",
}
EVENTS = {
    "id": "int", "at": "timestamp", "who": "text", "x": "decimal(12,2)", "n": "int", "d": "double", "s": "text",
    "b": "boolean", "born": "date", "b_text": "int",
}  # fmt: skip
SOURCES = {
    "e": {"table": "raw_e", "event_id": "id", "event_time": "at", "columns": EVENTS},
    "k": {
        "kind": "dimension",
        "table": "dim_k",
        "key": ["s"],
        "columns": {"s": "text", "weight": "decimal(6,3)", "open": "boolean", "born": "date"},
    },
}


def view_with(outputs: dict[str, str], kind: str) -> tuple[ScriptView, str]:
    """Return a view of these outputs, and its script."""
    features = {name: {"type": kind} for name in outputs}
    columns = ", ".join(f"{output} AS {name}" for name, output in outputs.items())
    script = f"SELECT e.who, {columns} FROM e LEFT JOIN k ON k.s = e.s WHERE e.s IS NULL OR e.s <> 'A' GROUP BY e.who"
    return ScriptView.model_validate({"name": "all", "key": "who", "sources": SOURCES, "features": features}), script


def parts(outputs: dict[str, str], size: int) -> list[dict[str, str]]:
    """Return the outputs in parts: Spark takes minutes to plan one query with all of them."""
    names = list(outputs)
    return [{name: outputs[name] for name in names[at : at + size]} for at in range(0, len(names), size)]


@pytest.fixture
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    warehouse = LocalWarehouse(tmp_path_factory.mktemp("embedded"))
    yield warehouse
    warehouse.close()


def test_every_function_gives_the_same_in_every_engine(warehouse: Warehouse, embedded: Warehouse) -> None:
    told = []
    for outputs, kind in [*((part, "number") for part in parts(OUTPUTS, 13)), (TEXTS, "text")]:
        view, script = view_with(outputs, kind)
        fixture = generated(view, 11)
        here = run_fixture(embedded, view, script, fixture)
        assert len(here) > 4
        told += differences(view, here, run_fixture(warehouse, view, script, fixture), warehouse.engine.name)

    assert told == []

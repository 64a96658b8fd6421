from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.errors import StatementError, TableCorruptError
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.tables.models import ModelVersion, publish_model
from fedpredict.tables.statements import partial_scores_query, score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
VIEW = FeatureView("bank", 1, tuple(ViewFeature(n, n, ColumnType.DOUBLE) for n in ("a", "b")), "id", None)


def publish(warehouse: LocalWarehouse, weights: list[list[float]]) -> ModelVersion:
    part = LinearPart(("a", "b"), np.array(weights), np.full(len(weights[0]), 0.123456789), np.zeros(len(weights[0])))
    partial = PartialModel("m", "run", "lab", Kind.LINEAR, (), True, part)
    return publish_model(warehouse, partial, VIEW, "a" * 64)[0]


def snapshot_of(warehouse: LocalWarehouse, a: list[float | None], b: list[float | None]) -> Snapshot:
    rows = pa.table(
        {
            "sample_id": pa.array([f"u{number}" for number in range(len(a))], pa.string()),
            "event_time": pa.array([NOON] * len(a), pa.timestamp("us", tz="UTC")),
            "a": pa.array(a, pa.float64()),
            "b": pa.array(b, pa.float64()),
        }
    )
    return publish_snapshot(warehouse, VIEW, snapshot_name(NOON), rows)


@pytest.mark.parametrize("dialect", ["duckdb", "hive", "spark"])
def test_the_statement_holds_no_weight_and_no_name_of_a_model(warehouse: LocalWarehouse, dialect: str) -> None:
    version = publish(warehouse, [[0.987654321], [-0.5]])

    statement, params = partial_scores_query(version, snapshot_of(warehouse, [1.0], [2.0]))
    sql = statement.sql(dialect=dialect, identify=True)

    assert set(params.values()) == {"m", version.params_sha256, 1, "20261122T120000.000000Z"}
    assert set(re.findall(r"(?<![\w.])\d[\w.]*", sql)) <= {"0", "1", "3", "4", "7", "1.7976931348623157e308"}
    assert "QUALIFY" not in sql
    assert "isnan" not in sql.lower()
    assert sqlglot.parse_one(sql, dialect=dialect) is not None


def test_no_snapshot_row_gives_no_score(warehouse: LocalWarehouse) -> None:
    rows = score_in_engine(warehouse, publish(warehouse, [[1.0], [1.0]]), snapshot_of(warehouse, [], []))

    assert rows.num_rows == 0
    assert rows.column_names == ["sample_id", "event_time", "status", "scores"]


def test_a_sample_without_a_score_has_null_for_all_outputs(warehouse: LocalWarehouse) -> None:
    version = publish(warehouse, [[1.0, 1.0, 1e300], [0.0, 0.0, 1e300]])

    rows = score_in_engine(warehouse, version, snapshot_of(warehouse, [1.0, 1e10, None], [0.0, 0.0, 0.0]))

    assert rows.column("status").to_pylist() == [
        SampleStatus.OK, SampleStatus.OUT_OF_RANGE, SampleStatus.FEATURE_MISSING,
    ]  # fmt: skip
    assert rows.column("scores").to_pylist() == [[1.123456789, 1.123456789, 1e300], None, None]


def test_parameters_that_are_gone_are_an_error_and_not_an_empty_answer(warehouse: LocalWarehouse) -> None:
    version, snapshot = publish(warehouse, [[1.0], [1.0]]), snapshot_of(warehouse, [1.0], [1.0])
    empty = pa.table({"output": pa.array([], pa.int32())})
    warehouse.replace(version.parameter_tables[0], version.partition, empty)

    with pytest.raises(TableCorruptError, match="model m; convert the model again"):
        score_in_engine(warehouse, version, snapshot)


def test_a_lost_weight_gives_no_number(warehouse: LocalWarehouse) -> None:
    version, snapshot = publish(warehouse, [[1.0], [1.0]]), snapshot_of(warehouse, [1.0], [1.0])
    rows = pa.table({"output": pa.array([0], pa.int32()), "constant": [0.0], "w_a": [1.0]})
    warehouse.replace(version.parameter_tables[0], version.partition, rows)

    assert score_in_engine(warehouse, version, snapshot).column("scores").to_pylist() == [None]


numbers = st.floats(-1e6, 1e6) | st.sampled_from([None, float("nan"), float("inf"), -0.0, 5e-324])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_the_engine_agrees_with_numpy_on_any_features(
    samples: list[tuple[float | None, float | None]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        warehouse = LocalWarehouse(Path(folder) / "w")
        version = publish(warehouse, [[0.5], [-3.25]])
        snapshot = snapshot_of(warehouse, [a for a, _ in samples], [b for _, b in samples])
        rows = score_in_engine(warehouse, version, snapshot)
        warehouse.close()

    by_id = {row["sample_id"]: row for row in rows.to_pylist()}
    for number, (a, b) in enumerate(samples):
        row = by_id[f"u{number}"]
        if a is None or b is None or not np.isfinite([a, b]).all():
            invalid = any(value is not None and np.isinf(value) for value in (a, b))
            assert row["status"] == (SampleStatus.FEATURE_INVALID if invalid else SampleStatus.FEATURE_MISSING)
            assert row["scores"] is None
        else:
            terms = abs(a * 0.5) + abs(b * 3.25) + 0.123456789
            assert row["scores"][0] == pytest.approx(a * 0.5 - b * 3.25 + 0.123456789, rel=0, abs=1e-12 * terms)


def test_an_engine_that_is_not_one_of_the_versions_is_not_asked(warehouse: LocalWarehouse) -> None:
    version = replace(publish(warehouse, [[1.0], [1.0]]), engines=("numpy", "spark"))

    with pytest.raises(StatementError, match=r"duckdb cannot compute version 1 of .* \(engines: numpy, spark\)"):
        score_in_engine(warehouse, version, snapshot_of(warehouse, [1.0], [2.0]))

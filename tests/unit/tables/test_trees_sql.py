"""The statement for trees: what it says and does not say, and numpy's numbers in the embedded engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, all_ok_statuses
from fedpredict.model.trees import CodeRule, TreesPart
from fedpredict.tables import sql
from fedpredict.tables.models import ModelVersion, delete_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.source import Source
from fedpredict.tables.statements import partial_scores_query, score_in_engine
from fedpredict.tables.trees_options import MAX_DEPTH
from fedpredict.tables.trees_sql import tree_scores
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.tree_parts import Shape, as_cells, chain_of_splits, full_trees, random_part, random_rows

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def publish(
    warehouse: LocalWarehouse, part: TreesPart, rows: Floats, instants: list[datetime] | None = None, ids: str = ""
) -> tuple[ModelVersion, Snapshot]:
    """Publish a part, and rows of its features with ids that count from s0, or the letters of `ids`."""
    columns = column_names(part.features)
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    view = FeatureView("people", 1, tuple(ViewFeature(n, columns[n], kinds[n]) for n in part.features), "id", "seen")
    types = {ColumnType.DOUBLE: pa.float64(), ColumnType.STRING: pa.string()}
    table = pa.table({
        "sample_id": pa.array(ids or [f"s{at}" for at in range(len(rows))], pa.string()),
        "event_time": pa.array(instants or [NOON] * len(rows), pa.timestamp("us", tz="UTC")),
        **{columns[name]: pa.array(cells, types[kinds[name]]) for name, cells in as_cells(part, rows).items()},
    })  # fmt: skip
    snapshot = publish_snapshot(warehouse, view, snapshot_name(NOON), table)
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), part.intercept is not None, part)
    return publish_model(warehouse, partial, view, "5" * 64)[0], snapshot


@st.composite
def cases(draw: st.DrawFn) -> tuple[TreesPart, Floats]:
    flag = st.booleans()
    shape = draw(st.builds(
        Shape, n_trees=st.integers(0, 5), depth=st.integers(0, 5), n_numbers=st.integers(1, 3), wide=flag,
        n_texts=st.integers(0, 2), n_scores=st.integers(1, 3), with_sets=flag, strict=flag, float32=flag,
        zero_is_missing=flag, may_miss=flag, base=flag,
        codes=st.sampled_from(CodeRule), closed=flag,
    ))  # fmt: skip
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    part = random_part(random, shape)
    return part, random_rows(random, part, 60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_random_trees_give_numpys_numbers_and_statuses(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[TreesPart, Floats]
) -> None:
    part, rows = case
    warehouse = LocalWarehouse(tmp_path_factory.mktemp("trees"))
    version, snapshot = publish(warehouse, part, rows)

    found = {row["sample_id"]: row for row in score_in_engine(warehouse, version, snapshot).to_pylist()}
    warehouse.close()

    ordered = [found[f"s{at}"] for at in range(len(rows))]
    expected = part.statuses(rows)
    statuses = all_ok_statuses(len(rows)) if expected is None else expected
    assert [row["status"] for row in ordered] == statuses.tolist()
    scores, magnitudes = part.partial_scores(rows), part.magnitudes(rows)
    for row, status, score, magnitude in zip(ordered, statuses, scores, magnitudes, strict=True):
        if status != SampleStatus.OK:
            assert row["scores"] is None
        else:
            assert np.all(np.abs(np.array(row["scores"]) - score) <= 1e-12 * magnitude)


def test_as_many_levels_as_are_offered_are_walked(warehouse: LocalWarehouse) -> None:
    part = chain_of_splits(MAX_DEPTH)
    rows = np.random.default_rng(0).normal(size=(20, 2)) * 4

    scored = score_in_engine(warehouse, *publish(warehouse, part, rows)).to_pylist()

    found = {row["sample_id"]: row["scores"][0] for row in scored}
    assert [found[f"s{at}"] for at in range(20)] == pytest.approx(part.partial_scores(rows)[:, 0].tolist(), rel=1e-12)


def test_no_parameter_and_no_category_stands_in_the_statement(warehouse: LocalWarehouse) -> None:
    shape = Shape(3, 3, n_texts=1, with_sets=True, float32=True, zero_is_missing=True)
    part = random_part(np.random.default_rng(2), shape)
    part = replace(part, categories={"t0": tuple(f"colour {at}" for at in range(16))})
    version, snapshot = publish(warehouse, part, np.zeros((1, 4)))

    statement, values = partial_scores_query(version, snapshot)

    literals = {literal.name for literal in statement.find_all(exp.Literal)}
    words = {"", "|", "~", "~0", "~1", "|~|", "left", "1.7976931348623157e308", "3.4028234663852886e+38"}
    numbers = {str(at) for at in range(20)} | {"2147483583.9999998", "0.9999999701976776", "1.0000000538757502e-35"}
    assert literals <= words | numbers
    assert set(values) == {"model_id", "params_sha256", "view_version", "snapshot"}


def test_the_latest_row_counts_and_a_tie_is_invalid(warehouse: LocalWarehouse) -> None:
    part = full_trees(np.random.default_rng(4), 3, 3, 2)
    rows = np.random.default_rng(5).normal(size=(5, 2))
    hour = timedelta(hours=1)

    version, snapshot = publish(warehouse, part, rows, [NOON, NOON + hour, NOON, NOON, NOON + hour], "aabbc")
    scored = score_in_engine(warehouse, version, snapshot).to_pylist()

    assert [row["status"] for row in scored] == [SampleStatus.OK, SampleStatus.FEATURE_INVALID, SampleStatus.OK]
    expected = part.partial_scores(rows[[1, 4]])[:, 0].tolist()
    assert [row["scores"][0] for row in scored if row["scores"]] == pytest.approx(expected, rel=1e-12)


def test_flags_of_a_source_are_added_to_those_of_the_features(warehouse: LocalWarehouse) -> None:
    part = replace(full_trees(np.random.default_rng(4), 2, 2, 1), may_miss=np.array([False]))
    version, snapshot = publish(warehouse, part, np.array([[0.0], [np.nan], [np.inf]]))

    def flagged(columns: list[str]) -> exp.Select:
        made = {"gone": sql.number(1), "wrong": sql.case(sql.number(0), (sql.equals("f0", 0), sql.number(1)))}
        chosen = [sql.named(made[name], name) if name in made else sql.column(name) for name in columns]
        return sql.stored(chosen, snapshot.view.schema.name, snapshot.partition)

    source = Source({"f0": "f0"}, flagged, ("gone", "wrong"))  # type: ignore[arg-type]
    rows = warehouse.run(tree_scores(version, source), {**version.partition, **snapshot.partition}).to_pylist()

    found = {row["sample_id"]: (row["fp_unusable"] > 0, row["fp_infinite"] > 0) for row in rows}
    assert found == {"s0": (True, True), "s1": (True, False), "s2": (True, True)}


def test_a_deleted_model_leaves_no_rows(warehouse: LocalWarehouse) -> None:
    version, _ = publish(warehouse, full_trees(np.random.default_rng(4), 2, 2, 1), np.zeros((1, 1)))
    assert warehouse.read("fp_trees_people", ["tree"], {}).num_rows > 0

    delete_model(warehouse, version.model_id)

    assert warehouse.read("fp_trees_people", ["tree"], {}).num_rows == 0

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from fedpredict.errors import FeatureNamesError, NameRefusedError, TableCorruptError, WarehouseWriteError
from fedpredict.tables.schemas import VIEWS
from fedpredict.tables.views import (
    FeatureView,
    ViewFeature,
    latest_snapshot,
    list_snapshots,
    publish_snapshot,
    read_snapshot_rows,
    snapshot_name,
)
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FIRST, SECOND, THIRD = (snapshot_name(NOON + timedelta(microseconds=number)) for number in range(3))
AGE = ViewFeature("Age", "age", ColumnType.DOUBLE)
CITY = ViewFeature("city", "city", ColumnType.STRING)
VIEW = FeatureView("bank", 1, (AGE, CITY), "customer no", "as of")


def rows(*ages: float | None, **more: list[str]) -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array([f"u{number}" for number in range(len(ages))], pa.string()),
            "event_time": pa.array([NOON] * len(ages), pa.timestamp("us", tz="UTC")),
            "age": pa.array(ages, pa.float64()),
            **more,
        }
    )


def test_a_snapshot_comes_back_as_it_was_published(warehouse: LocalWarehouse) -> None:
    published = publish_snapshot(warehouse, VIEW, FIRST, rows(1.5, None, city=["Ulm", "Bonn"]))

    found = latest_snapshot(warehouse, "bank")

    assert found == published
    assert found is not None
    assert (found.view, found.n_rows) == (VIEW, 2)
    read = read_snapshot_rows(warehouse, found, ["sample_id", "event_time", "age", "city"]).sort_by("sample_id")
    assert read.to_pydict() == {
        "sample_id": ["u0", "u1"], "event_time": [NOON, NOON], "age": [1.5, None], "city": ["Ulm", "Bonn"],
    }  # fmt: skip


def test_the_newest_snapshot_of_the_newest_version_wins(warehouse: LocalWarehouse) -> None:
    newer = FeatureView("bank", 2, (AGE,), "customer no", None)
    publish_snapshot(warehouse, newer, FIRST, rows(2.0))
    publish_snapshot(warehouse, VIEW, THIRD, rows(3.0))
    publish_snapshot(warehouse, VIEW, SECOND, rows(4.0))

    latest = latest_snapshot(warehouse, "bank")
    of_first = latest_snapshot(warehouse, "bank", 1)

    assert latest is not None
    assert of_first is not None
    assert (latest.view, latest.snapshot) == (newer, FIRST)
    assert (of_first.view.version, of_first.snapshot) == (1, THIRD)
    assert latest_snapshot(warehouse, "bank", 3) is None
    assert latest_snapshot(warehouse, "other") is None
    assert [(each.view.version, each.snapshot) for each in list_snapshots(warehouse)] == [
        (1, SECOND), (1, THIRD), (2, FIRST),
    ]  # fmt: skip


def test_rows_without_their_pointer_are_no_snapshot(warehouse: LocalWarehouse) -> None:
    publish_snapshot(warehouse, VIEW, FIRST, rows(1.0))
    warehouse.replace(VIEW.schema.name, {"view_version": 1, "snapshot": SECOND}, rows(9.0))

    latest = latest_snapshot(warehouse, "bank")

    assert latest is not None
    assert latest.snapshot == FIRST


def test_a_repeated_publish_replaces_what_was_left(warehouse: LocalWarehouse) -> None:
    warehouse.ensure(VIEW.schema)
    warehouse.replace(VIEW.schema.name, {"view_version": 1, "snapshot": FIRST}, rows(9.0, 9.0, 9.0))

    published = publish_snapshot(warehouse, VIEW, FIRST, rows(1.0))

    assert read_snapshot_rows(warehouse, published, ["age"]).to_pydict() == {"age": [1.0]}


def test_an_empty_snapshot_exists_and_has_no_rows(warehouse: LocalWarehouse) -> None:
    published = publish_snapshot(warehouse, VIEW, FIRST, rows())

    assert latest_snapshot(warehouse, "bank") == published
    assert read_snapshot_rows(warehouse, published, ["age"]).num_rows == 0


def test_a_new_version_adds_columns_and_the_old_one_keeps_working(warehouse: LocalWarehouse) -> None:
    income = ViewFeature("income", "income", ColumnType.DOUBLE)
    old = publish_snapshot(warehouse, VIEW, FIRST, rows(1.0, city=["Ulm"]))
    wider = publish_snapshot(
        warehouse, FeatureView("bank", 2, (AGE, CITY, income), "customer no", None), FIRST,
        rows(2.0).append_column("income", pa.array([5.0])),
    )  # fmt: skip

    assert read_snapshot_rows(warehouse, old, ["age", "city"]).to_pylist() == [{"age": 1.0, "city": "Ulm"}]
    assert read_snapshot_rows(warehouse, wider, ["age", "city", "income"]).to_pylist() == [
        {"age": 2.0, "city": None, "income": 5.0}
    ]


def test_a_feature_that_changes_its_type_is_refused_and_nothing_appears(warehouse: LocalWarehouse) -> None:
    publish_snapshot(warehouse, VIEW, FIRST, rows(1.0))
    changed = FeatureView("bank", 2, (ViewFeature("Age", "age", ColumnType.STRING),), "customer no", None)

    with pytest.raises(WarehouseWriteError, match=r"fp_features_bank\.age is double and cannot become string"):
        publish_snapshot(warehouse, changed, SECOND, rows().set_column(2, "age", pa.array([], pa.string())))

    assert [each.snapshot for each in list_snapshots(warehouse)] == [FIRST]


def test_a_snapshot_with_another_number_of_rows_is_corrupt(warehouse: LocalWarehouse) -> None:
    published = publish_snapshot(warehouse, VIEW, FIRST, rows(1.0, 2.0))
    warehouse.replace(VIEW.schema.name, published.partition, rows(1.0))

    with pytest.raises(TableCorruptError, match=r"has 1 rows instead of 2; load the features again"):
        read_snapshot_rows(warehouse, published, ["age"])


@pytest.mark.parametrize(
    "damage", ["", "{}", "[1]", '[{"name": "a"}]', '[{"name": "A", "column": "b", "type": "double"}]']
)
def test_a_damaged_pointer_is_named(warehouse: LocalWarehouse, damage: str) -> None:
    published = publish_snapshot(warehouse, VIEW, FIRST, rows(1.0))
    row = pa.Table.from_pylist([{"n_rows": 1, "features": damage, "key": "k"}], schema=VIEWS.arrow_schema)
    warehouse.replace(VIEWS.name, {"view": "bank", **published.partition}, row)

    with pytest.raises(TableCorruptError, match="fp_views has a damaged row for view bank"):
        latest_snapshot(warehouse, "bank")


def test_a_view_must_use_the_documented_columns() -> None:
    with pytest.raises(FeatureNamesError, match="other columns"):
        FeatureView("bank", 1, (ViewFeature("Age", "Age", ColumnType.DOUBLE),), "id", None)
    with pytest.raises(FeatureNamesError, match="DOUBLE or STRING"):
        FeatureView("bank", 1, (ViewFeature("age", "age", ColumnType.INT),), "id", None)
    with pytest.raises(FeatureNamesError, match="both become"):
        FeatureView("bank", 1, (AGE, ViewFeature("age", "age", ColumnType.DOUBLE)), "id", None)
    with pytest.raises(NameRefusedError):
        FeatureView("Bank", 1, (AGE,), "id", None)


@pytest.mark.parametrize("snapshot", ["", "today", "20261122T120000Z", "../../etc", "20261122T120000.000000Z "])
def test_a_snapshot_is_named_by_an_instant(warehouse: LocalWarehouse, snapshot: str) -> None:
    with pytest.raises(NameRefusedError, match="does not name a snapshot"):
        publish_snapshot(warehouse, VIEW, snapshot, rows(1.0))


def test_snapshots_are_named_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=45))

    assert snapshot_name(datetime(2026, 11, 22, 5, 45, 0, 7, there)) == "20261122T000000.000007Z"


def test_the_pointer_says_what_the_view_is(warehouse: LocalWarehouse) -> None:
    publish_snapshot(warehouse, VIEW, FIRST, rows(1.0))

    row = warehouse.read(VIEWS.name, [column.name for column in VIEWS.columns], {"view": "bank"}).to_pylist()[0]

    assert json.loads(row["features"]) == [
        {"name": "Age", "column": "age", "type": "double"},
        {"name": "city", "column": "city", "type": "string"},
    ]
    assert (row["n_rows"], row["key"], row["event_time"]) == (1, "customer no", "as of")

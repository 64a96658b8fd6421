from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedpredict.errors import FeatureFileError, FeatureNamesError, NameRefusedError
from fedpredict.features.load import load_file
from fedpredict.tables.views import latest_snapshot, list_snapshots, read_snapshot_rows
from fedpredict.warehouse.base import ColumnType, Warehouse
from fedpredict.warehouse.local import LocalWarehouse

NOW = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return LocalWarehouse(tmp_path / "warehouse")


def csv_file(folder: Path, text: str | bytes, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def parquet_file(folder: Path, columns: dict[str, pa.Array]) -> Path:
    path = folder / "people.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def stored(warehouse: Warehouse, columns: Sequence[str]) -> list[dict[str, object]]:
    """The rows of the newest snapshot, sorted by sample id."""
    snapshot = latest_snapshot(warehouse, "people")
    assert snapshot is not None
    rows = read_snapshot_rows(warehouse, snapshot, columns).to_pylist()
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def test_a_csv_file_becomes_version_one_of_a_view(tmp_path: Path, warehouse: Warehouse) -> None:
    path = csv_file(
        tmp_path,
        'id,Mean Radius,smoker,city,at\n007,1.5e3,true,"Graz, AT",2026-01-31T08:30:00+01:00\nü,,False,,2026-02-01\n',
    )
    report = load_file(warehouse, path, view="people", key="id", event_time="at", now=NOW)
    assert (report.view, report.version, report.n_rows, report.n_ids) == ("people", 1, 2, 2)
    assert report.new_version
    assert report.snapshot == "20260301T120000.000250Z"
    assert [(each.name, each.column, each.type) for each in report.columns] == [
        ("Mean Radius", "mean_radius", ColumnType.DOUBLE),
        ("smoker", "smoker", ColumnType.DOUBLE),
        ("city", "city", ColumnType.STRING),
    ]
    assert stored(warehouse, ["sample_id", "event_time", "mean_radius", "smoker", "city"]) == [
        {
            "sample_id": "007",
            "event_time": datetime(2026, 1, 31, 7, 30, tzinfo=UTC),
            "mean_radius": 1500.0,
            "smoker": 1.0,
            "city": "Graz, AT",
        },
        {
            "sample_id": "ü",
            "event_time": datetime(2026, 2, 1, tzinfo=UTC),
            "mean_radius": None,
            "smoker": 0.0,
            "city": None,
        },
    ]


def test_a_parquet_file_keeps_its_types(tmp_path: Path, warehouse: Warehouse) -> None:
    path = parquet_file(
        tmp_path,
        {
            "id": pa.array([3, -12], pa.int32()),
            "f32": pa.array([0.1, None], pa.float32()),
            "money": pa.array([Decimal("1.25"), Decimal("-3.50")], pa.decimal128(10, 2)),
            "flag": pa.array([True, None]),
            "code": pa.array(["12", ""]),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "at": pa.array([1_769_848_200_123_456_789, 0], pa.timestamp("ns")),
        },
    )
    report = load_file(warehouse, path, view="people", key="id", event_time="at", now=NOW)
    assert {each.name: each.type.value for each in report.columns} == {
        "f32": "double", "money": "double", "flag": "double", "code": "string", "kind": "string", "nothing": "double",
    }  # fmt: skip
    rows = stored(warehouse, ["sample_id", "event_time", "f32", "money", "flag", "code", "kind", "nothing"])
    assert [row["sample_id"] for row in rows] == ["-12", "3"]
    assert rows[1] == {
        "sample_id": "3",
        "event_time": datetime(2026, 1, 31, 8, 30, 0, 123456, tzinfo=UTC),
        "f32": float(np.float32(0.1)),
        "money": 1.25,
        "flag": 1.0,
        "code": "12",
        "kind": "a",
        "nothing": None,
    }
    assert rows[0]["code"] == ""


def test_special_numbers_stay_as_they_are(tmp_path: Path, warehouse: Warehouse) -> None:
    path = csv_file(tmp_path, "id,x\na,5e-324\nb,-0.0\nc,inf\nd,-Infinity\ne,NaN\nf,NULL\ng, 7 \nh,0.1\n")
    load_file(warehouse, path, view="people", key="id")
    values = [row["x"] for row in stored(warehouse, ["sample_id", "x"])]
    assert values[:4] == [5e-324, 0.0, np.inf, -np.inf]
    assert np.signbit(np.float64(values[1]))  # type: ignore[arg-type]
    assert np.isnan(np.float64(values[4]))  # type: ignore[arg-type]
    assert values[5:] == [None, 7.0, 0.1]


def test_without_an_event_time_all_rows_get_the_load_instant(tmp_path: Path, warehouse: Warehouse) -> None:
    load_file(warehouse, csv_file(tmp_path, "id,x\na,1\nb,2\n"), view="people", key="id", now=NOW)
    assert [row["event_time"] for row in stored(warehouse, ["sample_id", "event_time"])] == [NOW, NOW]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["2026-01-31 08:30:00.5"]), datetime(2026, 1, 31, 8, 30, 0, 500000, tzinfo=UTC)),
        (pa.array(["2026-01-31T08:30:00Z"]), datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        (pa.array([1_769_848_200], pa.timestamp("s", "Asia/Tokyo")), datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        (pa.array([date(2026, 1, 31)]), datetime(2026, 1, 31, tzinfo=UTC)),
    ],
    ids=["naive text is UTC", "text with a zone", "a zoned timestamp", "a date"],
)  # fmt: skip
def test_event_times_are_utc(tmp_path: Path, warehouse: Warehouse, column: pa.Array, expected: datetime) -> None:
    path = parquet_file(tmp_path, {"id": pa.array(["a"]), "x": pa.array([1.0]), "at": column})
    load_file(warehouse, path, view="people", key="id", event_time="at")
    assert [row["event_time"] for row in stored(warehouse, ["sample_id", "event_time"])] == [expected]


def test_the_same_columns_make_a_new_snapshot_of_the_same_version(tmp_path: Path, warehouse: Warehouse) -> None:
    load_file(warehouse, csv_file(tmp_path, "id,a,b\nu,1,x\n"), view="people", key="id", now=NOW)
    again = load_file(warehouse, csv_file(tmp_path, "b,key,a\ny,v,\n"), view="people", key="key")
    assert (again.version, again.new_version) == (1, False)
    assert [each.name for each in again.columns] == ["a", "b"]
    assert stored(warehouse, ["sample_id", "a", "b"]) == [{"sample_id": "v", "a": None, "b": "y"}]
    assert len(list_snapshots(warehouse)) == 2


def test_a_snapshot_sorts_last_even_when_the_clock_was_set_back(tmp_path: Path, warehouse: Warehouse) -> None:
    path = csv_file(tmp_path, "id,x\na,1\n")
    names = [load_file(warehouse, path, view="people", key="id", now=NOW).snapshot for _ in range(2)]
    assert names == ["20260301T120000.000250Z", "20260301T120000.000251Z"]


def test_other_columns_are_refused_naming_the_differences(tmp_path: Path, warehouse: Warehouse) -> None:
    load_file(warehouse, csv_file(tmp_path, "id,a,b\nu,1,x\n"), view="people", key="id")
    with pytest.raises(FeatureFileError) as raised:
        load_file(warehouse, csv_file(tmp_path, "id,a,c\nu,1,2\n"), view="people", key="id")
    assert "'c' is new; 'b' is missing" in str(raised.value)
    assert "version 1" in str(raised.value)
    with pytest.raises(FeatureFileError, match="'b' is double, was string"):
        load_file(
            warehouse,
            parquet_file(tmp_path, {"id": pa.array(["u"]), "a": pa.array([1.0]), "b": pa.array(["1"])}),
            view="people",
            key="id",
            types={"b": ColumnType.DOUBLE},
        )
    assert len(list_snapshots(warehouse)) == 1


def test_other_columns_can_be_asked_for_as_a_new_version(tmp_path: Path, warehouse: Warehouse) -> None:
    load_file(warehouse, csv_file(tmp_path, "id,a,b\nu,1,x\n"), view="people", key="id")
    report = load_file(warehouse, csv_file(tmp_path, "id,a,c\nu,1,2\n"), view="people", key="id", new_version=True)
    assert (report.version, report.new_version) == (2, True)
    old = latest_snapshot(warehouse, "people", 1)
    assert old is not None
    assert [each.name for each in old.view.features] == ["a", "b"]


def test_a_text_column_of_digits_is_text_when_the_operator_says_so(tmp_path: Path, warehouse: Warehouse) -> None:
    path = csv_file(tmp_path, "id,zip\na,0815\nb,A-1\n")
    with pytest.raises(FeatureFileError, match=r"'zip' holds something that is not a number.*1 of 2 rows.*data row 2"):
        load_file(warehouse, path, view="people", key="id")
    load_file(warehouse, path, view="people", key="id", types={"zip": ColumnType.STRING})
    assert [row["zip"] for row in stored(warehouse, ["sample_id", "zip"])] == ["0815", "A-1"]
    load_file(warehouse, csv_file(tmp_path, "id,zip\na,1\n"), view="people", key="id")
    assert [row["zip"] for row in stored(warehouse, ["sample_id", "zip"])] == ["1"]
    numbers = parquet_file(tmp_path, {"id": pa.array(["a"]), "zip": pa.array([1])})
    with pytest.raises(FeatureFileError, match="'zip' has type int64, and the feature is text"):
        load_file(warehouse, numbers, view="people", key="id")


REFUSED = [
    ("", "is empty", {}),
    ("\nid,x\n", "does not start with its column names", {}),
    ("id,x\n", "has no rows", {}),
    ("id,x,x,id\na,1,2,3\n", "named twice: 'id', 'x'", {}),
    ("idd,x\na,1\n", "no key column 'id' in the file; near it: 'idd'", {}),
    ("id,x\na,1\n", "no event-time column 'at' in the file; near it", {"event_time": "at"}),
    ("id,x\na,1\n", "both the key and the event time", {"event_time": "id"}),
    ("id\na\n", "no feature", {}),
    ("id,x\na,1\nb\n", "data row 2 has 1 fields, the header has 2", {}),
    ('id,x\na,1\n"b,2\n', "quotes|fields", {}),
    (b"id,x\na,1\n\xff,2\n", "is no sample id.*1 of 2 rows, the first is data row 2", {}),
    ("id,x\na,1\n,2\nb,3\n\"c\nd\",4\n", "is no sample id.*2 of 4 rows, the first is data row 2", {}),
    (f"id,x\n{'i' * 257},1\n", "is no sample id.*1 of 1", {}),
    (b"id,x\na,\xff\n", "'x' has type binary", {}),
    (b"\xff\xfe\x00", "neither Parquet nor CSV", {}),
    (b"PAR1 but no more", "damaged Parquet", {}),
    ("id,x,at\na,1,2026-01-01\nb,1,now\n", "'at' is no ISO 8601 time: 1 of 2 rows.*data row 2", {"event_time": "at"}),
    ("id,x,at\na,1,1767225600\n", "'at' is no ISO 8601 time", {"event_time": "at"}),
    ("id,x,at\na,1,\n", "'at' is no ISO 8601 time", {"event_time": "at"}),
    ("id,x\na,1\nb,2\na,3\n", "1 rows have the sample id and event time of another.*data row 3: name the ev", {}),
    ("id,x,at\na,1,2026-01-01\na,1,2026-01-01T00:00Z\n", "keep one of them", {"event_time": "at"}),
    ("id,x\na,1\n", "types are given for 'y'", {"types": {"y": ColumnType.DOUBLE}}),
    ("id,x\na,1\n", "double or string, not bigint", {"types": {"x": ColumnType.BIGINT}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "options"), REFUSED)
def test_a_file_that_cannot_be_loaded_says_why_and_loses_nothing(
    tmp_path: Path, warehouse: Warehouse, text: str | bytes, message: str, options: dict[str, object]
) -> None:
    before = load_file(warehouse, csv_file(tmp_path, "id,x\nold,1\n", "old.csv"), view="people", key="id")
    with pytest.raises(FeatureFileError, match=message):
        load_file(warehouse, csv_file(tmp_path, text), view="people", key="id", new_version=True, **options)  # type: ignore[arg-type]
    now = latest_snapshot(warehouse, "people")
    assert now is not None
    assert now.snapshot == before.snapshot


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": pa.array([1.5]), "x": pa.array([1.0])}, "key column 'id' has type double"),
        (
            {"id": pa.array(["a", None]), "x": pa.array([1.0, 2.0])},
            "'id' is NULL: 1 of 2 rows, the first is data row 2",
        ),
        ({"id": pa.array(["a"]), "x": pa.array([2**53 + 1])}, "'x' has whole numbers beyond"),
        ({"id": pa.array(["a"]), "x": pa.array([[1.0]])}, "'x' has type list"),
        ({"id": pa.array(["a"]), "x": pa.array([1.0]), "at": pa.array([1])}, "'at' has type int64"),
        ({"id": pa.array(["a"]), "x": pa.array([1.0]), "at": pa.array([None], pa.date32())}, "'at' is NULL"),
        (
            {"id": pa.array(["a"]), "x": pa.array([1.0]), "at": pa.array([10**18], pa.timestamp("us"))},
            "years 1 to 9999",
        ),
    ],
)
def test_a_parquet_column_of_another_type_is_refused(
    tmp_path: Path, warehouse: Warehouse, columns: dict[str, pa.Array], message: str
) -> None:
    at = "at" if "at" in columns else None
    with pytest.raises(FeatureFileError, match=message):
        load_file(warehouse, parquet_file(tmp_path, columns), view="people", key="id", event_time=at)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, warehouse: Warehouse) -> None:
    with pytest.raises(FeatureFileError, match=r"nowhere\.csv: cannot be read"):
        load_file(warehouse, tmp_path / "nowhere.csv", view="people", key="id")
    assert not (tmp_path / "warehouse").exists()


@pytest.mark.parametrize("header", ["id,Age,age", "id,sample_id", 'id,"a""; DROP TABLE"', "id,"])
def test_names_that_no_table_can_have_are_refused(tmp_path: Path, warehouse: Warehouse, header: str) -> None:
    values = ",".join("1" for _ in header.split(","))
    with pytest.raises((FeatureNamesError, NameRefusedError)):
        load_file(warehouse, csv_file(tmp_path, f"{header}\n{values}\n"), view="people", key="id")
    with pytest.raises(NameRefusedError):
        load_file(warehouse, csv_file(tmp_path, "id,x\na,1\n"), view="People!", key="id")
    assert latest_snapshot(warehouse, "people") is None


def test_no_message_holds_a_value_of_the_file(tmp_path: Path, warehouse: Warehouse) -> None:
    for text in ("id,x\nsecret,1\nsecret,2\n", "id,x\na,secret\nb,2\n", "id,x\na,1,secret\n", "id,x,at\na,1,secret\n"):
        with pytest.raises(FeatureFileError) as raised:
            load_file(
                warehouse,
                csv_file(tmp_path, text),
                view="people",
                key="id",
                event_time="at" if ",at" in text else None,
            )
        assert "secret" not in str(raised.value)

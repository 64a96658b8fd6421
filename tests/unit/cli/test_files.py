"""Files of ids, rows and results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from fedpredict.cli.files import check_out, read_ids, read_rows, write_table
from fedpredict.errors import FeatureFileError, InputError


def test_ids_are_text_as_the_csv_has_them(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(b'patient,age\n007,1\n" a ",2\n"x\ny",3\n\xc3\xa9,4\n')

    assert read_ids(path, "patient") == ["007", " a ", "x\ny", "é"]


def test_an_id_that_is_not_utf8_travels_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(b"patient\nu1\n\xff\n")

    assert read_ids(path, None) == [b"u1", b"\xff"]


def test_whole_numbers_of_a_parquet_file_are_decimal_text(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"id": [7, 8], "x": [1.5, 2.5]}), tmp_path / "ids.parquet")

    assert read_ids(tmp_path / "ids.parquet", "id") == ["7", "8"]
    with pytest.raises(InputError, match="holds double; sample ids are text"):
        read_ids(tmp_path / "ids.parquet", "x")


def test_a_missing_id_is_refused(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"id": ["a", None]}), tmp_path / "ids.parquet")

    with pytest.raises(InputError, match="1 rows have no sample id"):
        read_ids(tmp_path / "ids.parquet", None)


@pytest.mark.parametrize(("column", "told"), [(None, "--id-column: patient, age"), ("pateint", "there is 'patient'")])
def test_the_column_must_be_named_and_right(column: str | None, told: str, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("patient,age\nu1,1\n")

    with pytest.raises(InputError, match=told):
        read_ids(tmp_path / "ids.csv", column)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match=r"nothing\.csv"):
        read_ids(tmp_path / "nothing.csv", None)


def test_rows_are_the_named_columns_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,a,b\nu1,1,2.5\nu2,,1e300\n")

    rows, names = read_rows(tmp_path / "rows.csv", ["b", "a"])

    np.testing.assert_array_equal(rows, [[2.5, 1.0], [1e300, np.nan]])
    assert names == ["b", "a"]


def test_without_names_rows_are_every_numeric_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,a,b\nu1,1,2.5\n")

    assert read_rows(tmp_path / "rows.csv")[1] == ["a", "b"]


def test_texts_are_read_as_the_positions_of_their_categories(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,city,zip\n1,Graz,8010\n2,Wien,\n3,Linz,1010\n")
    categories = {"city": ("Wien", "Graz"), "zip": ("1010",)}

    for names in (["zip", "city"], None):
        rows, found = read_rows(tmp_path / "rows.csv", names, categories)
        by_name = dict(zip(found, rows.T.tolist(), strict=True))
        assert by_name["city"] == [1.0, 0.0, -1.0]
        np.testing.assert_array_equal(by_name["zip"], [-1.0, np.nan, 0.0])


def test_rows_without_a_wanted_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")

    with pytest.raises(FeatureFileError, match="has no column 'b'"):
        read_rows(tmp_path / "rows.csv", ["a", "b"])


def test_results_come_back_from_parquet_and_csv(tmp_path: Path) -> None:
    table = pa.table({"sample_id": ["u1", "u2"], "prediction": [0.1 + 0.2, None]})

    write_table(tmp_path / "out.parquet", table)
    write_table(tmp_path / "out.csv", table)

    assert pa.parquet.read_table(tmp_path / "out.parquet").equals(table)
    assert (tmp_path / "out.csv").read_text() == '"sample_id","prediction"\n"u1",0.30000000000000004\n"u2",\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet"]


@pytest.mark.parametrize(("name", "told"), [("out.xlsx", "written as .csv or .parquet"), ("no/out.csv", "no folder")])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        check_out(tmp_path / name)

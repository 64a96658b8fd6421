from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpredict.client import Client, populations
from fedpredict.client.populations import FileOf, Standing, TableOf, chunks_of, some_of
from fedpredict.errors import EmptyRequestError, InputError, NameRefusedError


@pytest.mark.parametrize("name", ["", "a b", "x" * 101, "-a"])
def test_a_name_that_nothing_has_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(NameRefusedError, match="is not a population: 1 to 100 letters"):
        Standing(name)
    with pytest.raises(NameRefusedError, match="is not a table: 1 to 100 letters"):
        TableOf(name)


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_a_text_file_has_an_id_on_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(populations, "_BLOCK_BYTES", block)
    path = tmp_path / "ids.txt"
    path.write_bytes("u1\nü,2\r\n\n padded \nlast".encode())

    ids = [each for piece in chunks_of(path)() for each in piece]

    assert ids == [b"u1", "ü,2".encode(), b"", b" padded ", b"last"]


def test_a_line_that_is_no_id_is_none_however_long_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "_BLOCK_BYTES", 1_000)
    path = tmp_path / "ids.txt"
    path.write_bytes(b"u1\n" + b"x" * 10_000 + b"\nu2\n")

    first, long, last = [each for piece in chunks_of(path)() for each in piece]

    assert (first, last) == (b"u1", b"u2")
    assert 256 < len(long) < 2_000


def test_a_text_file_has_no_column(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("u1\n")

    with pytest.raises(InputError, match="an id on each line, and no column 'who'"):
        chunks_of(FileOf(path, "who"))
    with pytest.raises(InputError, match=r"ends in \.csv, \.parquet or \.txt"):
        chunks_of(tmp_path / "ids.xlsx")


@pytest.mark.parametrize("name", ["ids.csv", "ids.txt", "ids.parquet"])
def test_a_file_without_ids_is_refused_by_its_name_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("sample_id\n" if name.endswith(".csv") else "")
    if name.endswith(".parquet"):
        pa.parquet.write_table(pa.table({"sample_id": pa.array([], pa.string())}), path)

    with (
        Client("127.0.0.1:1", server_party="bank", insecure=True) as client,  # where nobody is
        pytest.raises(EmptyRequestError, match=rf"{name}: there is no sample id in the file"),
    ):
        client.submit("m", FileOf(path))


def test_a_file_with_ids_is_given_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("u1\nu2\n")
    assert [each for piece in some_of(path)() for each in piece] == [b"u1", b"u2"]

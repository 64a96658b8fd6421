"""The order of a snapshot's rows, against the hash as the design's text defines it."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables import placing
from fedpredict.tables.placing import in_places


def place_by_definition(sample_id: str) -> str:
    """The first 32 bits of MD5, reversed, as eight hexadecimal digits."""
    first = hashlib.md5(sample_id.encode(), usedforsecurity=False).digest()[:4]
    return f"{int(format(int.from_bytes(first, 'big'), '032b')[::-1], 2):08x}"


@given(st.lists(st.none() | st.text(max_size=3) | st.sampled_from(["u1", "x" * 600]), max_size=40), st.integers(0, 40))
def test_rows_stand_by_place_then_as_they_came_and_those_without_id_last(ids: list[str | None], cut: int) -> None:
    column = pa.chunked_array([ids[:cut], ids[cut:]], pa.string())
    rows = pa.table({"sample_id": column, "row": np.arange(len(ids))})

    found, n_ids = in_places(rows)

    def key(row: int) -> tuple[bool, str, int]:
        each = ids[row]
        return each is None, "" if each is None else place_by_definition(each), row

    wanted = sorted(range(len(ids)), key=key)
    assert found.column("row").to_pylist() == wanted
    named = [ids[row] for row in wanted]
    assert found.column("sample_id").to_pylist() == named
    places = [None if each is None else place_by_definition(each) for each in named]
    assert found.column("fp_place").to_pylist() == places
    assert n_ids == len({each for each in ids if each is not None})


def test_different_ids_of_one_place_count_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_one(ids: SampleIds) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        return np.full(len(ids), 7, dtype=np.uint32)  # no two short ids are known that have the same place

    monkeypatch.setattr(placing, "places_of", all_one)

    found, n_ids = in_places(pa.table({"sample_id": ["b", "a", None, "b", "c"]}))

    assert found.column("sample_id").to_pylist() == ["b", "a", "b", "c", None]
    assert n_ids == 3


def test_a_column_of_places_that_is_there_is_made_anew() -> None:
    found, _ = in_places(pa.table({"sample_id": ["u1"], "fp_place": ["wrong"]}))

    assert found.column("fp_place").to_pylist() == [place_by_definition("u1")]

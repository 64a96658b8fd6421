"""Sample ids from every usual container: the same ids, whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.client.ids import SampleIdsLike, encode_ids, take_ids
from fedpredict.errors import InputError


@pytest.mark.parametrize(
    "sample_ids",
    [
        ["u1", "u2"],
        ("u1", "u2"),
        np.array(["u1", "u2"]),
        pd.Series(["u1", "u2"]),
        pd.Index(["u1", "u2"]),
        pa.array(["u1", "u2"]),
        pa.chunked_array([["u1"], ["u2"]]),
        pl.Series(["u1", "u2"]),
        (each for each in ("u1", "u2")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_come_from_every_usual_container(sample_ids: SampleIdsLike) -> None:
    given_ids = take_ids(sample_ids)

    assert list(given_ids.packed) == [b"u1", b"u2"]
    assert given_ids.as_given() == ["u1", "u2"]
    assert given_ids.to_arrow().to_pylist() == ["u1", "u2"]


@pytest.mark.parametrize("sample_ids", [np.array([b"u1", b"u2"]), pa.array([b"u1", b"u2"]), [b"u1", b"u2"]])
def test_ids_may_be_bytes(sample_ids: SampleIdsLike) -> None:
    given_ids = take_ids(sample_ids)

    assert given_ids.as_given() == [b"u1", b"u2"]
    assert given_ids.to_arrow().to_pylist() == ["u1", "u2"]


@pytest.mark.parametrize(
    ("sample_ids", "told"),
    [
        (["u1", 2], r"sample_ids\[1\] is an int; ids are text"),
        (np.array([7]), r"sample_ids\[0\] is an int"),
        (pd.Series(["u1", None]), r"sample_ids\[1\] is a (NoneType|float)"),
        ([["u1"]], r"sample_ids\[0\] is a list"),
        ("u1", "one string"),
        (b"u1", "one string"),
        (np.array("u1"), "one string"),
        (np.array(b"u1"), "one string"),
        (np.array("u1", dtype=object), "one string"),
        (None, "sample_ids is a NoneType; pass a list"),
        (5, "sample_ids is an int; pass a list"),
        (np.array(5), "sample_ids is a ndarray; pass a list"),
        (pa.scalar("u1"), "sample_ids is a StringScalar; pass a list"),
        (pd.DataFrame({"id": ["u1"]}), "the one column that holds the ids"),
        (pl.DataFrame({"id": ["u1"]}), "the one column that holds the ids"),
        (pa.table({"id": ["u1"]}), "the one column that holds the ids"),
        (pa.array(["u1", "u2", None]), r"sample_ids\[2\] is a NoneType"),
        (pa.array([1, 2]), r"sample_ids\[0\] is an int"),
        (pl.Series([1, 2]), r"sample_ids\[0\] is an int"),
        (pl.Series(["u1", None]), r"sample_ids\[1\] is a NoneType"),
        (pd.Series(["u1", 2.5], dtype=object), r"sample_ids\[1\] is a float"),
        (pd.Series([1, 2]), r"sample_ids\[0\] is an int"),
        (pa.array([["u1"]]), r"sample_ids\[0\] is a list"),
        (pa.DictionaryArray.from_arrays([0, 1], pa.array(["u1", None])), r"sample_ids\[1\] is a NoneType"),
    ],
)
def test_what_is_no_text_is_refused_with_its_position(sample_ids: SampleIdsLike, told: str) -> None:
    with pytest.raises(InputError, match=told):
        take_ids(sample_ids)


def test_ids_travel_byte_by_byte() -> None:
    assert encode_ids([" u1 ", "é", "e\u0301", b"\xff"]) == [b" u1 ", b"\xc3\xa9", b"e\xcc\x81", b"\xff"]


def test_a_lone_surrogate_travels_as_bytes_that_are_not_utf8() -> None:
    assert encode_ids(["a\udcff"]) == [b"a\xed\xb3\xbf"]


def test_of_an_id_that_is_too_long_as_much_travels_as_makes_it_too_long() -> None:
    assert encode_ids(["x" * 256, "x" * 10_000]) == [b"x" * 256, b"x" * 257]


TEXTS = st.lists(
    # numpy's own text of a fixed width drops NULs at the end, before anybody else sees it
    st.text(st.characters(codec="utf-8"), max_size=30).map(lambda text: text.rstrip("\0")),
    min_size=1,
    max_size=20,
)
COLUMNS: list[Any] = [
    lambda ids: pa.array(ids, pa.string()),
    lambda ids: pa.array(ids, pa.large_string()),
    lambda ids: pa.array(ids, pa.string_view()),
    lambda ids: pa.array(ids).dictionary_encode(),
    lambda ids: pa.chunked_array([ids[:1], ids[1:]], pa.string()),
    lambda ids: pa.array(["other", *ids]).slice(1),
    lambda ids: pl.Series(ids, dtype=pl.String),
    lambda ids: pl.Series(ids, dtype=pl.Categorical),
    lambda ids: pd.Series(ids, dtype=object),
    lambda ids: pd.Series(ids, dtype="string[pyarrow]"),
    lambda ids: pd.Series(ids, dtype="category"),
    lambda ids: pd.Series(ids, index=range(7, 7 + len(ids))),
    pd.Index,
    lambda ids: np.array(ids, dtype=object),
    np.array,
    iter,
    tuple,
]


@given(TEXTS, st.sampled_from(COLUMNS))
@settings(max_examples=300, deadline=None)
def test_a_column_gives_the_ids_that_a_list_gives(ids: list[str], column: Any) -> None:
    from_list, from_column = take_ids(ids), take_ids(column(ids))

    assert list(from_column.packed) == list(from_list.packed)
    assert from_column.as_given() == ids
    assert len(from_column) == len(ids)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20), st.sampled_from([pa.binary(), pa.large_binary()]))
@settings(deadline=None)
def test_bytes_in_a_column_are_the_bytes_that_travel(ids: list[bytes], kind: pa.DataType) -> None:
    taken = take_ids(pa.array(ids, kind))

    assert list(taken.packed) == ids
    assert taken.as_given() == ids


@pytest.mark.parametrize("sample_ids", [np.array(["u1", "a\0b"]), np.array([b"u1", b"a\0b"])], ids=["text", "bytes"])
def test_an_id_with_a_nul_does_not_become_the_id_before_the_nul(sample_ids: SampleIdsLike) -> None:
    assert list(take_ids(sample_ids).packed) == [b"u1", b"a\0b"]


def test_a_null_of_a_dictionary_that_no_id_refers_to_is_none() -> None:
    unused = pa.DictionaryArray.from_arrays([0, 0], pa.array(["u1", None]))

    assert list(take_ids(unused).packed) == [b"u1", b"u1"]


def test_text_and_bytes_side_by_side_stay_what_they_are() -> None:
    taken = take_ids(np.array(["u1", b"u2"], dtype=object))

    assert taken.as_given() == ["u1", b"u2"]
    assert list(taken.packed) == [b"u1", b"u2"]


def test_of_a_long_id_in_a_column_the_beginning_travels_and_the_whole_is_given_back() -> None:
    taken = take_ids(pa.array(["x" * 1_000, "u"]))

    assert list(taken.packed) == [b"x" * 257, b"u"]
    assert taken.as_given() == ["x" * 1_000, "u"]


def test_what_is_not_utf8_is_a_column_of_bytes() -> None:
    assert take_ids([b"\xff", "u1"]).to_arrow().to_pylist() == [b"\xff", b"u1"]
    assert take_ids(pa.array([b"\xff", b"u1"])).to_arrow().to_pylist() == [b"\xff", b"u1"]


def test_a_column_of_no_ids_is_empty() -> None:
    assert len(take_ids(pa.array([], pa.string()))) == 0
    assert len(take_ids(pa.chunked_array([], pa.string()))) == 0

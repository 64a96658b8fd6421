"""Columns of ids, taken by row and packed whole, against lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.wire.arrow_ids import joined, take_ids, whole_ids

EVEN = st.integers(0, 9).flatmap(lambda width: st.lists(st.binary(min_size=width, max_size=width), max_size=30))


@given(st.data(), EVEN | st.lists(st.binary(max_size=5), max_size=30))
def test_rows_are_taken_of_columns_of_one_length_and_of_several(data: st.DataObject, ids: list[bytes]) -> None:
    start = data.draw(st.integers(0, len(ids)))
    column = pa.array([b"before", *ids], pa.binary()).slice(1 + start)
    left = ids[start:]
    rows = data.draw(st.lists(st.integers(0, len(left) - 1), max_size=40)) if left else []

    taken = take_ids(column, np.array(rows, dtype=np.intp))

    taken.validate(full=True)
    assert taken.type == pa.binary()
    assert taken.to_pylist() == [left[row] for row in rows]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_a_column_of_a_table_is_packed_as_long_as_its_texts_are(kind: pa.DataType) -> None:
    texts = ["u1", "", "é" * 400, "u2"]
    column = pa.chunked_array([pa.array(texts[:1], kind), pa.array([], kind), pa.array(["x", *texts[1:]], kind)[1:]])

    assert list(whole_ids(column)) == [each.encode() for each in texts]
    assert list(whole_ids(column.slice(0, 0))) == []


def test_a_column_that_is_one_array_is_not_copied() -> None:
    array, nothing = pa.array(["u1", "u2"]), pa.array([], pa.string())

    for chunks in ([array], [nothing, array, nothing]):
        assert [each.address for each in joined(pa.chunked_array(chunks)).buffers()[1:]] == [
            each.address for each in array.buffers()[1:]
        ]
    assert joined(pa.chunked_array([array, nothing, array])).to_pylist() == ["u1", "u2", "u1", "u2"]
    assert joined(pa.chunked_array([nothing])).to_pylist() == []
    assert joined(pa.chunked_array([array]).slice(1)).to_pylist() == ["u2"]

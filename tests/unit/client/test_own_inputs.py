"""The initiator's own features from every usual container."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fedpredict.client.own_inputs import take_inputs
from fedpredict.errors import InputError

COLUMNS = {"age": [41.0, 23.0], "income": [1.5, None]}


@pytest.mark.parametrize(
    "inputs",
    [
        COLUMNS,
        {"age": np.array([41, 23]), "income": np.array([1.5, np.nan], dtype=np.float32)},
        {"age": pd.Series([41, 23]), "income": pl.Series([1.5, None])},
        {"age": pa.array([41, 23], pa.uint8()), "income": pa.chunked_array([[1.5], [None]], pa.float64())},
        pd.DataFrame(COLUMNS, index=["u1", "u2"]),
        pl.DataFrame(COLUMNS),
        pa.table(COLUMNS),
        pa.RecordBatch.from_pydict(COLUMNS),
    ],
    ids=["lists", "numpy", "series", "arrow", "DataFrame", "polars", "Table", "RecordBatch"],
)
def test_features_come_from_every_usual_container(inputs: Any) -> None:
    taken = take_inputs(inputs, 2)

    assert taken.names == ("age", "income")
    np.testing.assert_array_equal(taken.values, [[41.0, 1.5], [23.0, np.nan]])


@pytest.mark.parametrize(
    "jobs",
    [
        ["smith", None, "baker", "smith"],
        np.array(["smith", None, "baker", "smith"], dtype=object),
        pd.Series(["smith", np.nan, "baker", "smith"]),
        pd.Series(["smith", None, "baker", "smith"], dtype="category"),
        pl.Series(["smith", None, "baker", "smith"]),
        pa.chunked_array([["smith", None], ["baker", "smith"]], pa.large_string()),
        pa.array(["smith", None, "baker", "smith"]).dictionary_encode(),
    ],
    ids=["list", "numpy", "pandas", "category", "polars", "large", "dictionary"],
)
def test_texts_come_from_every_usual_column_each_once(jobs: Any) -> None:
    taken = take_inputs({"age": [1, 2, 3, 4], "job": jobs}, 4)

    texts = taken.texts["job"]
    assert sorted(texts) == ["baker", "smith"]
    assert [None if np.isnan(code) else texts[int(code)] for code in taken.values[:, 1]] == [
        "smith",
        None,
        "baker",
        "smith",
    ]
    chunk = taken.of(slice(2, 3))
    assert (chunk.texts, chunk.values.tolist()) == ({"job": ("baker",)}, [[3.0, 0.0]])


def test_truth_values_and_nothing_at_all_are_numbers() -> None:
    np.testing.assert_array_equal(
        take_inputs({"flag": [True, False], "unknown": [None, None]}, 2).values, [[1.0, np.nan], [0.0, np.nan]]
    )


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"age": [1.0]}, r"inputs\['age'\] has 1 values for 2 sample ids"),
        ({"job": ["baker", "x" * 4_097]}, r"inputs\['job'\] has a text of more than 4096 bytes"),
        ({"job": ["baker", "\ud800"]}, r"inputs\['job'\] is no column of numbers or of texts"),
        ({"job": "ab"}, r"inputs\['job'\] is no column of numbers or of texts"),
        ({"job": [b"a", b"b"]}, r"inputs\['job'\] holds binary; features are numbers or texts"),
        ({"age": [1.0, "x"]}, r"inputs\['age'\] is no column of numbers"),
        ({"age": [Decimal(1), Decimal(2)]}, r"inputs\['age'\] holds decimal"),
        ({"age": 3.0}, r"inputs\['age'\] is no column of numbers"),
        ({"age": [10**30, 1]}, r"inputs\['age'\] is no column of numbers"),
        ({"age": b"ab"}, r"inputs\['age'\] is no column of numbers"),
        ({"age": bytearray(b"ab")}, r"inputs\['age'\] is no column of numbers"),
        ({"age": [1.0, 2.0], "sample_id": [1, 2]}, "inputs has a column 'sample_id'"),
        (pd.DataFrame({"sample_id": [1, 2], "age": [1.0, 2.0]}), "inputs has a column 'sample_id'"),
        ({3: [1.0, 2.0]}, r"a column 3; features are named by text"),
        ({}, "inputs has no column"),
        ([1.0, 2.0], "inputs is a list"),
        (pd.DataFrame([[1.0, 2.0]] * 2, columns=["a", "a"]), "cannot be read: Duplicate column names"),
        (pa.table([[1.0, 2.0]] * 2, names=["a", "a"]), "two columns of one name"),
        (pd.DataFrame({"a": [1.0, object()]}), "cannot be read"),
    ],
)
def test_what_is_no_feature_is_refused_by_name(inputs: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        take_inputs(inputs, 2)

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import TableCorruptError
from fedpredict.model.linear import LinearPart
from fedpredict.tables.linear import part_from_rows, part_to_rows

PART = LinearPart(
    ("age", "Net income"), np.array([[0.5, -0.0], [5e-324, 2.0]]), np.array([1.0, 2.0]), np.array([0.25, 0.0])
)
ROWS = part_to_rows(PART)


def changed(column: str, values: list[object], kind: pa.DataType | None = None) -> pa.Table:
    return ROWS.set_column(ROWS.column_names.index(column), column, pa.array(values, kind or pa.float64()))


def test_a_row_holds_the_parameters_of_one_output() -> None:
    assert ROWS.to_pylist() == [
        {"output": 0, "intercept": 1.0, "constant": 0.25, "w_age": 0.5, "w_net_income": 5e-324},
        {"output": 1, "intercept": 2.0, "constant": 0.0, "w_age": -0.0, "w_net_income": 2.0},
    ]


def test_the_intercept_of_another_party_is_null() -> None:
    part = LinearPart(PART.features, PART.weights, None, PART.constant)

    rows = part_to_rows(part)

    assert rows.column("intercept").to_pylist() == [None, None]
    assert rows.schema.field("intercept").type == pa.float64()
    assert part_from_rows(rows, PART.features, 2, holds_intercept=False).intercept is None


def test_features_come_back_in_the_order_asked_whatever_the_order_of_the_rows() -> None:
    part = part_from_rows(ROWS.take([1, 0]), ("Net income", "age"), 2, holds_intercept=True)

    assert part.features == ("Net income", "age")
    assert part.weights.tolist() == [[5e-324, 2.0], [0.5, -0.0]]
    assert part.offset.tolist() == [1.25, 2.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.slice(0, 1), "1 parameter rows"),
        (ROWS.slice(0, 0), "0 parameter rows"),
        (pa.concat_tables([ROWS, ROWS]), "4 parameter rows"),
        (changed("output", [0, 0], pa.int32()), "2 parameter rows"),
        (changed("output", [0, None], pa.int32()), "2 parameter rows"),
        (changed("w_age", [0.5, None]), "w_age"),
        (changed("w_age", [0.5, float("nan")]), "w_age"),
        (changed("constant", [float("inf"), 0.0]), "constant"),
        (changed("intercept", [None, None]), "intercept"),
        (changed("intercept", [1.0, float("-inf")]), "intercept"),
    ],
)
def test_rows_that_are_no_part_are_corrupt(rows: pa.Table, message: str) -> None:
    with pytest.raises(TableCorruptError, match=message):
        part_from_rows(rows, PART.features, 2, holds_intercept=True)


def test_an_intercept_that_should_be_elsewhere_is_corrupt() -> None:
    with pytest.raises(TableCorruptError, match="another party"):
        part_from_rows(ROWS, PART.features, 2, holds_intercept=False)

"""Arrays whose items have fields, as trees are kept; and what a hostile file could make of them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.joblib_file import read_payload
from fedpredict.convert.nodes import Budget, Name, Node, Pairs
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.unpickle import unpickle
from fedpredict.errors import ModelFileError

PADDED = np.dtype({"names": ["a", "b"], "formats": ["<i8", "u1"], "offsets": [0, 12], "itemsize": 16})
ROWS = np.array([(1, 2), (-3, 255)], dtype=PADDED)


def load(data: bytes) -> object:
    return unpickle(Cursor(data), Budget(10_000), read_payload)


@pytest.mark.parametrize("protocol", range(6))
def test_records_come_back_by_field_whatever_the_padding(protocol: int) -> None:
    found = ArrayReader(100).records(load(pickle.dumps(ROWS, protocol=protocol)), "x", ("b", "a"))

    assert found["a"].tolist() == [1, -3]
    assert found["b"].tolist() == [2, 255]


def test_records_of_the_other_byte_order_and_of_joblib_come_back() -> None:
    import joblib

    file = io.BytesIO()
    joblib.dump(ROWS.astype(PADDED.newbyteorder(">")), file)

    assert ArrayReader(100).records(load(file.getvalue()), "x", ("a",))["a"].tolist() == [1, -3]


def test_the_bytes_of_records_are_counted() -> None:
    with pytest.raises(ModelFileError, match="more than 31 bytes"):
        ArrayReader(31).records(load(pickle.dumps(ROWS)), "x", ())


@pytest.mark.parametrize("value", [ROWS[["a"]], np.zeros(2), ROWS.reshape(1, 2), np.array(["a"], dtype=object)])
def test_an_array_without_the_fields_is_refused(value: Any) -> None:
    with pytest.raises(ModelFileError, match="records with the fields a, b"):
        ArrayReader(100).records(load(pickle.dumps(value)), "x", ("a", "b"))


def test_records_are_neither_numbers_nor_labels_nor_plain_values() -> None:
    node = load(pickle.dumps(ROWS))
    assert isinstance(node, Node)

    for read in (ArrayReader(100).numbers, ArrayReader(100).labels, ArrayReader(100).plain):
        with pytest.raises(ModelFileError, match=r"not an array of numbers|texts and numbers|fields"):
            read(node, "x")


def dtype_of(code: object, *state: object) -> Node:
    return Node(Name("numpy", "dtype"), (code, False, True), state=tuple(state), built=True)


def plain(code: str = "i8", size: int = -1) -> Node:
    return dtype_of(code, 3, "<", None, None, None, size, -1, 0)


def record(code: object = "V8", names: object = ("a",), fields: object = None, size: object = 8) -> Node:
    pairs = Pairs([("a", (plain(), 0))]) if fields is None else fields
    return dtype_of(code, 3, "|", None, names, pairs, size, 1, 16)


def fields(*entries: tuple[object, object]) -> Pairs:
    return Pairs(list(entries))


SUBARRAY = dtype_of("i8", 3, "<", (plain(), (2,)), None, None, 8, 1, 0)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(record("V16"), id="size"),
        pytest.param(record(size=16), id="size_in_state"),
        pytest.param(record(names=("b",)), id="other_name"),
        pytest.param(record(names=()), id="no_names"),
        pytest.param(record(names=("a", "a"), fields=fields(("a", (plain(), 0)), ("a", (plain(), 0)))), id="twice"),
        pytest.param(record(names=(1,), fields=fields((1, (plain(), 0)))), id="number_as_name"),
        pytest.param(record(fields={"a": (plain(), 0)}), id="dict"),
        pytest.param(record(fields=fields(("a", (plain(), 1)))), id="outside"),
        pytest.param(record(fields=fields(("a", (plain(), 2**70)))), id="far_outside"),
        pytest.param(record(fields=fields(("a", (plain(), -8)))), id="before"),
        pytest.param(record(fields=fields(("a", (plain("O8"), 0)))), id="object"),
        pytest.param(record(fields=fields(("a", (plain("U2"), 0)))), id="text"),
        pytest.param(record(fields=fields(("a", (record(), 0)))), id="nested"),
        pytest.param(record(fields=fields(("a", (plain("i8", 4), 0)))), id="size_of_field"),
        pytest.param(record(fields=fields(("a", (plain(), 0, "title")))), id="title"),
        pytest.param(record(fields=fields(("a", (SUBARRAY, 0)))), id="sub"),
        pytest.param(dtype_of("V8", 3, "|", (plain(), (1,)), None, None, 8, 1, 0), id="subarray"),
        pytest.param(dtype_of("V8", 3, "|", None, None, None, 8, 1, 0), id="void"),
        pytest.param(
            record(names=tuple(map(str, range(65))), fields=fields(*((str(at), (plain("u1"), 0)) for at in range(65)))),
            id="many",
        ),
    ],
)
def test_a_damaged_or_hostile_element_type_is_refused(dtype: Node) -> None:
    callee = Name("numpy._core.multiarray", "_reconstruct")
    node = Node(callee, (Name("numpy", "ndarray"), (0,), b"b"), state=(1, (1,), dtype, False, b"\0" * 8), built=True)

    with pytest.raises(ModelFileError):
        ArrayReader(100).records(node, "x", ())

"""numpy arrays from inert nodes: bit-equal to numpy's own, or refused."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.joblib_file import read_payload
from fedpredict.convert.nodes import Budget, Name, Node, Pairs
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.unpickle import unpickle
from fedpredict.errors import ModelFileError


def load(data: bytes) -> object:
    return unpickle(Cursor(data), Budget(100_000), read_payload)


def numbers(array: Any, protocol: int) -> Any:
    return ArrayReader(10**6).numbers(load(pickle.dumps(array, protocol=protocol)), "x")


FLOATS = numpy_st.arrays(
    dtype=st.sampled_from(["<f8", ">f8", "<f4", ">f4", "<f2", "i1", "<i8", ">i4", "u1", "<u8", "?"]),
    shape=numpy_st.array_shapes(max_dims=3, max_side=4) | st.just((0,)) | st.just(()),
)


@given(array=FLOATS, protocol=st.integers(0, 5), fortran=st.booleans())
def test_an_array_comes_back_bit_equal(array: Any, protocol: int, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array

    found = numbers(array, protocol)

    assert found.shape == array.shape
    assert found.tobytes() == array.astype(np.float64).tobytes()


@given(array=FLOATS, fortran=st.booleans(), compress=st.sampled_from([0, 3]))
def test_an_array_of_joblib_comes_back_bit_equal(array: Any, fortran: bool, compress: int) -> None:
    import joblib

    array = np.asfortranarray(array) if fortran else array
    file = io.BytesIO()
    joblib.dump({"before": 1, "array": array, "after": 2}, file, compress=0)

    value = load(file.getvalue())

    assert isinstance(value, Pairs)
    found = ArrayReader(10**6).numbers(value.items[1][1], "x")
    assert found.tobytes() == array.astype(np.float64).tobytes()
    assert value.items[2] == ("after", 2)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_an_array_of_another_memory_order_comes_back(axes: tuple[int, ...]) -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(axes)

    assert (numbers(array, 5) == array).all()


@pytest.mark.parametrize("protocol", range(6))
def test_a_scalar_and_a_number_are_read(protocol: int) -> None:
    assert numbers(np.float64(-0.5), protocol) == -0.5
    assert numbers(np.int32(7), protocol) == 7.0
    assert numbers(2.5, protocol) == 2.5


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [np.array(["年龄", "b"]), np.array(["年龄", "b"], dtype=object), np.array([1, 2]), np.array([True, False])],
    ids=["text", "objects", "int", "bool"],
)
def test_labels_come_back(array: Any, protocol: int) -> None:
    node = load(pickle.dumps(array, protocol=protocol))

    assert ArrayReader(10**6).labels(node, "x") == array.tolist()


def test_an_object_array_of_joblib_is_a_nested_pickle() -> None:
    import joblib

    file = io.BytesIO()
    joblib.dump([np.array(["a", "b"], dtype=object), np.arange(3.0)], file)

    value = load(file.getvalue())

    assert isinstance(value, list)
    assert ArrayReader(10**6).labels(value[0], "x") == ["a", "b"]
    assert ArrayReader(10**6).numbers(value[1], "x").tolist() == [0.0, 1.0, 2.0]


def test_a_wrapper_without_alignment_is_read() -> None:
    """As joblib before 1.2 wrote it: neither a pad byte nor padding before the array."""
    state = (
        b"}(X\x08\x00\x00\x00subclasscnumpy\nndarray\nX\x05\x00\x00\x00shapeK\x01\x85X\x05\x00\x00\x00order"
        b"X\x01\x00\x00\x00CX\x05\x00\x00\x00dtypecnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR"
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbu"
    )
    data = b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + state + b"b" + np.float64(1.5).tobytes() + b"."

    assert ArrayReader(100).numbers(load(data), "x").tolist() == [1.5]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.array(["a"]), "not an array of numbers"),
        (np.array([{}], dtype=object), "not an array of numbers"),
        (np.zeros(1, dtype=[("a", "f8")]), "not an array of numbers"),
        (np.zeros(1, dtype="M8[s]"), "element type"),
        (np.zeros(1, dtype="c16"), "element type"),
        (np.zeros((1,) * 5), "dimensions"),
    ],
    ids=["text", "objects", "fields", "time", "complex", "dimensions"],
)
def test_an_array_that_is_not_of_numbers_is_refused(array: Any, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        numbers(array, 4)


def test_labels_that_are_neither_text_nor_number_are_refused() -> None:
    node = load(pickle.dumps(np.array([None, {}], dtype=object), protocol=4))

    with pytest.raises(ModelFileError, match="more than texts and numbers"):
        ArrayReader(100).labels(node, "x")


def test_labels_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ModelFileError, match="2 dimensions"):
        ArrayReader(100).labels(load(pickle.dumps(np.zeros((2, 2)))), "x")


def test_array_bytes_are_counted_however_often_one_is_referred_to() -> None:
    node = load(pickle.dumps(np.zeros(10)))
    arrays = ArrayReader(200)

    arrays.numbers(node, "x")
    arrays.numbers(node, "x")
    with pytest.raises(ModelFileError, match="more than 200 bytes"):
        arrays.numbers(node, "x")


def dtype_node(code: object = "f8", state: object = (3, "<", None, None, None, -1, -1, 0)) -> Node:
    return Node(Name("numpy", "dtype"), (code, False, True), state=state, built=True)


def array_node(*state: object, kind: object = Name("numpy", "ndarray")) -> Node:
    callee = Name("numpy._core.multiarray", "_reconstruct")
    return Node(callee, (kind, (0,), b"b"), state=state, built=True)


EIGHT = b"\0" * 8


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(array_node(1, (2,), dtype_node(), False, EIGHT), id="shape"),
        pytest.param(array_node(1, (-1,), dtype_node(), False, EIGHT), id="negative"),
        pytest.param(array_node(1, (2**62, 4), dtype_node(), False, b""), id="overflow"),
        pytest.param(array_node(1, 1, dtype_node(), False, EIGHT), id="no_shape"),
        pytest.param(array_node(1, (1,), dtype_node(), "F", EIGHT), id="order"),
        pytest.param(array_node(1, (1,), None, False, EIGHT), id="no_dtype"),
        pytest.param(array_node(1, (1,), dtype_node(), False, [1.0]), id="list_as_bytes"),
        pytest.param(array_node(1, (1,), dtype_node("O8"), False, EIGHT), id="bytes_as_objects"),
        pytest.param(array_node(1, (2,), dtype_node("O8"), False, ["a"]), id="few_objects"),
        pytest.param(array_node(1, (1, 1), dtype_node("O8"), True, ["a"]), id="fortran_objects"),
        pytest.param(array_node(1, (1,), dtype_node("V8"), False, EIGHT), id="void"),
        pytest.param(array_node(1, (1,), dtype_node("f8,O"), False, EIGHT), id="hidden_object"),
        pytest.param(array_node(1, (1,), dtype_node(Name("os", "system")), False, EIGHT), id="name_as_code"),
        pytest.param(array_node(1, (1,), dtype_node("U99999999"), False, EIGHT), id="huge_text"),
        pytest.param(array_node(1, (1,), dtype_node(state=None), False, EIGHT), id="no_state"),
        pytest.param(
            array_node(1, (1,), dtype_node(state=(3, "x", None, None, None, -1, -1, 0)), False, EIGHT), id="byte_order"
        ),
        pytest.param(
            array_node(1, (1,), dtype_node(state=(3, "<", None, ("a",), {}, -1, -1, 0)), False, EIGHT), id="names"
        ),
        pytest.param(
            array_node(1, (1,), dtype_node(state=(3, "<", None, None, None, 4, -1, 0)), False, EIGHT), id="size"
        ),
        pytest.param(array_node(1, (1,), dtype_node(), False, EIGHT, kind=Name("numpy", "matrix")), id="subclass"),
        pytest.param(Node(Name("numpy._core.multiarray", "scalar"), (dtype_node(), b"\0")), id="scalar"),
        pytest.param(Node(Name("numpy._core.multiarray", "scalar"), (dtype_node("O8"), b"\0")), id="scalar_object"),
        pytest.param(Node(Name("numpy._core.multiarray", "scalar"), ()), id="scalar_arguments"),
        pytest.param(Node(Name("numpy._core.numeric", "_frombuffer"), (EIGHT, dtype_node(), (1,), "X")), id="k"),
        pytest.param(Node(Name("numpy._core.numeric", "_frombuffer"), (EIGHT, dtype_node("O8"), (1,), "C")), id="fo"),
        pytest.param(
            Node(Name("numpy._core.numeric", "_frombuffer"), (EIGHT, dtype_node(), (1, 1), "K", (0, 0))), id="axes"
        ),
        pytest.param(Node(Name("joblib.numpy_pickle", "NumpyArrayWrapper"), (), state=Pairs(), built=True), id="jl"),
        pytest.param(Node(Name("os", "system"), ("x",)), id="other"),
        pytest.param("text", id="text"),
        pytest.param(10**400, id="number"),
    ],
)
def test_a_made_up_array_is_refused(node: object) -> None:
    with pytest.raises(ModelFileError):
        ArrayReader(10**6).numbers(node, "x")


def test_a_text_outside_unicode_is_refused() -> None:
    state = (3, "<", None, None, None, 4, 4, 8)
    node = array_node(1, (1,), dtype_node("U1", state), False, b"\xff\xff\xff\xff")

    with pytest.raises(ModelFileError):
        ArrayReader(100).labels(node, "x")


def test_joblib_array_bytes_are_checked_before_reading() -> None:
    import joblib

    file = io.BytesIO()
    joblib.dump(np.zeros(1000), file)
    cut = file.getvalue()[:-2000]

    with pytest.raises(ModelFileError, match="remain"):
        load(cut)


def test_old_joblib_wrappers_are_named() -> None:
    with pytest.raises(ModelFileError, match=re.escape("joblib before 0.10")):
        load(b"\x80\x02cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81}b.")


def test_bytes_of_old_protocols_are_read_as_python_wrote_them() -> None:
    raw = np.float64(1.5).tobytes()
    encoded = Node(Name("_codecs", "encode"), (raw.decode("latin-1"), "latin1"))
    mutable = Node(Name("__builtin__", "bytearray"), (raw,))

    for data in (raw, encoded, mutable):
        assert ArrayReader(100).numbers(array_node(1, (1,), dtype_node(), False, data), "x").tolist() == [1.5]


def test_an_array_of_a_mapped_file_is_an_array() -> None:
    node = array_node(1, (1,), dtype_node(), False, EIGHT, kind=Name("numpy", "memmap"))

    assert ArrayReader(100).numbers(node, "x").tolist() == [0.0]


def test_objects_that_joblib_did_not_nest_as_an_array_are_refused() -> None:
    fields = {"subclass": Name("numpy", "ndarray"), "shape": (1,), "order": "C", "dtype": dtype_node("O8")}
    wrapper = Node(Name("joblib.numpy_pickle", "NumpyArrayWrapper"), (), state=Pairs(list(fields.items())), built=True)

    with pytest.raises(ModelFileError, match="joblib did not write"):
        ArrayReader(100).labels(wrapper, "x")
    wrapper.state = Pairs(list({**fields, "subclass": Name("a", "b"), "dtype": dtype_node()}.items()))
    wrapper.payload = EIGHT
    with pytest.raises(ModelFileError, match="not numpy's own"):
        ArrayReader(100).numbers(wrapper, "x")

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import FieldError, TooManySamplesError
from fedpredict.initiator.http import infer
from fedpredict.initiator.http.decode import pack_ids, read_inputs, read_task
from fedpredict.model.share import Mode
from fedpredict.public_status import public_status

MAX_SAMPLES = 1000


@dataclass
class Body:
    """A request, as decoding sees it."""

    body: bytes
    headers: dict[bytes, str] = field(default_factory=dict)
    peer_uris: tuple[str, ...] | None = None

    def header(self, name: bytes) -> str | None:
        return self.headers.get(name, "application/json; charset=utf-8" if name == b"content-type" else None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=6))
def test_ids_are_packed_as_their_utf_8(ids: list[str]) -> None:
    assert list(pack_ids(ids)) == [each.encode() for each in ids]


@given(st.integers(0, 4).flatmap(lambda n: st.dictionaries(st.text(max_size=3), columns(n), min_size=1, max_size=4)))
def test_inputs_become_one_column_a_feature_and_null_is_missing(given_columns: dict[str, list[float | None]]) -> None:
    n_samples = len(next(iter(given_columns.values())))

    inputs = read_inputs(given_columns, n_samples)

    assert inputs.names == tuple(given_columns)
    assert inputs.values.shape == (n_samples, len(given_columns))
    for at, column in enumerate(given_columns.values()):
        expected = [math.nan if value is None else value for value in column]
        assert np.array_equal(inputs.values[:, at], np.array(expected, dtype=np.float64), equal_nan=True)


def columns(n_samples: int) -> st.SearchStrategy[list[float | None]]:
    value = st.none() | st.floats(allow_nan=False, allow_infinity=False)
    return st.lists(value, min_size=n_samples, max_size=n_samples)


def test_a_whole_body_is_a_task() -> None:
    body = {
        "model": "credit",
        "sample_ids": ["u1", "é"],
        "mode": "offline",
        "inputs": {"age": [41, None]},
        "timeout_ms": 1500,
        "request_id": "r-9",
    }

    asked = read_task(Body(json.dumps(body).encode(), {b"x-fedpredict-deadline-ms": "2000"}), "r-1", MAX_SAMPLES)

    assert (asked.task.request_id, asked.task.model_id, asked.task.mode) == ("r-9", "credit", Mode.OFFLINE)
    assert list(asked.task.sample_ids) == [b"u1", "é".encode()]
    assert asked.task.inputs is not None
    assert asked.task.inputs.values[0, 0] == 41.0
    assert np.isnan(asked.task.inputs.values[1, 0])
    assert asked.deadline_s == 1.5


def test_a_short_body_is_a_task_with_what_is_usual() -> None:
    asked = read_task(Body(b'{"model":"m","sample_ids":["u1"]}'), "r-1", MAX_SAMPLES)

    assert (asked.task.request_id, asked.task.mode, asked.task.inputs) == ("r-1", Mode.NEARLINE, None)
    assert asked.deadline_s is None


TWICE = [
    ("model", b'{"model":"a","model":"b","sample_ids":["u1"]}'),
    ("model", b'{"model":"a","m\\u006fdel":"b","sample_ids":["u1"]}'),
    ("sample_ids", b'{"model":"a","sample_ids":["u1"],"sample_ids" : ["u2"]}'),
    ("mode", b'{"model":"a","sample_ids":["u1","mode"],"mode":"offline","mode":"nearline"}'),
    ("inputs", b'{"model":"a","sample_ids":["u1"],"inputs":{"x":[1]},"inputs":null}'),
    ("x", b'{"model":"a","sample_ids":["u1"],"inputs":{"x":[1],"x":[2]}}'),
    # as many colons as it would have, were the ids' taken for those of members
    ("model", b'{"model":"a","model":"b","sample_ids":["u\\u003a1","u2"]}'),
    ("model", b'{"model":"a","model":"b","sample_ids":["u\\u003a1"]}'),
]


@pytest.mark.parametrize("n_more", [0, 2000])
@pytest.mark.parametrize(("name", "data"), TWICE)
def test_a_member_that_is_there_twice_is_refused_by_its_name(name: str, data: bytes, n_more: int) -> None:
    data = data.replace(b'["u1"', b'["u1"' + b',"u3"' * n_more)
    with pytest.raises(FieldError) as raised:
        read_task(Body(data), "r-1", MAX_SAMPLES)
    if n_more == 0 or name != "x":  # the others need as many values as ids
        assert raised.value.problem == f"'{name}' is there twice in one object"


TENSOR = '"name":"sample_id","shape":[1],"datatype":"BYTES"'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id", f'{{"id":"a","inputs":[{{{TENSOR},"data":["u:1"]}}],"id":"b"}}'),
        ("inputs", f'{{"inputs":[{{{TENSOR},"data":["u1"]}}],"inputs":[{{{TENSOR},"data":["u2"]}}]}}'),
        ("data", f'{{"inputs":[{{{TENSOR},"data":["u:1"],"data":["u2"]}}]}}'),
        ("mode", f'{{"parameters":{{"mode":"offline","mode":"nearline"}},"inputs":[{{{TENSOR},"data":["u1"]}}]}}'),
        ("a", f'{{"inputs":[{{{TENSOR},"parameters":{{"a":1,"a":2}},"data":["u1"]}}],"outputs":[]}}'),
        ("name", f'{{"inputs":[{{{TENSOR}}}],"outputs":[{{"name":"status","name":"prediction"}}]}}'),
    ],
)
def test_a_member_of_an_inference_that_is_there_twice_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(FieldError) as raised:
        infer._split(Body(text.encode()))
    assert raised.value.problem == f"'{name}' is there twice in one object"


def test_colons_in_cells_and_null_are_no_repetition_in_an_inference() -> None:
    text = (
        f'{{"id":null,"inputs":[{{{TENSOR},"parameters":{{"a:b":"c:d"}},"data":["u:1","\\u003a:"]}}],'
        '"outputs":[{"name":"status","parameters":{}}],"parameters":{"mode":"offline"}}'
    )
    for data in (text, text.replace('"id":null,', "").replace("a:b", "ab").replace("c:d", "cd")):
        assert len(infer._split(Body(data.encode())).body.inputs) == 1


@pytest.mark.parametrize("sample_id", ["a:b", "::", "x\\:", '":"', "{'model':1}", "é:"])
@pytest.mark.parametrize("n_samples", [1, 2, 2000])
def test_colons_in_ids_and_texts_and_null_are_no_repetition(sample_id: str, n_samples: int) -> None:
    body = {
        "model": "m",
        "sample_ids": [sample_id] * n_samples,
        "timeout_ms": None,
        "inputs": {"a:b": ["c:d"] * n_samples, "mode": [1.0] * n_samples},
    }
    for members in (body, {name: body[name] for name in ("model", "sample_ids")}):
        asked = read_task(Body(json.dumps(members).encode()), "r-1", MAX_SAMPLES)
        assert list(asked.task.sample_ids) == [sample_id.encode()] * n_samples


@given(st.binary(max_size=60))
def test_any_bytes_are_a_task_or_a_field_error(data: bytes) -> None:
    with pytest.raises(FieldError):
        read_task(Body(data), "r-1", MAX_SAMPLES)


@pytest.mark.parametrize("sample_id", ["u", "", ",", '"', "\\", '\\"'])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_far_too_many_ids_are_refused_before_they_are_decoded(sample_id: str, separators: tuple[str, str]) -> None:
    def body(n_samples: int) -> Body:
        return Body(json.dumps({"model": "m", "sample_ids": [sample_id] * n_samples}, separators=separators).encode())

    assert len(read_task(body(100_900), "r-1", MAX_SAMPLES).task.sample_ids) == 100_900
    if sample_id not in {'"', "\\", '\\"'}:  # an escaped quote may hide one: those are counted when they are decoded
        with pytest.raises(TooManySamplesError):
            read_task(body(300_000), "r-1", MAX_SAMPLES)


def test_texts_become_positions_among_the_texts_of_their_feature() -> None:
    inputs = read_inputs({"job": ["baker", None, "smith", "baker"], "age": [1, None, 3, 4], "none": [None] * 4}, 4)

    assert (inputs.names, inputs.texts) == (("age", "none", "job"), {"job": ("baker", "smith")})
    np.testing.assert_array_equal(inputs.values[:, 0], [1.0, np.nan, 3.0, 4.0])
    np.testing.assert_array_equal(inputs.values[:, 2], [0.0, np.nan, 1.0, 0.0])


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (["baker", 1.0], "$.inputs.job: numbers and texts in one feature"),
        (["baker", "年" * 1_366], "$.inputs.job: a text of more than 4096 bytes"),
        (["baker"], "$.inputs.job: 1 values for 2 sample ids"),
    ],
)
def test_a_feature_that_is_no_column_of_texts_is_refused_by_name(column: list[float | str | None], told: str) -> None:
    with pytest.raises(FieldError) as raised:
        read_inputs({"job": column}, 2)

    assert public_status(raised.value).text == told

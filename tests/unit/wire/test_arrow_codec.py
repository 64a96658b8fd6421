"""Tables in and out: every kind of id column, and bytes that somebody made up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.errors import InputsRefusedError, ProtocolError, TooManySamplesError
from fedpredict.model.inputs import Inputs, inputs_of
from fedpredict.model.prediction import PartyReport, Prediction, PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.wire import arrow_codec, task_codec
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL
from fedpredict.wire.v1 import common_pb2, initiator_pb2

LIMIT = 1 << 20
TEXTS = st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=40), max_size=20)
TEXT_KINDS = [pa.string(), pa.large_string(), pa.string_view()]
BYTE_KINDS = [pa.binary(), pa.large_binary(), pa.binary_view()]


def stream_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def request(table: pa.Table | bytes, **options: Any) -> initiator_pb2.ArrowRequest:
    return initiator_pb2.ArrowRequest(
        protocol_version=1,
        request_id="r",
        model_id="m",
        mode=common_pb2.MODE_NEARLINE,
        table=table if isinstance(table, bytes) else stream_of(table, **options),
    )


def ids_in(table: pa.Table) -> list[bytes]:
    return list(arrow_codec.task_from_arrow(request(table)).sample_ids)


def expected(values: list[str | None]) -> list[bytes]:
    return [b"" if value is None else value.encode() for value in values]


@given(TEXTS, st.sampled_from([*TEXT_KINDS, *BYTE_KINDS]), st.booleans(), st.integers(0, 3), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_every_kind_of_id_column_gives_the_same_ids(
    values: list[str | None], kind: pa.DataType, as_dictionary: bool, skipped: int, batch_rows: int
) -> None:
    column = pa.array(values, type=pa.string()).cast(kind)
    if as_dictionary:
        column = pa.chunked_array([pa.array(values, type=pa.string()).dictionary_encode()]).chunk(0)
        column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(kind))
    column = column.slice(min(skipped, len(column)))
    table = pa.table({"sample_id": column})
    batches = pa.Table.from_batches(table.to_batches(max_chunksize=batch_rows), schema=table.schema)

    assert ids_in(batches) == expected(values)[skipped:]
    assert list(ids_from_array(column, LIMIT)) == expected(values)[skipped:]


def test_an_id_that_is_not_utf8_keeps_its_place() -> None:
    raw = pa.array([b"u1", b"\xff\xfe", b"u2"], type=pa.binary())
    as_text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())

    assert ids_in(pa.table({"sample_id": as_text})) == [b"u1", b"\xff\xfe", b"u2"]


def test_of_an_id_that_is_too_long_as_much_travels_as_makes_it_too_long() -> None:
    assert ids_in(pa.table({"sample_id": ["x" * 10_000, "u"]})) == [b"x" * 257, b"u"]


def test_further_columns_are_features_and_a_null_is_missing() -> None:
    table = pa.table(
        {
            "age": pa.array([1, None], type=pa.int16()),
            "sample_id": ["u1", "u2"],
            "income": pa.array([0.5, 2.5], type=pa.float32()),
            "debt": pa.array([1e300, np.inf]),
        }
    )

    inputs = arrow_codec.task_from_arrow(request(table)).inputs

    assert inputs is not None
    assert inputs.names == ("age", "income", "debt")
    assert inputs.values.dtype == np.float64
    np.testing.assert_array_equal(inputs.values, [[1.0, 0.5, 1e300], [np.nan, 2.5, np.inf]])


def test_tables_of_one_schema_are_each_read_anew_and_others_judged_anew() -> None:
    for ids in (["u1", "u2"], ["u3"]):
        for values in ([1.5] * len(ids), [-0.5] * len(ids)):
            task = arrow_codec.task_from_arrow(request(pa.table({"a": values, "sample_id": ids})))
            assert list(task.sample_ids) == expected(list(ids))
            assert task.inputs is not None
            assert task.inputs.names == ("a",)
            assert task.inputs.values.tolist() == [[value] for value in values]
    for other in ({"a": [b"x"], "sample_id": ["u"]}, {"a": [1.5], "sample_id": [7]}, {"a": [1.5], "b": [True]}):
        with pytest.raises(ProtocolError):
            arrow_codec.task_from_arrow(request(pa.table(other)))


def test_few_schemas_are_kept_and_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, Any] = {}
    monkeypatch.setattr(arrow_codec, "_known_schemas", kept)
    wide = {f"feature{number}" * 10: [1.0] for number in range(3_000)}
    for number in range(arrow_codec.MAX_SCHEMAS + 3):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": ["u"], f"f{number}": [1.0]})))
    assert 0 < len(kept) <= arrow_codec.MAX_SCHEMAS
    before = len(kept)
    arrow_codec.task_from_arrow(request(pa.table({"sample_id": ["u"], **wide})))
    assert len(kept) == before


def test_a_task_comes_back_as_it_was_sent() -> None:
    task = PredictTask(
        request_id="r",
        model_id="m",
        mode=Mode.OFFLINE,
        sample_ids=SampleIds.of([b"u1", b"", b"\xff"]),
        inputs=Inputs(("a", "b"), np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, -0.0]])),
    )

    back = arrow_codec.task_from_arrow(arrow_codec.task_to_arrow(task))

    assert (back.request_id, back.model_id, back.mode) == ("r", "m", Mode.OFFLINE)
    assert list(back.sample_ids) == [b"u1", b"", b"\xff"]
    assert back.inputs is not None
    assert task.inputs is not None
    np.testing.assert_array_equal(back.inputs.values, task.inputs.values)


@pytest.mark.parametrize("codec", ["arrow", "messages"])
def test_texts_come_back_as_they_were_sent(codec: str) -> None:
    cells: dict[str, list[str | None]] = {
        "job": ["baker", None, "baker", ""],
        "city": ["年", "a" * 4_096, "b", None],
        "none": [None] * 4,
    }
    task = PredictTask(
        request_id="r",
        model_id="m",
        mode=Mode.NEARLINE,
        sample_ids=SampleIds.of([b"u1", b"u2", b"u3", b"u4"]),
        inputs=inputs_of({"age": np.arange(4.0)}, cells, 4),
    )

    if codec == "arrow":
        back = arrow_codec.task_from_arrow(arrow_codec.task_to_arrow(task))
    else:
        sent = task_codec.task_to_wire(task).SerializeToString()
        back = task_codec.task_from_wire(initiator_pb2.PredictRequest.FromString(sent))

    assert back.inputs is not None
    assert texts_of(back.inputs) == cells
    assert back.inputs.values[:, back.inputs.names.index("age")].tolist() == [0.0, 1.0, 2.0, 3.0]


def texts_of(inputs: Inputs) -> dict[str, list[str | None]]:
    columns = {name: inputs.values[:, inputs.names.index(name)].tolist() for name in inputs.texts}
    return {
        name: [None if math.isnan(code) else inputs.texts[name][int(code)] for code in codes]
        for name, codes in columns.items()
    }


def test_texts_come_in_every_type_and_in_batches_with_dictionaries_of_their_own() -> None:
    jobs = ["baker", None, "smith", "", "baker"]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        batches = [
            pa.record_batch({"sample_id": pa.array(["u"] * len(part)), "job": pa.array(part, kind)})
            for part in (jobs[:2], jobs[2:])
        ]
        task = arrow_codec.task_from_arrow(request(pa.Table.from_batches(batches)))
        assert task.inputs is not None
        assert texts_of(task.inputs) == {"job": jobs}, kind


@pytest.mark.parametrize("position", [-1, 2, 127])
def test_an_index_beyond_its_dictionary_of_texts_is_refused(position: int) -> None:
    indices = pa.array([0, position], pa.int8())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)
    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": ["u1", "u2"], "job": column})))


def test_a_text_that_is_too_long_is_refused_by_its_feature() -> None:
    inputs = inputs_of({}, {"job": ["年" * 1_400]}, 1)
    task = PredictTask(request_id="r", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u"], inputs=inputs)
    told = "feature 'job' has a text of more than 4096 bytes"
    with pytest.raises(InputsRefusedError, match=told):
        arrow_codec.task_from_arrow(arrow_codec.task_to_arrow(task))
    with pytest.raises(InputsRefusedError, match=told):
        task_codec.task_from_wire(task_codec.task_to_wire(task))


@pytest.mark.parametrize(
    "texts",
    [
        initiator_pb2.InputTexts(name="job", texts=["a"], positions=b"\0" * 3),
        initiator_pb2.InputTexts(name="job", texts=["a"], positions=b"\1\0\0\0"),
        initiator_pb2.InputTexts(name="age", texts=["a"], positions=b"\0" * 4),
    ],
    ids=["cut off", "beyond the texts", "a name twice"],
)
def test_a_message_whose_texts_do_not_fit_is_refused(texts: initiator_pb2.InputTexts) -> None:
    task = PredictTask(
        request_id="r",
        model_id="m",
        mode=Mode.NEARLINE,
        sample_ids=[b"u"],
        inputs=Inputs(("age",), np.ones((1, 1))),
    )
    message = task_codec.task_to_wire(task)
    message.inputs.texts.append(texts)
    with pytest.raises(ProtocolError):
        task_codec.task_from_wire(message)


def test_a_table_of_no_rows_is_a_task_of_no_ids() -> None:
    assert ids_in(pa.table({"sample_id": pa.array([], pa.string())})) == []


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"id": ["u1"]}),
        pa.table({"sample_id": [1]}),
        pa.table({"sample_id": [["u1"]]}),
        pa.table({"sample_id": ["u1"], "when": pa.array([0], pa.timestamp("s"))}),
        pa.table({"sample_id": ["u1"], "who": [b"bytes"]}),
        pa.table({"sample_id": ["u1"], "half": pa.array([1.0], pa.float16())}),
        pa.table([pa.array(["u1"]), pa.array([1.0]), pa.array([2.0])], names=["sample_id", "a", "a"]),
        pa.table([pa.array(["u1"]), pa.array(["u2"])], names=["sample_id", "sample_id"]),
        pa.table([pa.array(["u1"]), *[pa.array([1.0])] * 10_000], names=["sample_id", *map(str, range(10_000))]),
        pa.table({"sample_id": pa.chunked_array([["u1"]] * 1_001)}),
    ],
    ids=["no id", "number", "list", "time", "bytes", "half", "name twice", "id twice", "too wide", "too many batches"],
)
def test_a_table_that_is_no_request_is_refused(table: pa.Table) -> None:
    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(table))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_compressed_table_is_refused_before_it_is_unpacked(compression: str, as_dictionary: bool) -> None:
    column = pa.array(["x" * 200] * 5_000)
    table = pa.table({"sample_id": column.dictionary_encode() if as_dictionary else column})

    with pytest.raises(ProtocolError, match="compressed"):
        arrow_codec.task_from_arrow(request(table, compression=compression))


def test_more_rows_than_a_process_takes_are_refused_by_number() -> None:
    table = pa.table({"sample_id": pa.array(["u"] * (MAX_SAMPLES_PER_CALL + 1))})

    with pytest.raises(TooManySamplesError) as raised:
        arrow_codec.task_from_arrow(request(table))

    assert raised.value.limit == MAX_SAMPLES_PER_CALL


def test_a_dictionary_that_stands_for_gigabytes_is_refused() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(90_000, np.int32)), pa.array(["x" * 256]))

    with pytest.raises(ProtocolError, match="bytes in one table"):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": column})))


def test_views_that_stand_for_gigabytes_are_refused() -> None:
    one = pa.array(["x" * 1_000], pa.string_view())
    views = one.buffers()[1].to_pybytes() * 50_000
    column = pa.Array.from_buffers(pa.string_view(), 50_000, [None, pa.py_buffer(views), one.buffers()[2]])

    with pytest.raises(ProtocolError, match="bytes in one table"):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": column})))


@pytest.mark.parametrize("offsets", [[0, 9, 3], [0, -1, 3], [5, 2, 3], [0, 2, 2_000_000_000]])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_offsets_that_leave_their_data_are_refused(offsets: list[int], kind: pa.DataType) -> None:
    sound = stream_of(pa.table({"sample_id": pa.array(["a", "bc"], kind)}))
    right, wrong = (np.array(numbers, "<i4").tobytes() for numbers in ([0, 1, 3], offsets))
    assert sound.count(right) == 1

    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(sound.replace(right, wrong)))


@pytest.mark.parametrize("index", [-1, 1, 127])
def test_an_index_beyond_its_dictionary_is_refused(index: int) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([index], pa.int8()), pa.array(["u1"]), safe=False)

    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": column})))


def test_a_view_beyond_its_data_is_refused() -> None:
    views = np.array([[300, 0, 0, 0]], "<i4")
    column = pa.Array.from_buffers(pa.binary_view(), 1, [None, pa.py_buffer(views), pa.py_buffer(b"abc")])

    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(pa.table({"sample_id": column})))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_table_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        arrow_codec.task_from_arrow(request(data))


SOUND = stream_of(
    pa.table(
        {
            "sample_id": pa.array(["u1", None, "u3"]).dictionary_encode(),
            "age": [1.0, 2.0, None],
            "n": pa.array([1, 2, 3], pa.int8()),
        }
    )
)


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_a_damaged_table_is_refused_or_read_as_a_sound_one(edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(SOUND)
    for position, value in edits:
        damaged[position] = value

    try:
        task = arrow_codec.task_from_arrow(request(bytes(damaged)))
    except (ProtocolError, TooManySamplesError):
        return

    assert all(len(sample_id) <= 257 for sample_id in task.sample_ids)
    assert task.inputs is None or task.inputs.values.shape == (len(task.sample_ids), len(task.inputs.names))


@given(st.integers(0, len(SOUND) - 1))
@settings(deadline=None)
def test_a_table_cut_short_is_refused_or_ends_at_a_batch(length: int) -> None:
    try:
        task = arrow_codec.task_from_arrow(request(SOUND[:length]))
    except ProtocolError:
        return
    assert len(task.sample_ids) in {0, 3}


def test_what_can_hold_ids() -> None:
    kinds = [*TEXT_KINDS, *BYTE_KINDS, pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.binary())]

    assert [kind for kind in kinds if not holds_ids(kind)] == []
    assert not any(map(holds_ids, [pa.int64(), pa.null(), pa.binary(4), pa.dictionary(pa.int8(), pa.int64())]))


def prediction(values: np.ndarray[Any, np.dtype[np.float64]], classes: tuple[str, ...] = ()) -> Prediction:
    status = np.where(np.isnan(values).any(axis=1), 2, 1).astype(np.uint8)
    return Prediction(
        request_id="r",
        manifest_sha256="ab" * 32,
        predictions=values,
        status=status,
        origin=(status == 1).astype(np.uint8),
        classes=classes,
        parties=(PartyReport(party="lab", status=status, oldest_event_time=7, round_trip_s=0.5, elapsed_s=0.25),),
    )


@pytest.mark.parametrize(
    ("values", "classes", "columns"),
    [
        ([[0.25], [np.nan]], ("no", "yes"), ["prediction"]),
        ([[0.25, 0.5, 0.25], [np.nan] * 3], ("a", "b", "c"), ["prediction_a", "prediction_b", "prediction_c"]),
        ([[1.0, 2.0], [np.nan] * 2], (), ["prediction_0", "prediction_1"]),
        ([[1.0], [2.0]], (), ["prediction"]),
    ],
)
def test_an_answer_has_a_column_per_output_and_null_where_there_is_no_score(
    values: list[list[float]], classes: tuple[str, ...], columns: list[str]
) -> None:
    sent = prediction(np.array(values), classes)

    message = arrow_codec.prediction_to_arrow(sent)
    table = pa.ipc.open_stream(message.table).read_all()
    back = arrow_codec.prediction_from_arrow(message, 2)

    assert table.schema.names == [*columns, "status", "origin"]
    assert [table[name].to_pylist() for name in columns] == [
        [None if np.isnan(value) else value for value in column] for column in zip(*values, strict=True)
    ]
    np.testing.assert_array_equal(back.predictions, sent.predictions)
    assert (back.status.tolist(), back.origin.tolist()) == (sent.status.tolist(), sent.origin.tolist())
    assert (back.classes, back.parties[0].oldest_event_time, back.manifest_sha256) == (classes, 7, "ab" * 32)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"prediction": [1.0], "status": pa.array([1], pa.uint8())}),
        pa.table({"prediction": [1], "status": pa.array([1], pa.uint8()), "origin": pa.array([1], pa.uint8())}),
        pa.table({"status": pa.array([1], pa.uint8()), "origin": pa.array([1], pa.uint8())}),
        pa.table({"prediction": [1.0], "status": pa.array([99], pa.uint8()), "origin": pa.array([1], pa.uint8())}),
        pa.table({"prediction": [1.0], "status": pa.array([2], pa.uint8()), "origin": pa.array([1], pa.uint8())}),
        pa.table(
            {
                "prediction": pa.array([None], pa.float64()),
                "status": pa.array([1], pa.uint8()),
                "origin": pa.array([1], pa.uint8()),
            }
        ),
        pa.table(
            {
                "prediction": [1.0],
                "status": pa.array([None], pa.uint8()),
                "origin": pa.array([1], pa.uint8()),
            }
        ),
        pa.table(
            {"prediction": [1.0] * 2, "status": pa.array([1] * 2, pa.uint8()), "origin": pa.array([1] * 2, pa.uint8())}
        ),
    ],
    ids=["no origin", "whole numbers", "no numbers", "no such status", "a number too many", "none", "null", "rows"],
)
def test_an_answer_that_breaks_the_protocol_is_refused(table: pa.Table) -> None:
    message = replace_table(prediction(np.array([[1.0]])), stream_of(table))

    with pytest.raises(ProtocolError):
        arrow_codec.prediction_from_arrow(message, 1)


def replace_table(sent: Prediction, table: bytes) -> initiator_pb2.ArrowReply:
    message = arrow_codec.prediction_to_arrow(replace(sent, request_id="r"))
    message.table = table
    return message

"""Between Arrow tables and model values: the columnar form of `wire.task_codec`, and the only module that reads Arrow.

No row is walked in Python: sample ids become packed bytes and offsets, features one matrix. Of a peer's bytes nothing
is trusted: `ProtocolError` where they are not what the protocol says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import pyarrow as pa

from fedpredict.errors import ProtocolError, TooManySamplesError
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.inputs import Inputs
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array, ids_to_array
from fedpredict.wire.channel import MAX_MESSAGE_BYTES, MAX_SAMPLES_PER_CALL
from fedpredict.wire.codec import (
    MODES,
    PROTOCOL_VERSION,
    check_protocol_version,
    check_request_id,
    from_enum,
    model_id_from_wire,
    new_request_id,
    statuses_from_wire,
)
from fedpredict.wire.task_codec import check_numbers, report_from_wire, report_to_wire
from fedpredict.wire.v1 import initiator_pb2

SAMPLE_ID = "sample_id"
MAX_BATCHES = 1_000
"""Most record batches in one table: a batch costs microseconds, however few rows it has."""
MAX_COLUMNS = 10_000

_ANSWER_COLUMNS = ("status", "origin")


def task_to_arrow(task: PredictTask, message: initiator_pb2.ArrowRequest | None = None) -> initiator_pb2.ArrowRequest:
    """Return a total task as a message with a table.

    Args:
        task: The task.
        message: What to fill, where the message is a part of another: a part that is assigned is copied.
    """
    columns: dict[str, pa.Array] = {SAMPLE_ID: ids_to_array(SampleIds.of(task.sample_ids))}
    if task.inputs is not None:
        for name, values in zip(task.inputs.names, np.asfortranarray(task.inputs.values).T, strict=True):
            columns[name] = pa.array(values)
    message = initiator_pb2.ArrowRequest() if message is None else message
    message.protocol_version = PROTOCOL_VERSION
    message.request_id = task.request_id
    message.model_id = task.model_id
    message.mode = MODES[task.mode]
    message.table = _stream_of(pa.RecordBatch.from_pydict(columns))
    return message


def task_from_arrow(message: initiator_pb2.ArrowRequest) -> PredictTask:
    """Return the total task of a message, with a request id of ours where it has none.

    Raises:
        ProtocolError: The message or its table breaks the protocol.
        TooManySamplesError: More than any process takes.
    """
    check_protocol_version(message.protocol_version)
    with _reading():
        sample_ids, inputs = _task_columns(_read_batches(message.table, _check_task_schema))
    return PredictTask(
        request_id=check_request_id(message.request_id) if message.request_id else new_request_id(),
        model_id=model_id_from_wire(message.model_id),
        mode=from_enum(MODES, message.mode, "mode"),
        sample_ids=sample_ids,
        inputs=inputs,
    )


def prediction_to_arrow(prediction: Prediction) -> initiator_pb2.ArrowReply:
    """Return an answer to a total task as a message with a table; NULL where a sample has no score."""
    schema = _answer_schema(_output_names(prediction.classes, prediction.predictions.shape[1]))
    scored = prediction.scored
    unscored = None if scored.all() else ~scored
    values = np.asfortranarray(prediction.predictions).T
    columns = [pa.array(column, mask=unscored) for column in values]
    columns += [pa.array(prediction.status), pa.array(prediction.origin)]
    return initiator_pb2.ArrowReply(
        request_id=prediction.request_id,
        manifest_sha256=bytes.fromhex(prediction.manifest_sha256),
        table=_stream_of(pa.RecordBatch.from_arrays(columns, schema=schema)),
        classes=prediction.classes,
        parties=[report_to_wire(report) for report in prediction.parties],
        simulated=prediction.simulated,
    )


def prediction_from_arrow(message: initiator_pb2.ArrowReply, n_samples: int) -> Prediction:
    """Return the answer to a total task of `n_samples`; raise `ProtocolError` where it breaks the protocol."""
    with _reading():
        batch = _read_one(message.table, _check_answer_schema)
    if batch.num_rows != n_samples:
        raise ProtocolError(f"an answer of {batch.num_rows} rows for {n_samples} samples")
    status = _codes(batch, "status", SampleStatus)
    outputs = [column for column in batch.schema.names if column not in _ANSWER_COLUMNS]
    predictions = np.empty((n_samples, len(outputs)))
    for number, name in enumerate(outputs):
        predictions[:, number] = batch.column(name).to_numpy(zero_copy_only=False)
    check_numbers(predictions, status == SampleStatus.OK)
    return Prediction(
        request_id=message.request_id,
        manifest_sha256=message.manifest_sha256.hex(),
        predictions=predictions,
        status=status,
        origin=_codes(batch, "origin", Origin),
        classes=tuple(message.classes),
        parties=tuple(report_from_wire(report, n_samples) for report in message.parties),
        simulated=message.simulated,
    )


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what Arrow raises over bytes of a peer into our error."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        # Arrow's own words may quote a value: they stay out of the message
        raise ProtocolError(f"an Arrow table that cannot be read ({type(error).__name__})") from error


def _read_batches(data: bytes, check_schema: Callable[[pa.Schema], None]) -> list[pa.RecordBatch]:
    """Return the batches of an IPC stream; what is in them is not checked yet."""
    _check_messages(data)
    with pa.ipc.open_stream(data) as reader:
        check_schema(reader.schema)
        batches = list(reader)
    n_rows = sum(batch.num_rows for batch in batches)
    if n_rows > MAX_SAMPLES_PER_CALL:
        raise TooManySamplesError(f"{n_rows} rows in one table", limit=MAX_SAMPLES_PER_CALL)
    return batches


def _read_one(data: bytes, check_schema: Callable[[pa.Schema], None]) -> pa.RecordBatch:
    """Return all batches of an IPC stream as one, its buffers checked."""
    batches = _read_batches(data, check_schema)
    if not batches:
        raise ProtocolError("a table without a batch")
    for batch in batches:
        batch.validate(full=True)
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _check_messages(data: bytes) -> None:
    """Refuse what costs more than its bytes: compression (a few bytes stand for gigabytes) and a flood of batches."""
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(data)):
        if number > MAX_BATCHES:
            raise ProtocolError(f"more than {MAX_BATCHES} messages in one table")
        if message.type in _WITH_BODY and _is_compressed(message.metadata.to_pybytes(), _WITH_BODY[message.type]):
            raise ProtocolError("a compressed table")


_WITH_BODY = {"record batch": False, "dictionary": True}
"""Messages that hold columns: whether a dictionary's frame is around the batch."""
_HEADER, _DATA, _COMPRESSION = 2, 1, 3
"""The places of fields in the flatbuffers of Arrow's format: Message.header, DictionaryBatch.data, .compression."""


def _is_compressed(metadata: bytes, in_dictionary: bool) -> bool:
    """Return whether the batch of a message, which Arrow has verified, has compressed buffers; Arrow does not tell."""
    batch = _follow(metadata, _field(metadata, _follow(metadata, 0), _HEADER))
    if in_dictionary:
        batch = _follow(metadata, _field(metadata, batch, _DATA))
    return _field(metadata, batch, _COMPRESSION) != 0


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, place: int) -> int:
    """Return where a table's field is; 0 where it is absent."""
    layout = table - int(struct.unpack_from("<i", data, table)[0])
    size, entry = int(struct.unpack_from("<H", data, layout)[0]), 4 + 2 * place
    offset = int(struct.unpack_from("<H", data, layout + entry)[0]) if entry < size else 0
    return table + offset if offset else 0


def _check_task_schema(schema: pa.Schema) -> None:
    if len(schema) > MAX_COLUMNS:
        raise ProtocolError(f"{len(schema)} columns in one table; the limit is {MAX_COLUMNS}")
    if len(set(schema.names)) != len(schema):
        raise ProtocolError("a table with two columns of one name")
    if SAMPLE_ID not in schema.names:
        raise ProtocolError(f"a table without a column {SAMPLE_ID}")
    for field in schema:
        if not (holds_ids(field.type) if field.name == SAMPLE_ID else _is_number(field.type)):
            raise ProtocolError(f"a column of type {field.type}, which is neither a sample id nor a feature")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_float32(kind))


def _task_columns(batches: list[pa.RecordBatch]) -> tuple[SampleIds, Inputs | None]:
    if not batches:
        return SampleIds.of(()), None
    ids = [ids_from_array(batch.column(SAMPLE_ID), MAX_MESSAGE_BYTES) for batch in batches]
    names = tuple(name for name in batches[0].schema.names if name != SAMPLE_ID)
    if not names:
        return SampleIds.concat(ids), None
    values = [_matrix(batch.select(names)) for batch in batches]
    return SampleIds.concat(ids), Inputs(names, values[0] if len(values) == 1 else np.concatenate(values))


def _matrix(batch: pa.RecordBatch) -> Floats:
    batch.validate(full=True)
    if not batch.num_rows:
        return np.empty((0, batch.num_columns))
    tensor = batch.to_tensor(null_to_nan=True, row_major=True)
    return np.ascontiguousarray(tensor.to_numpy(), dtype=np.float64)


@lru_cache(maxsize=256)
def _answer_schema(outputs: tuple[str, ...]) -> pa.Schema:
    fields = [(name, pa.float64()) for name in outputs] + [(name, pa.uint8()) for name in _ANSWER_COLUMNS]
    return pa.schema(fields)


def _output_names(classes: tuple[str, ...], width: int) -> tuple[str, ...]:
    if width == 1:
        return ("prediction",)
    return tuple(f"prediction_{label}" for label in (classes if len(classes) == width else range(width)))


def _check_answer_schema(schema: pa.Schema) -> None:
    outputs = [field.type for field in schema if field.name not in _ANSWER_COLUMNS]
    codes = [field.type for field in schema if field.name in _ANSWER_COLUMNS]
    if not outputs or set(outputs) != {pa.float64()} or codes != [pa.uint8()] * len(_ANSWER_COLUMNS):
        raise ProtocolError("an answer without its columns, or with columns of other types")


def _codes(batch: pa.RecordBatch, name: str, kind: type[SampleStatus] | type[Origin]) -> Statuses:
    column = batch.column(name)
    if column.null_count:
        raise ProtocolError(f"a {kind.__name__} that is NULL")
    return statuses_from_wire(column.to_numpy().tobytes(), len(column), kind)


def _stream_of(batch: pa.RecordBatch) -> bytes:
    """Return an IPC stream of one batch: schema, batch, and the end that readers of other languages wait for."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())

"""Between Arrow tables and model values: the columnar form of `wire.task_codec`, and the only module that reads Arrow.

No row is walked in Python: sample ids become packed bytes and offsets, features one matrix. Of a peer's bytes nothing
is trusted: `ProtocolError` where they are not what the protocol says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from fedpredict.errors import ProtocolError, TooManySamplesError
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.inputs import Inputs, joined_inputs
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array, ids_to_array
from fedpredict.wire.arrow_texts import holds_texts, texts_from_array, texts_to_array
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
MAX_SCHEMAS, MAX_SCHEMA_KEPT = 64, 256 * 1024
"""Schemas that are known again, and most bytes of each."""

# a message is small: handing its columns to threads costs more than they do
_READING = pa.ipc.IpcReadOptions(use_threads=False)
_WRITING = pa.ipc.IpcWriteOptions(use_threads=False)
_ANSWER_COLUMNS = ("status", "origin")

T = TypeVar("T")
_known_schemas: dict[tuple[Callable[[pa.Schema], Any], bytes], Any] = {}


def task_to_arrow(task: PredictTask, message: initiator_pb2.ArrowRequest | None = None) -> initiator_pb2.ArrowRequest:
    """Return a total task as a message with a table.

    Args:
        task: The task.
        message: What to fill, where the message is a part of another: a part that is assigned is copied.
    """
    columns: dict[str, pa.Array] = {SAMPLE_ID: ids_to_array(SampleIds.of(task.sample_ids))}
    if task.inputs is not None:
        for name, values in zip(task.inputs.names, np.asfortranarray(task.inputs.values).T, strict=True):
            texts = task.inputs.texts.get(name)
            columns[name] = pa.array(values) if texts is None else texts_to_array(values, texts)
    message = initiator_pb2.ArrowRequest() if message is None else message
    message.protocol_version = PROTOCOL_VERSION
    message.request_id = task.request_id
    message.model_id = task.model_id
    message.mode = MODES[task.mode]
    message.table = stream_of(pa.RecordBatch.from_pydict(columns))
    return message


def task_from_arrow(message: initiator_pb2.ArrowRequest) -> PredictTask:
    """Return the total task of a message, with a request id of ours where it has none.

    Raises:
        ProtocolError: The message or its table breaks the protocol.
        TooManySamplesError: More than any process takes.
        InputsRefusedError: A text is too long.
    """
    check_protocol_version(message.protocol_version)
    with reading():
        columns, batches = read_batches(message.table, _task_columns)
        sample_ids, inputs = _read_task(columns, batches)
    return PredictTask(
        request_id=check_request_id(message.request_id) if message.request_id else new_request_id(),
        model_id=model_id_from_wire(message.model_id),
        mode=from_enum(MODES, message.mode, "mode"),
        sample_ids=sample_ids,
        inputs=inputs,
    )


def prediction_to_arrow(prediction: Prediction) -> initiator_pb2.ArrowReply:
    """Return an answer to a total task as a message with a table; NULL where a sample has no score."""
    schema = _answer_schema(output_names(prediction.classes, prediction.predictions.shape[1]))
    scored = prediction.scored
    unscored = None if scored.all() else ~scored
    values = np.asfortranarray(prediction.predictions).T
    columns = [pa.array(column, mask=unscored) for column in values]
    columns += [pa.array(prediction.status), pa.array(prediction.origin)]
    return initiator_pb2.ArrowReply(
        request_id=prediction.request_id,
        manifest_sha256=bytes.fromhex(prediction.manifest_sha256),
        table=stream_of(pa.RecordBatch.from_arrays(columns, schema=schema)),
        classes=prediction.classes,
        parties=[report_to_wire(report) for report in prediction.parties],
        simulated=prediction.simulated,
    )


def prediction_from_arrow(message: initiator_pb2.ArrowReply, n_samples: int) -> Prediction:
    """Return the answer to a total task of `n_samples`; raise `ProtocolError` where it breaks the protocol."""
    with reading():
        outputs, batch = read_one(message.table, _answer_columns)
    if batch.num_rows != n_samples:
        raise ProtocolError(f"an answer of {batch.num_rows} rows for {n_samples} samples")
    status = codes_of(batch, "status", SampleStatus)
    predictions = np.empty((n_samples, len(outputs)))
    for number, name in enumerate(outputs):
        predictions[:, number] = batch.column(name).to_numpy(zero_copy_only=False)
    check_numbers(predictions, status == SampleStatus.OK)
    return Prediction(
        request_id=message.request_id,
        manifest_sha256=message.manifest_sha256.hex(),
        predictions=predictions,
        status=status,
        origin=codes_of(batch, "origin", Origin),
        classes=tuple(message.classes),
        parties=tuple(report_from_wire(report, n_samples) for report in message.parties),
        simulated=message.simulated,
    )


@contextmanager
def reading() -> Iterator[None]:
    """Turn what Arrow raises over bytes of a peer into our error."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        # Arrow's own words may quote a value: they stay out of the message
        raise ProtocolError(f"an Arrow table that cannot be read ({type(error).__name__})") from error


def read_batches(data: bytes, columns_of: Callable[[pa.Schema], T]) -> tuple[T, list[pa.RecordBatch]]:
    """Return what `columns_of` makes of the schema of an IPC stream, and its batches; what is in them is not checked.

    A caller sends one schema again and again, and to judge it takes longer than to read the batch: what was made of it
    is kept by its bytes.
    """
    schema_bytes = check_messages(data)
    with pa.ipc.open_stream(data, options=_READING) as reader:
        key = (columns_of, schema_bytes)
        columns = _known_schemas.get(key)
        if columns is None:
            columns = columns_of(reader.schema)
            if len(schema_bytes) <= MAX_SCHEMA_KEPT:
                if len(_known_schemas) >= MAX_SCHEMAS:
                    _known_schemas.clear()
                _known_schemas[key] = columns
        batches = list(reader)
    n_rows = sum(batch.num_rows for batch in batches)
    if n_rows > MAX_SAMPLES_PER_CALL:
        raise TooManySamplesError(f"{n_rows} rows in one table", limit=MAX_SAMPLES_PER_CALL)
    return columns, batches


def read_one(data: bytes, columns_of: Callable[[pa.Schema], T]) -> tuple[T, pa.RecordBatch]:
    """Return what `columns_of` makes of the schema, and all batches of an IPC stream as one, its buffers checked."""
    columns, batches = read_batches(data, columns_of)
    if not batches:
        raise ProtocolError("a table without a batch")
    for batch in batches:
        batch.validate(full=True)
    return columns, batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def check_messages(data: bytes) -> bytes:
    """Refuse what costs more than its bytes: compression (a few bytes stand for gigabytes) and a flood of batches.

    Returns:
        The first message, the schema.
    """
    first = b""
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(data)):
        if not number:
            first = message.metadata.to_pybytes()
        if number > MAX_BATCHES:
            raise ProtocolError(f"more than {MAX_BATCHES} messages in one table")
        if message.type in _WITH_BODY and _is_compressed(message.metadata.to_pybytes(), _WITH_BODY[message.type]):
            raise ProtocolError("a compressed table")
    return first


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


@dataclass(frozen=True, slots=True)
class _TaskColumns:
    """Which columns of a task's table are what.

    Attributes:
        sample_id: The place of the sample ids.
        features: The names of all others that are numbers, in order.
        texts: The names of those that are texts, in order.
    """

    sample_id: int
    features: tuple[str, ...]
    texts: tuple[str, ...]


def _task_columns(schema: pa.Schema) -> _TaskColumns:
    if len(schema) > MAX_COLUMNS:
        raise ProtocolError(f"{len(schema)} columns in one table; the limit is {MAX_COLUMNS}")
    if len(set(schema.names)) != len(schema):
        raise ProtocolError("a table with two columns of one name")
    if SAMPLE_ID not in schema.names:
        raise ProtocolError(f"a table without a column {SAMPLE_ID}")
    features = [field for field in schema if field.name != SAMPLE_ID]
    texts = tuple(field.name for field in features if holds_texts(field.type))
    for field in schema:
        if not (holds_ids(field.type) if field.name == SAMPLE_ID else field.name in texts or _is_number(field.type)):
            raise ProtocolError(f"a column of type {field.type}, which is neither a sample id nor a feature")
    numbers = tuple(field.name for field in features if field.name not in texts)
    return _TaskColumns(schema.names.index(SAMPLE_ID), numbers, texts)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_float32(kind))


def _read_task(columns: _TaskColumns, batches: list[pa.RecordBatch]) -> tuple[SampleIds, Inputs | None]:
    if not batches:
        return SampleIds.of(()), None
    ids = [ids_from_array(batch.column(columns.sample_id), MAX_MESSAGE_BYTES) for batch in batches]
    if not columns.features and not columns.texts:
        return SampleIds.concat(ids), None
    return SampleIds.concat(ids), joined_inputs([_inputs(columns, batch) for batch in batches])


def _inputs(columns: _TaskColumns, batch: pa.RecordBatch) -> Inputs:
    if not columns.texts:
        return Inputs(columns.features, _matrix(batch.remove_column(columns.sample_id)))
    coded = [texts_from_array(name, batch.column(name)) for name in columns.texts]
    numbers = _matrix(batch.select(columns.features)) if columns.features else np.empty((batch.num_rows, 0))
    values = np.column_stack([numbers, *(codes for codes, _ in coded)])
    texts = {name: texts for name, (_, texts) in zip(columns.texts, coded, strict=True)}
    return Inputs((*columns.features, *columns.texts), values, texts)


def _matrix(batch: pa.RecordBatch) -> Floats:
    """Return the columns side by side; column by column in memory, as they came, since to turn them takes longer."""
    batch.validate(full=True)
    if not batch.num_rows:
        return np.empty((0, batch.num_columns))
    return np.asarray(batch.to_tensor(null_to_nan=True, row_major=False).to_numpy(), dtype=np.float64)


@lru_cache(maxsize=256)
def _answer_schema(outputs: tuple[str, ...]) -> pa.Schema:
    fields = [(name, pa.float64()) for name in outputs] + [(name, pa.uint8()) for name in _ANSWER_COLUMNS]
    return pa.schema(fields)


def output_names(classes: tuple[str, ...], width: int) -> tuple[str, ...]:
    """Return the names of the columns of numbers."""
    if width == 1:
        return ("prediction",)
    return tuple(f"prediction_{label}" for label in (classes if len(classes) == width else range(width)))


def _answer_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the columns of numbers."""
    outputs = [field.type for field in schema if field.name not in _ANSWER_COLUMNS]
    codes = [field.type for field in schema if field.name in _ANSWER_COLUMNS]
    if not outputs or set(outputs) != {pa.float64()} or codes != [pa.uint8()] * len(_ANSWER_COLUMNS):
        raise ProtocolError("an answer without its columns, or with columns of other types")
    return tuple(name for name in schema.names if name not in _ANSWER_COLUMNS)


def codes_of(batch: pa.RecordBatch, name: str, kind: type[SampleStatus] | type[Origin]) -> Statuses:
    """Return a column of statuses or origins; raise `ProtocolError` where it is none."""
    column = batch.column(name)
    if column.null_count:
        raise ProtocolError(f"a {kind.__name__} that is NULL")
    return statuses_from_wire(column.to_numpy().tobytes(), len(column), kind)


def stream_of(batch: pa.RecordBatch) -> bytes:
    """Return an IPC stream of one batch: schema, batch, and the end that readers of other languages wait for."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_WRITING) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())

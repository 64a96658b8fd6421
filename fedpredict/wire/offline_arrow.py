"""Columns of offline tasks: lists of sample ids on their way in, results on their way out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fedpredict.errors import ProtocolError
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.wire.arrow_codec import (
    SAMPLE_ID,
    codes_of,
    output_names,
    read_batches,
    read_one,
    reading,
    stream_of,
)
from fedpredict.wire.arrow_ids import holds_ids, ids_from_array, ids_to_array
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.codec import PROTOCOL_VERSION
from fedpredict.wire.v1 import initiator_pb2

MAX_CHUNK_ROWS = 65_536
"""Rows of one message of an upload or of results, at most."""
CHUNK_BYTES = 4 * 1024 * 1024
_ID_BYTES = 262
"""An id at its longest, with its offset, a status and an origin."""
STATUS, ORIGIN, RANK = "status", "origin", "rank"


def result_rows(n_outputs: int) -> int:
    """Return how many rows of results go into a message.

    >>> result_rows(1), result_rows(1000)
    (15534, 507)
    """
    return max(1, min(MAX_CHUNK_ROWS, CHUNK_BYTES // (8 * n_outputs + _ID_BYTES)))


def chunk_to_wire(sample_ids: SampleIds, request_id: str | None) -> initiator_pb2.UploadChunk:
    """Return ids of an upload as a message.

    Args:
        sample_ids: At most `MAX_CHUNK_ROWS`.
        request_id: In the first message; None in all others.
    """
    batch = pa.RecordBatch.from_pydict({SAMPLE_ID: ids_to_array(sample_ids)})
    if request_id is None:
        return initiator_pb2.UploadChunk(table=stream_of(batch))
    return initiator_pb2.UploadChunk(protocol_version=PROTOCOL_VERSION, request_id=request_id, table=stream_of(batch))


def chunk_from_wire(message: initiator_pb2.UploadChunk) -> SampleIds:
    """Return the ids of a message of an upload; whether each is a sample id is not judged here.

    Raises:
        ProtocolError: There is no table, or it cannot be read, or has no such column.
        TooManySamplesError: More than one message may have.
    """
    if not message.table:
        return SampleIds.of(())
    with reading():
        place, batches = read_batches(message.table, _id_column)
        ids = [ids_from_array(batch.column(place), MAX_MESSAGE_BYTES) for batch in batches]
    return SampleIds.concat(ids) if ids else SampleIds.of(())


def results_to_wire(
    rows: pa.Table, offset: int, classes: tuple[str, ...], n_outputs: int, *, has_rank: bool = False
) -> initiator_pb2.ResultBatch:
    """Return results as a message.

    Args:
        rows: sample_id, status, origin and predictions (a list, NULL unless the status is OK), as stored.
        offset: Of the first among all of the task's.
        classes: The model's.
        n_outputs: The width of a prediction.
        has_rank: Whether the column `rank` of the rows is sent too.
    """
    rows = rows.combine_chunks()
    status = rows.column("status").to_numpy().astype(np.uint8)
    scored = status == SampleStatus.OK
    values = np.full((rows.num_rows, n_outputs), np.nan)
    if scored.any():
        lists = rows.column("predictions").combine_chunks()
        values[scored] = lists.flatten().to_numpy().reshape(-1, n_outputs)
    mask = None if scored.all() else ~scored
    names = output_names(classes, n_outputs)
    columns = {SAMPLE_ID: rows.column("sample_id").combine_chunks().cast(pa.binary())}
    columns |= {
        name: pa.array(column, mask=mask) for name, column in zip(names, np.asfortranarray(values).T, strict=True)
    }
    columns[STATUS] = pa.array(status)
    columns[ORIGIN] = pa.array(rows.column("origin").to_numpy().astype(np.uint8))
    if has_rank:
        columns[RANK] = rows.column(RANK).combine_chunks().cast(pa.int64())
    return initiator_pb2.ResultBatch(offset=offset, table=stream_of(pa.RecordBatch.from_pydict(columns)))


def results_from_wire(message: initiator_pb2.ResultBatch) -> pa.RecordBatch:
    """Return results as users get them: sample_id (text), a column of numbers per output, and names: status, origin.

    Where the task asks for ranks, the column `rank` (int64) is the last.

    Raises:
        ProtocolError: The message has no table, or not that of results.
    """
    with reading():
        names, batch = read_one(message.table, _result_columns)
        ids = batch.column(SAMPLE_ID).cast(pa.string())
    columns = [ids, *(batch.column(name) for name in names)]
    columns += [_named(batch, STATUS, SampleStatus), _named(batch, ORIGIN, Origin)]
    ranks = [batch.column(RANK)] if batch.schema.names[-1] == RANK else []
    named = [SAMPLE_ID, *names, STATUS, ORIGIN, *([RANK] if ranks else [])]
    return pa.RecordBatch.from_arrays([*columns, *ranks], names=named)


def _id_column(schema: pa.Schema) -> int:
    if schema.names.count(SAMPLE_ID) != 1 or not holds_ids(schema.field(SAMPLE_ID).type):
        raise ProtocolError(f"a table without one column {SAMPLE_ID} of text or bytes")
    return int(schema.names.index(SAMPLE_ID))


def _named(batch: pa.RecordBatch, name: str, kind: type[SampleStatus] | type[Origin]) -> pa.Array:
    codes = codes_of(batch, name, kind)
    return pa.array([each.name.lower() for each in kind]).take(pa.array(codes))


def _result_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the columns of numbers."""
    names, types = schema.names, schema.types
    if names[-1:] == [RANK]:
        if types[-1] != pa.int64():
            raise ProtocolError("results with ranks of another type")
        names, types = names[:-1], types[:-1]
    if len(names) < 4 or names[0] != SAMPLE_ID or names[-2:] != [STATUS, ORIGIN] or len(set(names)) != len(names):
        raise ProtocolError("results without their columns")
    if types != [pa.binary(), *[pa.float64()] * (len(names) - 3), pa.uint8(), pa.uint8()]:
        raise ProtocolError("results with columns of other types")
    return tuple(names[1:-2])

"""A table as an Arrow IPC file of one record batch: written once, mapped into any number of processes, never changed.

| column | type | |
|---|---|---|
| sample_id | large_binary | |
| hash | uint64 | rising |
| start | int32 | the bucket directory: as long as the others, see `TableArrays` |
| event_time | int64 | microseconds since 1970 UTC |
| ambiguous | uint8 | |
| values | fixed_size_list<float64>[k] | row-major; absent where the view has no feature; codes where it is text |
| texts | dictionary<int8, large_list<large_binary>> | see below; absent where there is no text, or no row |

Of `texts` only the dictionary says something, because it need not be as long as the other columns: it has one list for
each text column, with the texts that the column's codes are positions in.

The name of a file ends with the first half of the SHA-256 of its bytes, so that whoever maps it knows that it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.features.build import TableParts
from fedpredict.features.table import FeatureTable, TableArrays
from fedpredict.features.texts import Texts
from fedpredict.model.arrays import Floats
from fedpredict.tables.views import Snapshot

FORMAT = "2"
DIGEST_DIGITS = 32
_WORD = 8
_FORMAT, _SNAPSHOT = b"fedpredict.format", b"fedpredict.snapshot"
_COLUMNS, _SEED, _TEXTS = b"fedpredict.columns", b"fedpredict.seed", b"fedpredict.texts"


def write_table(path: Path, parts: TableParts) -> str:
    """Write a table, make it safe on the disk, and return the digest of the file.

    The values are put into their place afterwards, block by block, so that they never stand in memory as a whole.

    Args:
        path: A new file; only its owner may read and write it, whatever the umask.
        parts: What to write.

    Raises:
        OSError: The disk is full, or fails.
    """
    batch = _batch(parts)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    position = _values_position(path)
    with path.open("r+b", buffering=0) as file:
        if position is not None:
            for block in parts.blocks():
                position += _write_at(file, block, position)
        os.fsync(file.fileno())
        return file_digest(file)


def file_digest(file: FileIO) -> str:
    """Return the digest of a file, as its name has it."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]


def open_table(path: Path, snapshot: Snapshot, digest: str | None) -> FeatureTable:
    """Return the table of a file; the file stays mapped as long as the table, or a view of it, is alive.

    Args:
        path: The file.
        snapshot: What it should be.
        digest: What its bytes must give; None where this process has just written them.

    Raises:
        TableCorruptError: It is damaged, cut off, or something else; the message names it.
        OSError: It cannot be read.
    """
    if digest is not None:
        with path.open("rb", buffering=0) as file:
            if file_digest(file) != digest:
                raise TableCorruptError(f"{path} is damaged: its bytes do not give the digest in its name")
    try:
        whole = pa.memory_map(str(path)).read_buffer()
        batch = _only_batch(whole)
        metadata = batch.schema.metadata or {}
        if metadata.get(_FORMAT) != FORMAT.encode() or metadata.get(_SNAPSHOT) != _snapshot_text(snapshot):
            raise TableCorruptError(f"{path} holds another format or snapshot than its name says")
        columns = json.loads(metadata[_COLUMNS])
        texts = _texts(batch, json.loads(metadata[_TEXTS]))
        return FeatureTable(snapshot, columns, int(metadata[_SEED]), _arrays(whole, batch, len(columns)), texts)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise TableCorruptError(f"{path} is not a table of features: {error}") from error


def _batch(parts: TableParts) -> pa.RecordBatch:
    n_rows, n_columns = len(parts.rows), len(parts.columns)
    data, offsets = parts.sample_ids.data, parts.sample_ids.offsets
    columns: dict[str, pa.Array] = {
        "sample_id": pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), n_rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        ),
        "hash": pa.array(parts.hashes),
        "start": pa.array(parts.start),
        "event_time": pa.array(parts.event_time),
        "ambiguous": pa.array(parts.ambiguous),
    }
    if n_columns:
        # pages of zeros that were never touched take no memory
        columns["values"] = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(n_rows * n_columns)), n_columns)
    if parts.texts and n_rows:
        lists = pa.LargeListArray.from_arrays(
            np.cumsum([0, *map(len, parts.texts.values())]), pa.concat_arrays(list(parts.texts.values()))
        )
        columns["texts"] = pa.DictionaryArray.from_arrays(np.zeros(n_rows, dtype=np.int8), lists)
    return pa.record_batch(columns).replace_schema_metadata(_metadata(parts))


def _metadata(parts: TableParts) -> Mapping[bytes, bytes]:
    return {
        _FORMAT: FORMAT.encode(),
        _SNAPSHOT: _snapshot_text(parts.snapshot),
        _COLUMNS: json.dumps(parts.columns).encode(),
        _SEED: str(parts.seed).encode(),
        _TEXTS: json.dumps(list(parts.texts)).encode(),
    }


def _texts(batch: pa.RecordBatch, columns: Sequence[str]) -> dict[str, Texts]:
    if not columns:
        return {}
    if not batch.num_rows:
        return dict.fromkeys(columns, pa.array([], pa.large_binary()))
    lists = batch.column("texts").dictionary
    if len(lists) != len(columns):
        raise ValueError(f"{len(lists)} dictionaries for {len(columns)} text columns")
    return {column: lists[position].values for position, column in enumerate(columns)}


def _snapshot_text(snapshot: Snapshot) -> bytes:
    return json.dumps(asdict(snapshot), sort_keys=True).encode()


def _only_batch(whole: pa.Buffer) -> pa.RecordBatch:
    reader = pa.ipc.open_file(whole)
    if reader.num_record_batches != 1:
        raise ValueError(f"{reader.num_record_batches} record batches instead of one")
    return reader.get_batch(0)


def _values_position(path: Path) -> int | None:
    """Return where in the file the values begin; None where there are none."""
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
        batch = _only_batch(whole)
        if "values" not in batch.schema.names or not batch.num_rows:
            return None
        return int(batch.column("values").values.buffers()[1].address - whole.address)


def _write_at(file: FileIO, block: Floats, position: int) -> int:
    data = block.reshape(-1).view(np.uint8).data
    written = 0
    while written < len(data):
        written += os.pwrite(file.fileno(), data[written:], position + written)
    return written


def _arrays(whole: pa.Buffer, batch: pa.RecordBatch, n_columns: int) -> TableArrays:
    n_rows = batch.num_rows
    _, offsets, data = batch.column("sample_id").buffers()
    # a word is read where the last id begins: the file goes on behind it
    id_bytes = whole if data is None or not data.size else whole.slice(data.address - whole.address, data.size + _WORD)
    values = batch.column("values").values.to_numpy() if n_columns else np.zeros((n_rows, 0))
    return TableArrays(
        id_bytes=np.frombuffer(id_bytes, dtype=np.uint8),
        offsets=np.frombuffer(offsets, dtype=np.int64)[: n_rows + 1] if n_rows else np.zeros(1, dtype=np.int64),
        hashes=batch.column("hash").to_numpy(),
        start=batch.column("start").to_numpy(),
        event_time=batch.column("event_time").to_numpy(),
        ambiguous=batch.column("ambiguous").to_numpy(),
        values=values.reshape(n_rows, n_columns),
    )

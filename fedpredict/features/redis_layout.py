"""How a snapshot stands in Redis (ADR 0029): keys, rows as bytes, and the scripts that keep it whole.

```
fedpredict:{bank}:people:1                 hash  token, snapshot, buckets: which snapshot is served
fedpredict:{bank}:people:1:TOKEN:meta      hash  what it is, its columns, the seed of the ids' hash, the texts
fedpredict:{bank}:people:1:TOKEN:0 ...     hash  sample id -> row; and under the empty id, which nobody has, a mark
fedpredict:{bank}:people:1:lock            text  held by who reads the warehouse for all
fedpredict:{bank}:views                    set   people:1 ...
```

TOKEN is the snapshot's name and a random part, so that keys are never written twice. All keys of a party have one hash
tag, `{bank}`, and so stand at one server.

A row is the features as float64 and a word of 64 bits, all little-endian: the event time in microseconds times two,
plus one where the id is ambiguous. Text is a position in the column's texts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.errors import ModelNotReadyError, StoreError
from fedpredict.features.base import FeatureRows
from fedpredict.features.build import BLOCK_BYTES, TableParts
from fedpredict.features.hashing import Hashes, IdHash
from fedpredict.features.redis_connection import Script, Word
from fedpredict.features.table import FEW
from fedpredict.features.texts import Texts
from fedpredict.model.arrays import Bools
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

ROWS_PER_BUCKET = 16_000
"""On average. A hash of Redis has a power of two of slots: so many need 16,384."""
MAX_BUCKETS = 256
"""So few that a thousand ids take few commands, and that a script may look at all of them."""
MARK = b""
"""The field that every bucket has and no sample id is."""
_TEXT = "text:"
_HALF = np.uint64(32)

Command: TypeAlias = list[Word]
_Chosen: TypeAlias = tuple[NDArray[np.intp], Mapping[str, Texts] | None]

LOOK = Script("""
local served = redis.call('HMGET', KEYS[1], 'token', 'buckets')
if not served[1] then return {} end
local base = KEYS[1] .. ':' .. served[1] .. ':'
local n = redis.call('EXISTS', base .. 'meta')
for bucket = 0, served[2] - 1 do n = n + redis.call('EXISTS', base .. bucket) end
return {served[1], served[2] + 1 - n}
""")
"""Pointer -> its token and how many keys of its snapshot are missing; empty where nothing is served."""

_REMOVE = """
local function remove(pointer, token, buckets)
  local base = pointer .. ':' .. token .. ':'
  redis.call('UNLINK', base .. 'meta')
  for bucket = 0, buckets - 1 do redis.call('UNLINK', base .. bucket) end
end
"""

COMMIT = Script(
    _REMOVE
    + """
local before = redis.call('HMGET', KEYS[1], 'token', 'snapshot', 'buckets')
if before[2] and before[2] > ARGV[2] then return 'OLDER' end
local base, buckets = KEYS[1] .. ':' .. ARGV[1] .. ':', tonumber(ARGV[3])
if redis.call('EXISTS', base .. 'meta') == 0 then return 'TORN' end
for bucket = 0, buckets - 1 do
  if redis.call('EXISTS', base .. bucket) == 0 then return 'TORN' end
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'snapshot', ARGV[2], 'buckets', buckets)
redis.call('SADD', KEYS[2], ARGV[4])
redis.call('PERSIST', base .. 'meta')
for bucket = 0, buckets - 1 do redis.call('PERSIST', base .. bucket) end
if before[1] then remove(KEYS[1], before[1], before[3]) end
return 'DONE'
"""
)
"""Pointer, views; token, snapshot, buckets, view -> DONE, or OLDER: a newer one is there, or TORN: a key is gone."""

DROP = Script(
    _REMOVE
    + """
local served = redis.call('HMGET', KEYS[1], 'token', 'buckets')
if served[1] then remove(KEYS[1], served[1], served[2]) end
redis.call('DEL', KEYS[1])
return redis.call('SREM', KEYS[2], ARGV[1])
"""
)
"""Pointer, views; view."""

UNLOCK = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
RENEW = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0
""")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one view version."""

    pointer: str
    views: str
    view: str
    """Its name in `views`."""

    @classmethod
    def of(cls, prefix: str, view: str, version: int) -> Keys:
        """Return the keys below a prefix, such as `fedpredict:{bank}`."""
        return cls(f"{prefix}:{view}:{version}", f"{prefix}:views", f"{view}:{version}")

    @property
    def lock(self) -> str:
        """Of who reads the warehouse."""
        return f"{self.pointer}:lock"

    def part(self, token: str, which: int | str) -> str:
        """Return the key of a bucket, or of `meta`."""
        return f"{self.pointer}:{token}:{which}"


def n_buckets_of(n_rows: int) -> int:
    """Return over how many buckets rows are spread."""
    return min(MAX_BUCKETS, max(1, math.ceil(n_rows / ROWS_PER_BUCKET)))


def buckets_of(hashes: Hashes, n_buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each hash; rising where the hashes are."""
    return ((hashes >> _HALF) * np.uint64(n_buckets) >> _HALF).astype(np.int64)


def meta_of(parts: TableParts) -> dict[str, bytes]:
    """Return the fields of the key `meta`."""
    fields = {
        "snapshot": json.dumps(asdict(parts.snapshot), sort_keys=True).encode(),
        "columns": json.dumps(parts.columns).encode(),
        "seed": str(parts.seed).encode(),
        "buckets": str(n_buckets_of(len(parts.rows))).encode(),
    }
    return fields | {_TEXT + column: _packed_texts(texts) for column, texts in parts.texts.items()}


def commands_of(parts: TableParts, keys: Keys, token: str, ttl_s: int) -> Iterator[tuple[list[Command], int]]:
    """Return the commands that write the buckets, some rows at a time, each with the number of fields that it makes.

    Keys live `ttl_s` seconds, unless the snapshot is committed before.
    """
    n_rows, width = len(parts.rows), 8 * (len(parts.columns) + 1)
    n_buckets = n_buckets_of(n_rows)
    starts = np.searchsorted(buckets_of(parts.hashes, n_buckets), np.arange(n_buckets + 1)).tolist()
    step = max(1, BLOCK_BYTES // width)
    for bucket, (first, last) in enumerate(itertools.pairwise(starts)):
        key = keys.part(token, bucket)
        yield [["HSET", key, MARK, last - first], ["EXPIRE", key, ttl_s]], 1
        for begin in range(first, last, step):
            end = min(begin + step, last)
            data = _packed_rows(parts, begin, end)
            command: Command = ["HSET", key]
            for row, sample_id in enumerate(parts.sample_ids.cut(begin, end)):
                command += (sample_id, data[row * width : (row + 1) * width])
            yield [command], end - begin


def _packed_rows(parts: TableParts, begin: int, end: int) -> bytes:
    block = np.empty((end - begin, len(parts.columns) + 1), dtype="<f8")
    block[:, :-1] = parts.block(begin, end)
    block.view("<i8")[:, -1] = parts.event_time[begin:end] * 2 + parts.ambiguous[begin:end]
    return block.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class ServedSnapshot:
    """A snapshot in Redis as a reader knows it: everything but the rows.

    Attributes:
        token: Names its keys.
        snapshot: What it is.
        columns: Column -> its place in a row.
        hashing: Of the ids.
        n_buckets: Over which the rows are spread.
        texts: By column that is text.
    """

    token: str
    snapshot: Snapshot
    columns: Mapping[str, int]
    hashing: IdHash
    n_buckets: int
    texts: Mapping[str, Texts]
    _chosen: dict[tuple[str, ...], _Chosen] = field(default_factory=dict)

    @classmethod
    def of(cls, token: str, meta: Mapping[bytes, bytes]) -> ServedSnapshot:
        """Return what the key `meta` says; raise `StoreError` where it cannot be read."""
        try:
            columns = json.loads(meta[b"columns"])
            return cls(
                token,
                _snapshot(json.loads(meta[b"snapshot"])),
                {column: place for place, column in enumerate(columns)},
                IdHash(int(meta[b"seed"])),
                int(meta[b"buckets"]),
                {column: _texts(meta[key]) for column in columns if (key := (_TEXT + column).encode()) in meta},
            )
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"what stands in Redis as snapshot {token} is of another kind: {error!r}") from error

    @property
    def token_bytes(self) -> bytes:
        """As Redis returns it."""
        return self.token.encode()

    def chosen(self, columns: Sequence[str]) -> _Chosen:
        """Return where columns stand in a row, and the texts of those that are text; the same object each time.

        Raises:
            ModelNotReadyError: The snapshot has no such column.
        """
        key = tuple(columns)
        known = self._chosen.get(key)
        if known is None:
            missing = [column for column in key if column not in self.columns]
            if missing:
                view = self.snapshot.view
                raise ModelNotReadyError(f"view {view.name} version {view.version} has no column {', '.join(missing)}")
            places = np.array([self.columns[column] for column in key], dtype=np.intp)
            texts = {column: self.texts[column] for column in key if column in self.texts}
            known = self._chosen.setdefault(key, (places, texts or None))
        return known

    def groups(self, ids: Sequence[bytes]) -> dict[int, list[int]]:
        """Return by bucket which of some ids it has, if it has them; by their places."""
        hashes = self.hashing.few(ids) if len(ids) <= FEW else self.hashing.many(SampleIds.of(ids)).hashes
        groups: dict[int, list[int]] = {}
        for place, bucket in enumerate(buckets_of(np.array(hashes, dtype=np.uint64), self.n_buckets).tolist()):
            groups.setdefault(bucket, []).append(place)
        return groups

    def rows(self, found: Sequence[bytes | None], columns: Sequence[str]) -> FeatureRows:
        """Return rows, or None for ids that have none, as features.

        Raises:
            StoreError: A row has another length than the columns give.
        """
        (places, texts), n_samples = self.chosen(columns), len(found)
        width = len(self.columns) + 1
        stored = [row for row in found if row is not None]
        data = b"".join(stored)
        if len(data) != 8 * width * len(stored):
            raise StoreError(f"rows of snapshot {self.token} in Redis have another length than its columns give")
        block = np.frombuffer(data, dtype="<f8").reshape(len(stored), width)
        words = block.view("<i8")[:, -1]
        values, times, ambiguous = block.take(places, axis=1), words >> 1, (words & 1) != 0
        if len(stored) == n_samples:
            return FeatureRows(values, np.ones(n_samples, np.bool_), ambiguous, times, not ambiguous.any(), texts)
        is_found: Bools = np.array([row is not None for row in found], dtype=np.bool_)
        of_all = FeatureRows(
            np.full((n_samples, len(places)), np.nan),
            is_found,
            np.zeros(n_samples, dtype=np.bool_),
            np.zeros(n_samples, dtype=np.int64),
            texts=texts,
        )
        of_all.values[is_found], of_all.ambiguous[is_found], of_all.event_time[is_found] = values, ambiguous, times
        return of_all


def _snapshot(fields: dict[str, object]) -> Snapshot:
    view = dict(fields["view"])  # type: ignore[call-overload]  # anything else is a TypeError that the caller expects
    view["features"] = tuple(
        ViewFeature(each["name"], each["column"], ColumnType(each["type"])) for each in view["features"]
    )
    return Snapshot(FeatureView(**view), str(fields["snapshot"]), int(str(fields["n_rows"])))


def _packed_texts(texts: Texts) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"texts": texts})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _texts(packed: bytes) -> Texts:
    (batch,) = pa.ipc.open_stream(packed)
    return batch.column("texts")

"""Buckets of offline tasks answered from the warehouse: its engine reads or computes shares, piece by piece (ADR 0038).

A piece holds the shares of the ids in one of some buckets, in the order of their places. It is kept while the next
buckets need it, so that every row of a day or snapshot is read once for a task that asks for bucket after bucket in
that order; memory holds some pieces, however many rows there are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import override

from fedpredict.errors import ProtocolError
from fedpredict.model.arrays import Bools, Floats, Micros, Statuses, all_true
from fedpredict.model.buckets import HASH_BITS, Hashes, place_bounds, places_of
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.populations import BucketQuery, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.observe.heap import give_back_memory
from fedpredict.scoring.buckets import BucketPart
from fedpredict.scoring.inputs import NEVER
from fedpredict.scoring.pieces import Pieces, PieceSource
from fedpredict.scoring.replies import oldest_of
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.share_rows import scores_matrix
from fedpredict.wire.arrow_ids import ids_from_array, ids_to_array, joined

IDLE_S = 60.0
"""A piece that nobody asked for so long is let go."""
_MAX_BYTES = 2**31 - 1
_MOST_BEGUN = 16
_BegunKey = tuple[tuple[str, ...], int, int, str]
"""Shares, bucket, number of buckets, digest of the ids."""
_OK = np.uint8(SampleStatus.OK)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The shares of some ids, in the order of their places.

    Attributes:
        ids: Shape (n,), binary.
        places: Shape (n,), never falling.
        status: Shape (n,).
        values: Shape (n, n_scores); NaN where the status is not OK.
        event_time: Shape (n,); `NEVER` where there is none.
    """

    ids: pa.Array
    places: Hashes
    status: Statuses
    values: Floats
    event_time: Micros


@dataclass(slots=True)
class _Kept:
    future: Future[Piece]
    used_at: float


class WarehouseBuckets(BucketPart):
    """Answers for a part from its warehouse; no online store is asked."""

    def __init__(
        self,
        party: str,
        pieces: Pieces,
        state: Callable[[], PartyState],
        oldest: Callable[[LoadedModel, Mode], int | None],
        *,
        at_once: int,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            party: The party's id.
            pieces: Reads or computes them.
            state: The models that are loaded.
            oldest: Model and mode -> the event time before which shares are STALE, in microseconds; None: none is.
            at_once: How many pieces are made at the same time, and how many kept.
        """
        self._party = party
        self._pieces = pieces
        self._state = state
        self._oldest = oldest
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(2 * at_once, "fedpredict-pieces")
        self._lock = threading.Lock()
        self._making = threading.BoundedSemaphore(at_once)
        self._lets_go = False
        self._begun: OrderedDict[_BegunKey, _Begun] = OrderedDict()
        self._kept: OrderedDict[tuple[object, int], _Kept] = OrderedDict()

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self._party

    @override
    async def answer(self, query: BucketQuery, sample_ids: SampleIds, deadline_s: float) -> PartyReply:
        """Return the share of a bucket's ids.

        Raises:
            ModelNotFoundError, ManifestMismatchError, ModelNotReadyError: As `PartyScorer.score` says.
            ProtocolError: An id is not in the bucket.
            WarehouseError: As the warehouse says.
            TimeoutError: `deadline_s` passed. A piece that was begun is made all the same; what is asked again goes on
                with it, and behind the pieces that were looked at.
        """
        loop = asyncio.get_running_loop()
        ends = time.monotonic() + deadline_s
        compute = partial(copy_context().run, self._answer, query, sample_ids, ends)
        try:
            async with asyncio.timeout(deadline_s):
                return await loop.run_in_executor(self._threads, compute)
        finally:
            self._let_go_later(loop)

    def _answer(self, query: BucketQuery, sample_ids: SampleIds, ends: float) -> PartyReply:
        start = time.perf_counter()
        model = self._state().version(query.model_id, query.params_sha256)
        source = self._pieces.source(model, query.mode)
        numbers = source.numbers_of(query.bucket, query.n_buckets)
        # a short list over a large table needs many pieces: what is asked again goes on where it was
        key = (source.key, query.bucket, query.n_buckets, digest_of(sample_ids)) if len(numbers) > 1 else None
        begun = self._take_begun(key) or _Begun(_Found(sample_ids, model.description.n_scores))
        found, bounds = begun.found, place_bounds(query.bucket, query.n_buckets)
        for number in numbers[begun.n_done :]:
            if time.monotonic() > ends:
                self._keep_begun(key, begun)
                raise TimeoutError
            found.take_from(self._piece(source, number), *bounds)
            begun.n_done += 1
        found.check_absent(query.bucket, query.n_buckets)
        status, oldest = found.status, self._oldest(model, query.mode)
        if oldest is not None:
            status[(status == _OK) & (found.event_time < oldest)] = SampleStatus.STALE
        known, _ = oldest_of(np.where(status == _OK, found.event_time, NEVER), ())
        share = build_share(found.values, status)
        elapsed_s = time.perf_counter() - start
        return PartyReply(share=share, oldest_event_time=known, elapsed_s=elapsed_s, sources=(source.source,))

    def _take_begun(self, key: _BegunKey | None) -> _Begun | None:
        with self._lock:
            return None if key is None else self._begun.pop(key, None)

    def _keep_begun(self, key: _BegunKey | None, begun: _Begun) -> None:
        """Keep what was found so far, under a key that tells its ids; without one it was a single piece."""
        if key is None:
            return
        with self._lock:
            other = self._begun.get(key)  # of a question that was repeated before this one gave up
            if other is None or other.n_done < begun.n_done:
                self._begun[key] = begun
            while len(self._begun) > _MOST_BEGUN:
                self._begun.popitem(last=False)

    def _piece(self, source: PieceSource, number: int) -> Piece:
        """Return a piece; of several who ask for it at the same time, one makes it."""
        key, now = (source.key, number), time.monotonic()
        with self._lock:
            kept = self._kept.get(key)
            is_mine = kept is None
            if kept is None:
                kept = self._kept[key] = _Kept(Future(), now)
                while len(self._kept) > self._at_once:
                    self._kept.popitem(last=False)
            kept.used_at = now
            self._kept.move_to_end(key)
        if is_mine:
            try:
                with self._making:
                    kept.future.set_result(_ordered(source.read(number), source.n_scores))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                self._pieces.forget(source)
                kept.future.set_exception(error)
                raise
        return kept.future.result()

    def _let_go_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._lets_go:
            self._lets_go = True
            loop.call_later(IDLE_S, self._let_go, loop)

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go of pieces that nobody asked for lately, and look again later as long as there are any."""
        self._lets_go = False
        before = time.monotonic() - IDLE_S
        with self._lock:
            gone = [key for key, kept in self._kept.items() if kept.used_at < before]
            for key in gone:
                del self._kept[key]
            is_left = bool(self._kept)
        if gone:
            loop.run_in_executor(self._threads, give_back_memory)  # takes long enough for online questions to notice
        if is_left:
            self._let_go_later(loop)


@dataclass(slots=True)
class _Begun:
    """A bucket that needs many pieces, and how many of them were looked at."""

    found: _Found
    n_done: int = 0


class _Found:
    """What pieces say of the ids of a bucket, in the order of the ids."""

    def __init__(self, sample_ids: SampleIds, n_scores: int) -> None:
        n_samples = len(sample_ids)
        self._ids = sample_ids
        self._array = ids_to_array(sample_ids)
        self._absent: Bools = np.ones(n_samples, dtype=np.bool_)
        self.status: Statuses = np.full(n_samples, SampleStatus.NOT_FOUND, dtype=np.uint8)
        self.values: Floats = np.full((n_samples, n_scores), np.nan)
        self.event_time: Micros = np.full(n_samples, NEVER, dtype=np.int64)

    def take_from(self, piece: Piece, first: int, end: int) -> None:
        """Take what a piece says of the ids whose places are `first` to `end`, the latter not included."""
        start = int(np.searchsorted(piece.places, np.uint32(first)))
        stop = len(piece.places) if end >> HASH_BITS else int(np.searchsorted(piece.places, np.uint32(end)))
        theirs = piece.ids.slice(start, stop - start)
        at: slice | NDArray[np.intp]
        rows: slice | NDArray[np.int64]
        if theirs.equals(self._array):
            at, rows = slice(None), slice(start, stop)
        else:
            found = pc.index_in(self._array, value_set=theirs)
            at = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
            rows = start + found.drop_null().to_numpy().astype(np.int64)
        self.status[at], self.values[at] = piece.status[rows], piece.values[rows]
        self.event_time[at] = piece.event_time[rows]
        self._absent[at] = False

    def check_absent(self, bucket: int, n_buckets: int) -> None:
        """Tell what is no sample id; raise `ProtocolError` where an id was looked for in the wrong bucket."""
        valid = valid_sample_ids(self._ids)
        if not all_true(valid):
            self.status[~valid] = SampleStatus.ID_INVALID
        places = places_of(self._ids.select(self._absent & valid))
        first, end = place_bounds(bucket, n_buckets)
        if ((places < first) | (places >= end)).any():
            raise ProtocolError(f"sample ids that are not in bucket {bucket} of {n_buckets}")


def _ordered(rows: pa.Table, n_scores: int) -> Piece:
    """Return rows of shares in the order of their ids' places: not every engine keeps the order of a snapshot."""
    instants = rows.column("event_time").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    status = rows.column("status").to_numpy().astype(np.uint8)
    values = scores_matrix(rows.column("scores"), n_scores)
    event_time = pc.fill_null(instants, NEVER).to_numpy()
    ids = ids_from_array(joined(rows.column("sample_id")), _MAX_BYTES)
    del rows, instants  # of which the ids' own column is not held any longer
    places = places_of(ids)
    if (places[1:] < places[:-1]).any():
        order = np.argsort(places, kind="stable")  # some runs that rise, of which a merge is made
        places, ids, status = places[order], ids.take(order), status[order]
        values, event_time = values[order], event_time[order]
    return Piece(ids_to_array(ids), places, status, values, event_time)

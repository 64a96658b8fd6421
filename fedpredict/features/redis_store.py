"""The online store in Redis or Valkey: one copy for processes on any number of machines (ADR 0029).

A snapshot is written under keys of its own, which expire by themselves until one script puts them in the place of those
before. A reader asks at once which snapshot is served, for rows of the one that it knows, and for the marks of their
buckets. Keys are never changed once they are committed: so it gets rows of one whole snapshot, or knows that it has to
ask again, or that Redis has lost some.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, StoreError
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.features.build import TableParts, prepare
from fedpredict.features.redis_connection import RedisConnection, Word
from fedpredict.features.redis_layout import (
    COMMIT,
    DROP,
    LOOK,
    MARK,
    RENEW,
    UNLOCK,
    Command,
    Keys,
    ServedSnapshot,
    commands_of,
    meta_of,
    n_buckets_of,
)
from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES
from fedpredict.model.sample_ids import SampleIds
from fedpredict.observe.heap import give_back_memory
from fedpredict.tables.views import Snapshot

logger = logging.getLogger(__name__)

IDS_PER_CALL = 4_096
"""So many ids are asked for at once, to bound what stands in both ends' buffers."""
UNFINISHED_S = 3_600
"""How long a snapshot may take to be written; what a killed writer leaves is gone after that."""
RETRY_S = 0.5
"""After a call that failed, look-ups say so at once for this long: threads that wait would hold up the process."""
_TRIES = 5
_LOCK_MS = 30_000
_WAIT_S = 0.2


class RedisStore(OnlineStore):
    """Snapshots at a Redis that any number of processes of one party share."""

    def __init__(
        self,
        connection: RedisConnection,
        prefix: str,
        *,
        writing: RedisConnection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask for nothing yet.

        Args:
            connection: For all that is answered at once.
            prefix: Of all keys: this party's alone. What is not of a view that is served is removed from it.
            writing: For pieces of snapshots, with time enough; default: the same.
            clock: In seconds.
        """
        self._connection = connection
        self._writing = writing or connection
        self._prefix = prefix
        self._clock = clock
        self._served: dict[tuple[str, int], ServedSnapshot] = {}
        self._away, self._away_until = "", 0.0

    @property
    @override
    def is_remote(self) -> bool:
        """Yes."""
        return True

    @property
    @override
    def held(self) -> frozenset[tuple[str, int]]:
        """What Redis lists; where it is away, what this process knows of."""
        try:
            (names,) = self._connection.send([["SMEMBERS", f"{self._prefix}:views"]])
        except StoreError:
            return frozenset(self._served)
        pairs = (name.decode().rpartition(":") for name in names)
        return frozenset(self._served) | {(view, int(version)) for view, _, version in pairs}

    @override
    def publish(self, snapshot: Snapshot, rows: pa.Table) -> None:
        """Write new keys and commit them; where a newer snapshot is served by then, it stays."""
        parts = prepare(snapshot, rows)
        del rows
        self._check_policy()
        self._write(parts)
        give_back_memory()

    @override
    def serve(self, snapshot: Snapshot, read: Callable[[], pa.Table]) -> None:
        """Take the snapshot, or a newer one, that is there as a whole; else write it."""
        self._check_policy()
        keys = self._keys(snapshot.view.name, snapshot.view.version)
        while not self._take(snapshot):
            with self._lock(keys.lock) as is_ours:
                if not is_ours:
                    time.sleep(_WAIT_S)
                elif not self._take(snapshot):
                    self.publish(snapshot, read())
                    break
        self._away_until = 0.0

    @override
    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        """Return features from the snapshot that is served at this moment.

        A snapshot of which Redis lost a part is not ready until it is published again.
        """
        if self._clock() < self._away_until:
            raise ModelNotReadyError(self._away)
        try:
            return self._lookup((view, view_version), columns, SampleIds.of(sample_ids))
        except StoreError as error:
            self._away = str(error)
            self._away_until = self._clock() + RETRY_S
            raise ModelNotReadyError(self._away) from error

    @override
    def snapshot_of(self, view: str, view_version: int) -> Snapshot | None:
        """Return what this process saw last, without asking Redis."""
        served = self._served.get((view, view_version))
        return None if served is None else served.snapshot

    @override
    def drop(self, view: str, view_version: int) -> None:
        """Remove a view version, for all processes."""
        self._served.pop((view, view_version), None)
        keys = self._keys(view, view_version)
        try:
            self._writing.run(DROP, [keys.pointer, keys.views], [keys.view])
        except StoreError as error:
            logger.warning("store.not_removed", extra={"view": view, "reason": str(error)})

    def check(self) -> str:
        """Return where Redis is and which view versions it holds; raise `StoreError` where it could not be used."""
        self._check_policy()
        views = ", ".join(f"{view} {version}" for view, version in sorted(self.held))
        return f"Redis at {self._connection.name} holds {views or 'no features yet'}"

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
        self._writing.close()

    def _keys(self, view: str, version: int) -> Keys:
        return Keys.of(self._prefix, view, version)

    def _lookup(self, name: tuple[str, int], columns: Sequence[str], sample_ids: SampleIds) -> FeatureRows:
        for _ in range(_TRIES):
            served = self._served.get(name) or self._load(name)
            if served is None:
                break
            served.chosen(columns)
            rows = self._rows(name, served, sample_ids)
            if rows is not None:
                return served.rows(rows, columns)
        raise ModelNotReadyError(f"no snapshot of view {name[0]} version {name[1]} is loaded")

    def _rows(self, name: tuple[str, int], served: ServedSnapshot, ids: SampleIds) -> list[bytes | None] | None:
        """Return the ids' rows; None where another snapshot is served by now, or none."""
        lengths = ids.lengths
        usable = (lengths > 0) & (lengths <= MAX_SAMPLE_ID_BYTES)
        asked = list(ids.select(usable))
        found: list[bytes | None] = []
        for begin in range(0, len(asked), IDS_PER_CALL):
            some = self._some_rows(name, served, asked[begin : begin + IDS_PER_CALL])
            if some is None:
                if self._served.get(name) is served:
                    self._served.pop(name, None)
                return None
            found += some
        if len(asked) == len(ids):
            return found
        of_all: list[bytes | None] = [None] * len(ids)
        for place, row in zip(np.flatnonzero(usable).tolist(), found, strict=True):
            of_all[place] = row
        return of_all

    def _some_rows(self, name: tuple[str, int], served: ServedSnapshot, ids: list[bytes]) -> list[bytes | None] | None:
        """Ask once: which snapshot is served, and for each bucket whether it is there and its rows."""
        keys = self._keys(*name)
        pointer: Command = ["HGET", keys.pointer, "token"]
        commands, groups = [pointer], served.groups(ids)
        for bucket, places in groups.items():
            commands.append(["HMGET", keys.part(served.token, bucket), MARK, *[ids[place] for place in places]])
        (token, *answers) = self._connection.send(commands)
        found: list[bytes | None] = [None] * len(ids)
        for places, (mark, *rows) in zip(groups.values(), answers, strict=True):
            if mark is None:  # replaced while we asked, or lost
                token = self._connection.send([pointer])[0] if token == served.token_bytes else token
                if token == served.token_bytes:
                    raise ModelNotReadyError(
                        f"Redis at {self._connection.name} has lost a part of snapshot {served.snapshot.snapshot} of "
                        f"view {name[0]}; it is published again"
                    )
                return None
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return found if token == served.token_bytes else None

    def _load(self, name: tuple[str, int]) -> ServedSnapshot | None:
        """Return what is served, as its keys say, and know it from now on; None where nothing is, or is whole."""
        keys = self._keys(*name)
        for _ in range(_TRIES):
            (token,) = self._connection.send([["HGET", keys.pointer, "token"]])
            if token is None:
                break
            (meta,) = self._connection.send([["HGETALL", keys.part(token.decode(), "meta")]])
            if meta:  # else it was replaced in between, or lost
                fields = meta if isinstance(meta, dict) else dict(zip(meta[::2], meta[1::2], strict=True))
                served = self._served[name] = ServedSnapshot.of(token.decode(), fields)
                return served
        return None

    def _take(self, snapshot: Snapshot) -> bool:
        """Return whether the snapshot, or a newer one, is served as a whole; this process knows of it then."""
        name = (snapshot.view.name, snapshot.view.version)
        look = self._connection.run(LOOK, [self._keys(*name).pointer], [])
        if not look or look[1]:
            self._served.pop(name, None)
            return False
        served = self._served.get(name)
        if served is None or served.token != look[0].decode():
            served = self._load(name)
        if served is None:
            return False
        return served.snapshot == snapshot or served.snapshot.snapshot > snapshot.snapshot

    def _write(self, parts: TableParts) -> None:
        snapshot = parts.snapshot
        keys = self._keys(snapshot.view.name, snapshot.view.version)
        token = f"{snapshot.snapshot}.{secrets.token_hex(8)}"
        n_buckets = n_buckets_of(len(parts.rows))
        try:
            self._write_parts(parts, keys, token)
            words: list[Word] = [token, snapshot.snapshot, n_buckets, keys.view]
            done = self._writing.run(COMMIT, [keys.pointer, keys.views], words)
        except StoreError:
            self._remove(keys, token, n_buckets)
            raise
        if done == b"DONE":
            self._load((snapshot.view.name, snapshot.view.version))
            extra = {"view": snapshot.view.name, "snapshot": snapshot.snapshot, "n_ids": len(parts.rows)}
            logger.info("store.published", extra=extra)
            return
        self._remove(keys, token, n_buckets)
        if done != b"OLDER":
            raise self._lost(snapshot)
        logger.info("store.newer_is_served", extra={"view": snapshot.view.name, "snapshot": snapshot.snapshot})

    def _write_parts(self, parts: TableParts, keys: Keys, token: str) -> None:
        meta = keys.part(token, "meta")
        fields: list[Word] = [word for pair in meta_of(parts).items() for word in pair]
        self._writing.send([["HSET", meta, *fields], ["EXPIRE", meta, UNFINISHED_S]])
        for commands, n_fields in commands_of(parts, keys, token, UNFINISHED_S):
            if self._writing.send(commands)[0] != n_fields:
                raise self._lost(parts.snapshot)

    def _lost(self, snapshot: Snapshot) -> StoreError:
        return StoreError(
            f"Redis at {self._writing.name} lost a part of snapshot {snapshot.snapshot} while that was written, which "
            f"may take {UNFINISHED_S} s; it is tried again"
        )

    def _remove(self, keys: Keys, token: str, n_buckets: int) -> None:
        """Remove what was not committed; where that fails, it expires."""
        try:
            self._writing.send([["UNLINK", keys.part(token, which)] for which in ("meta", *range(n_buckets))])
        except StoreError as error:
            logger.warning("store.not_removed", extra={"view": keys.view, "reason": str(error)})

    def _check_policy(self) -> None:
        """Raise `StoreError` where Redis may throw features away to make room."""
        memory = self._connection.memory()
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise StoreError(
                f"Redis at {self._writing.name} may evict features (maxmemory-policy {policy}): set maxmemory-policy "
                "noeviction, in its configuration or by CONFIG SET"
            )

    @contextmanager
    def _lock(self, key: str) -> Iterator[bool]:
        """Hold a lock as long as this process lives, unless another one does; yields whether it is ours."""
        ours = secrets.token_hex(8)
        (taken,) = self._writing.send([["SET", key, ours, "NX", "PX", _LOCK_MS]])
        if not taken:
            yield False
            return
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(key, ours, done), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            done.set()
            renewing.join()
            try:
                self._writing.run(UNLOCK, [key], [ours])
            except StoreError as error:  # it expires
                logger.warning("store.not_unlocked", extra={"reason": str(error)})

    def _renew(self, key: str, ours: str, done: threading.Event) -> None:
        while not done.wait(_LOCK_MS / 3_000):
            try:
                self._writing.run(RENEW, [key], [ours, _LOCK_MS])
            except StoreError as error:
                logger.warning("store.lock_not_renewed", extra={"reason": str(error)})

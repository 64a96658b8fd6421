"""Raw rows out of Redis: for each sample id a sorted set of JSON objects by event time (docs/realtime.md, ADR 0035)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from threading import BoundedSemaphore
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError, StoreError
from fedpredict.features.event_feed import OddEventError, stored_value
from fedpredict.features.event_source import stored_column
from fedpredict.features.raw import CheckedSource, RawSource, arrow_schema
from fedpredict.features.redis_connection import RedisConnection, RefusedCommand, Word
from fedpredict.model.ids import whole_number
from fedpredict.tables.script_types import ScriptType
from fedpredict.tables.script_view import ScriptSource
from fedpredict.tables.script_window import Window

MOST_AT_ONCE = 8
"""Questions to one Redis at the same time: half of the threads, so that one that hangs leaves some to others."""
WAIT_S = 0.5
"""How long one more waits."""
RETRY_S = 0.5
"""After a call that failed, the next ones fail at once for this long: threads that wait would hold up the process."""
CHECKED_KEYS = 20
"""Of those that are there, how many `check` reads."""
CHECKED_SCANS = 20
"""Steps over the server's keys, of about a thousand each, in which `check` looks for them."""
CHECKED_MEMBERS = 100
"""The newest of a key, which `check` reads."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**53
"""Up to so large numbers are a score exactly."""
_SMALLEST = 10**14
"""1973 in microseconds. Smaller scores are seconds or milliseconds."""
_DOCS = "write it as docs/realtime.md says"

Member: TypeAlias = tuple[int, dict[str, Any]]
"""Event time in microseconds, and columns."""


class RedisSource(RawSource, CheckedSource):
    """An event table in Redis: `<prefix><sample id>` is a sorted set."""

    def __init__(
        self,
        connection: RedisConnection,
        source: ScriptSource,
        key: str,
        *,
        prefix: str,
        window: Window | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            connection: Where it is; closed by this.
            source: Its declaration.
            key: The column that is the sample id.
            prefix: What every key begins with.
            window: How far back the script looks; older events are not read. None: all are.
            clock: Seconds of a clock that never goes back.
        """
        self._connection = connection
        self._source = source
        self._types = source.types
        self._key = key
        self._prefix = prefix
        self._window = window
        self._clock = clock
        self._away, self._away_until = "", -inf
        self._turns = BoundedSemaphore(MOST_AT_ONCE)
        # numbers of decimals have digits that no double has
        exact = Decimal if any(kind.kind == "decimal" for kind in self._types.values()) else None
        self._decode = msgspec.json.Decoder(dict[str, Any], float_hook=exact).decode

    @override
    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        """Return the events of some ids.

        Raises:
            ModelNotReadyError: Redis is away, starting, busy, or refuses the login.
            StoreError: What is there cannot be used: another type of key, or a member that is not as declared.
        """
        ids = [each for each in sample_ids if self._is_value(each)]
        rows: list[tuple[str, Member]] = []
        place = f"{self._prefix}<sample id>"  # logs hold no sample ids
        for sample_id, members in zip(ids, self._ask(ids, before), strict=True):
            rows += [(sample_id, each) for each in self._different(members, sample_id, place)]
        return self._table(rows, place)

    @override
    def check(self) -> tuple[str, str]:
        """Read some keys, and say what is there."""
        found = self._some_keys()
        if not found:
            raise StoreError(f"{self._connection.name} has no key that begins with {self._prefix}; {_DOCS}")
        columns: set[str] = set()
        n_members = 0
        commands = [("ZREVRANGE", each, 0, CHECKED_MEMBERS - 1, "WITHSCORES") for each in found]
        for key, answer in zip(found, self._connection.answers(commands), strict=True):
            sample_id = key[len(self._prefix.encode()) :].decode("utf-8", "replace")
            place = f"{self._prefix}{sample_id}"
            members = self._different(self._members(answer, place), sample_id, place)
            self._table([(sample_id, each) for each in members], place)
            n_members += len(members)
            columns.update(*(content for _, content in members))
        name = self._connection.name
        told = f"{name} has readable events under {self._prefix}: {n_members} of {len(found)} keys read"
        filled = {self._key, str(self._source.event_time)}
        lacking = sorted(set(self._types) - filled - columns)
        return told, f"no event read has {', '.join(lacking)}, which is NULL then" if lacking else ""

    @override
    def close(self) -> None:
        """Close every connection."""
        self._connection.close()

    def _is_value(self, sample_id: str) -> bool:
        """Return whether the key's column can have an id as its value."""
        return self._types[self._key].kind != "int" or whole_number(sample_id) is not None

    def _ask(self, ids: Sequence[str], before: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Give each id's members, oldest first, out of one pipeline."""
        window, end = self._window, f"({before}"
        keys = [self._prefix.encode() + each.encode() for each in ids]
        start = "-inf" if window is None else str(before - window.seconds * 1_000_000)
        commands: list[Sequence[Word]] = [("ZRANGEBYSCORE", key, start, end, "WITHSCORES") for key in keys]
        if window is not None and window.needs_older:
            older = ("-inf", "WITHSCORES", "LIMIT", 0, 1)
            commands += [("ZREVRANGEBYSCORE", key, f"({start}", *older) for key in keys]
        place = f"{self._prefix}<sample id>"
        answers = [self._members(each, place) for each in self._answers(commands)]
        for at in range(len(ids)):
            yield [*(answers[len(ids) + at] if len(answers) > len(ids) else ()), *answers[at]]

    def _answers(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        if not commands:
            return []
        if self._clock() < self._away_until:
            raise ModelNotReadyError(self._away)
        if not self._turns.acquire(timeout=WAIT_S):
            name = self._connection.name
            raise ModelNotReadyError(f"{name} has {MOST_AT_ONCE} questions of {self._prefix} to answer already")
        try:
            return self._connection.answers(commands)
        except StoreError as error:
            self._away, self._away_until = str(error), self._clock() + RETRY_S
            raise ModelNotReadyError(self._away) from error
        finally:
            self._turns.release()

    def _members(self, answer: Any, place: str) -> list[tuple[bytes, bytes]]:
        if isinstance(answer, RefusedCommand):
            if answer.code == "WRONGTYPE":
                raise StoreError(f"{place} in {self._connection.name} is no sorted set; {_DOCS}")
            raise StoreError(f"{place} in {self._connection.name}: {answer.told}")
        return list(zip(answer[::2], answer[1::2], strict=True))

    def _different(self, members: Sequence[tuple[bytes, bytes]], sample_id: str, place: str) -> list[Member]:
        """Return members as columns; of several with one event id the newest, and of those of one instant the last."""
        number = str(self._source.event_id)
        found: dict[str, Member] = {}
        for member, score in members:
            at, content = self._parsed(member, score, sample_id, place)
            event_id = content.get(number)
            if event_id is None:
                raise self._odd(place, score, f"has no {number}, the event's id: without it nothing counts once")
            found[str(event_id)] = (at, content)
        return list(found.values())

    def _parsed(self, member: bytes, score: bytes, sample_id: str, place: str) -> Member:
        try:
            content = self._decode(member)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise self._odd(place, score, "is no JSON object") from None
        number = float(score)
        if abs(number) > _LARGEST or number != int(number):
            raise self._odd(place, score, "has a score that is no whole number of microseconds since 1970 UTC")
        at, column, key = int(number), str(self._source.event_time), content.get(self._key)
        said = content.get(column)
        if said is not None and self._micros(said, place, score) != at:
            raise self._odd(place, score, f"has another {column} than its score, which is microseconds since 1970 UTC")
        if said is None and at < _SMALLEST:
            raise self._odd(place, score, "has a score before 1973: seconds or milliseconds, and not microseconds?")
        if key is not None and str(key) != sample_id:
            raise self._odd(place, score, f"has another {self._key} than its key")
        return at, content

    def _micros(self, said: object, place: str, score: bytes) -> int:
        column = str(self._source.event_time)
        try:
            text = stored_value(column, said, self._types[column])
        except OddEventError as error:
            raise self._odd(place, score, f"has a wrong field: {error}") from None
        return (datetime.fromisoformat(str(text)) - _EPOCH) // datetime.resolution

    def _odd(self, place: str, score: bytes, what: str) -> StoreError:
        return StoreError(
            f"the member of {place} with the score {score.decode()} in {self._connection.name} {what}; {_DOCS}"
        )

    def _table(self, rows: Sequence[tuple[str, Member]], place: str) -> pa.Table:
        arrays = []
        for name, kind in self._types.items():
            if name == self._source.event_time:
                array = pa.array([at for _, (at, _) in rows], pa.int64())
            elif name == self._key:
                array = pa.array([int(each) if kind.kind == "int" else each for each, _ in rows])
            else:
                array = self._column(name, kind, rows, place)
            arrays.append(array)
        schema = arrow_schema(self._source)
        return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)

    def _column(self, name: str, kind: ScriptType, rows: Sequence[tuple[str, Member]], place: str) -> pa.Array:
        values: list[Any] = []
        for _, (at, content) in rows:
            value = content.get(name)
            if value is not None:
                try:
                    value = stored_value(name, value, kind)
                except OddEventError as error:
                    raise self._odd(place, str(at).encode(), f"has a wrong field: {error}") from None
            values.append(value)
        return stored_column(values, kind)

    def _some_keys(self) -> list[bytes]:
        pattern = "".join(f"\\{each}" if each in "*?[]\\^-" else each for each in self._prefix) + "*"
        found: dict[bytes, None] = {}
        cursor: Word = 0
        for _ in range(CHECKED_SCANS):
            cursor, keys = self._connection.send([("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)])[0]
            found.update(dict.fromkeys(keys))
            if len(found) >= CHECKED_KEYS or int(cursor) == 0:
                break
        return list(found)[:CHECKED_KEYS]

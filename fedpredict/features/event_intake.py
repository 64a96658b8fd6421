"""Raw events as they arrive -> the event store: all of a file or a message, or nothing."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa

from fedpredict.errors import EventsRefusedError, FeatureFileError, FieldError, ProtocolError
from fedpredict.features.event_feed import Feed, OddEventError
from fedpredict.features.files import read_columns
from fedpredict.state.event_base import EventStore, StoredEvent
from fedpredict.wire.arrow_codec import check_messages
from fedpredict.wire.arrow_plain import plain_column
from fedpredict.wire.members import RepeatedMemberError, check_members, repeats

logger = logging.getLogger(__name__)

MAX_TOLD = 20
"""Refused rows, or columns that were left out, that are told one by one."""
MAX_SENT_BYTES = 64 * 2**20
"""Most bytes that a column of a batch may have in memory."""
TOGETHER = 50_000
"""Events of one transaction. A load that is killed leaves those before it; loading again stores the rest."""

NO_STREAM = "the body is no Arrow IPC stream, or a damaged one"

Row: TypeAlias = Mapping[str, object] | OddEventError
"""The columns of a row, or why it is none."""
Rows: TypeAlias = Iterable[tuple[int, Row]]
"""Line or row, from 1, and what is there."""

_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_MARK = b"\xef\xbb\xbf"
"""What some programs begin a file of UTF-8 with."""
_ARROW_FILE, _PARQUET, _ARROW_STREAM = b"ARROW1", b"PAR1", b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of events.

    Attributes:
        accepted: How many are stored now that were not before.
        duplicate: How many have the id of one that is stored, which stays as it is.
        ignored: Columns that came and that no view declares.
    """

    accepted: int
    duplicate: int
    ignored: tuple[str, ...]


def take_events(store: EventStore, feed: Feed, rows: Rows) -> Intake:
    """Check all rows, then store them.

    Raises:
        FieldError: There is none.
        EventsRefusedError: Some cannot be taken; nothing was stored.
        StateError: The database cannot be used. What an earlier transaction stored stays; the same again is harmless.
    """
    events: list[StoredEvent] = []
    refused: list[dict[str, object]] = []
    ignored: dict[str, None] = {}
    n_events = n_refused = 0
    for line, row in rows:
        n_events += 1
        try:
            events.append(_event(feed, row, ignored))
        except OddEventError as error:
            n_refused += 1
            if len(refused) < MAX_TOLD:
                refused.append({"line": line, "reason": str(error)})
    if not n_events:
        what = "there is no event: nothing was sent but white space, or no rows"
        raise FieldError(what, place="the events", problem="there is none")
    if n_refused:
        told = "; ".join(f"line {each['line']}: {each['reason']}" for each in refused)
        raise EventsRefusedError(
            f"{n_refused} of {n_events} events cannot be taken, none was stored: {told}",
            n_events=n_events,
            n_refused=n_refused,
            refused=refused,
        )
    rest, n_new = iter(events), 0
    while some := list(islice(rest, TOGETHER)):
        n_new += store.add(feed.name, some)
    logger.info("events.stored", extra={"feed": feed.name, "accepted": n_new, "duplicate": n_events - n_new})
    return Intake(n_new, n_events - n_new, tuple(sorted(ignored))[:MAX_TOLD])


def _event(feed: Feed, row: Row, ignored: dict[str, None]) -> StoredEvent:
    if isinstance(row, OddEventError):
        raise row
    event = feed.event(row)
    if row.keys() - feed.types.keys():
        ignored.update(dict.fromkeys(name for name in row if name not in feed.types))
    return event


def json_lines(data: bytes) -> Iterator[tuple[int, Row]]:
    """Give the objects of JSON lines; lines of white space alone are passed over, and so is a byte order mark."""
    for number, line in enumerate(data.removeprefix(_MARK).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _decode(line)
            if repeats(row, line):
                check_members(line)
        except RepeatedMemberError as error:
            yield number, OddEventError(f"{error} is there twice in one object")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError):  # an exponent of 20 digits
            yield number, OddEventError("it is no JSON object")
        else:
            yield number, row


def table_rows(table: pa.Table, feed: Feed) -> Iterator[tuple[int, Row]]:
    """Give the rows of a table.

    Raises:
        EventsRefusedError: It lacks a column that the feed's view declares.
    """
    missing = sorted(set(feed.source.types) - set(table.column_names))
    if missing:
        raise EventsRefusedError(
            f"the table has no column {', '.join(missing)}; it has {', '.join(table.column_names[:MAX_TOLD])}",
            n_events=table.num_rows,
            n_refused=table.num_rows,
            refused=[{"line": 0, "reason": f"there is no column {name}"} for name in missing[:MAX_TOLD]],
        )
    number = 0
    for batch in table.to_batches(max_chunksize=8192):
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError, KeyError) as error:  # a time zone that nobody knows, a year that is none
            raise _unreadable(f"a value of the table is none ({type(error).__name__})") from error
        for row in rows:
            number += 1
            yield number, row


def sent_table(data: bytes, feed: Feed) -> pa.Table:
    """Return the table in an Arrow IPC stream that somebody sent: the columns that the feed declares, as plain ones.

    Nothing is written out before it is known how much that is: compressed batches, dictionaries and views let a few
    bytes stand for gigabytes. Other columns are there by their names, and empty.

    Raises:
        EventsRefusedError: It is no such stream, is damaged, compressed, or stands for more than `MAX_SENT_BYTES`.
    """
    try:
        check_messages(data)
        with pa.ipc.open_stream(data) as reader:
            names = reader.schema.names  # which may be no text
            batches = [_declared(batch, feed) for batch in reader]
            return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in names})
    except ProtocolError as error:
        raise _unreadable(f"the body: {error}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, struct.error) as error:
        # KeyError: a column of a type that the library reads and has no class for, such as an interval of days
        raise _unreadable(NO_STREAM) from error


def arrow_stream(data: bytes) -> pa.Table:
    """Return what an Arrow IPC stream holds.

    Raises:
        EventsRefusedError: It is none, or damaged.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
            table.validate(full=True)
            return table.rename_columns(table.column_names)  # fails here where a name is no text
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(NO_STREAM) from error


def file_rows(path: Path, feed: Feed) -> Iterator[tuple[int, Row]]:
    """Give the rows of a file: JSON lines, CSV with a header, Parquet, or Arrow; its first bytes tell which.

    The file is read into memory.

    Raises:
        FeatureFileError: It cannot be read, or is damaged.
        EventsRefusedError: It lacks a column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeatureFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.removeprefix(_MARK).lstrip()[:1] == b"{":
        return json_lines(data)
    if data.startswith(_ARROW_STREAM):
        return table_rows(arrow_stream(data), feed)
    if data.startswith(_ARROW_FILE):
        try:
            return table_rows(pa.ipc.open_file(data).read_all(), feed)
        except pa.ArrowException as error:
            raise FeatureFileError(f"{path}: a damaged Arrow file") from error
    del data
    content = read_columns(path)
    table = pa.table(dict(content.columns))
    return table_rows(table if content.typed else _without_blanks(table, path), feed)


def _without_blanks(table: pa.Table, path: Path) -> pa.Table:
    """Return the rows of a CSV file, whose empty fields are NULL."""
    if any(not pa.types.is_string(column.type) for column in table.columns):
        raise FeatureFileError(f"{path}: not UTF-8")
    columns = [pa.array([value or None for value in column.to_pylist()], pa.string()) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _declared(batch: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    columns = [
        plain_column(batch.column(place), MAX_SENT_BYTES) if name in feed.types else pa.nulls(batch.num_rows)
        for place, name in enumerate(batch.schema.names)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _unreadable(text: str) -> EventsRefusedError:
    return EventsRefusedError(text, n_events=0, n_refused=0, refused=[{"line": 0, "reason": text}])

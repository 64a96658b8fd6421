"""Which raw events a feed takes, in what form they are kept, and what is told of those that it does not."""

from __future__ import annotations

import json
import struct
import tomllib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedpredict.errors import EventsRefusedError, FeatureFileError, FieldError
from fedpredict.features.event_feed import MAX_CONTENT_BYTES, Feed, OddEventError, feed_of
from fedpredict.features.event_intake import (
    MAX_TOLD,
    Intake,
    arrow_stream,
    file_rows,
    json_lines,
    sent_table,
    table_rows,
    take_events,
)
from fedpredict.features.event_source import EventSource, _fits
from fedpredict.public_status import public_status
from fedpredict.state.event_base import FeedCount, StoredEvent
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptView

NOW = datetime(2026, 11, 27, tzinfo=UTC)
DEFINITION = """
name = "use"
key = "who"
targets = ["duckdb"]
[sources.t]
table = "raw_use"
event_id = "number"
event_time = "at"
[sources.t.columns]
number = "int"
at = "timestamp"
who = "text"
amount = "decimal(6,2)"
share = "double"
day = "date"
flag = "boolean"
[features.n]
type = "number"
"""
SCRIPT = "SELECT t.who, COUNT(*) AS n FROM t GROUP BY t.who"
GOOD: dict[str, object] = {
    "number": 7,
    "at": "2026-11-26T23:00:00+01:00",
    "who": "alice",
    "amount": 12.5,
    "share": 0.1,
    "day": "2026-01-31",
    "flag": True,
}


def view_of(definition: str = DEFINITION, version: int = 1, script: str = SCRIPT) -> RegisteredView:
    return RegisteredView(ScriptView.model_validate(tomllib.loads(definition)), version, definition, script, NOW)


VIEW = view_of()
FEED = feed_of(VIEW, [VIEW])


class Memory:
    """An event store in a list."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []

    def add(self, feed: str, events: Iterable[StoredEvent]) -> int:
        before = len(self.events)
        for each in events:
            if each.event_id not in {other.event_id for other in self.events}:
                self.events.append(each)
        return len(self.events) - before

    def contents(self, feed: str, sample_ids: Sequence[str], before: int) -> list[str]:
        return [each.content for each in self.events if each.sample_id in sample_ids and each.at < before]

    def counts(self, sample_id: str | None = None) -> list[FeedCount]:
        raise AssertionError

    def remove(self, *, before: int | None = None, sample_id: str | None = None, at_most: int | None = None) -> int:
        raise AssertionError

    def close(self) -> None:
        pass


def lines_of(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def read_back(store: Memory, feed: Feed = FEED) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = EventSource(store, feed).fetch(["alice"], 2**62).to_pylist()
    return rows


def test_an_event_comes_back_in_its_declared_types() -> None:
    store = Memory()
    assert take_events(store, FEED, json_lines(lines_of(GOOD))) == Intake(1, 0, ())
    stored = store.events[0]
    assert (stored.sample_id, stored.event_id) == ("alice", "7")
    assert stored.at == int(datetime(2026, 11, 26, 22, tzinfo=UTC).timestamp()) * 1_000_000
    assert read_back(store) == [
        {
            "number": 7,
            "at": datetime(2026, 11, 26, 22, tzinfo=UTC),
            "who": "alice",
            "amount": Decimal("12.50"),
            "share": 0.1,
            "day": date(2026, 1, 31),
            "flag": True,
        }
    ]


@pytest.mark.parametrize(
    ("column", "given", "kept"),
    [
        ("number", "0007", 7),
        ("number", -(2**63), -(2**63)),
        ("amount", "1.10", Decimal("1.10")),
        ("amount", -9999.99, Decimal("-9999.99")),
        ("amount", 3, Decimal(3)),
        ("share", "1e-3", 0.001),
        ("share", 10**400, None),
        ("share", None, None),
        ("at", "2026-11-26 22:00:00.1234567", datetime(2026, 11, 26, 22, 0, 0, 123456, tzinfo=UTC)),
        ("at", "2026-11-26", datetime(2026, 11, 26, tzinfo=UTC)),
        ("flag", "False", False),
        ("who", "alice", "alice"),
    ],
)
def test_values_are_kept_exactly(column: str, given: object, kept: object) -> None:
    store = Memory()
    take_events(store, FEED, json_lines(lines_of({**GOOD, column: given})))
    assert read_back(store)[0][column] == kept


@pytest.mark.parametrize(
    ("column", "given", "reason"),
    [
        ("number", None, "number is missing"),
        ("who", None, "who is missing"),
        ("who", "", "who is no id: 1 to 256 bytes of UTF-8 without control characters"),
        ("who", "a\nb", "who is no id: 1 to 256 bytes of UTF-8 without control characters"),
        ("who", "x" * 257, "who is no id: 1 to 256 bytes of UTF-8 without control characters"),
        ("who", 1.5, "who is no text"),
        ("number", 1.5, "number is no whole number of 64 bits"),
        ("number", True, "number is no whole number of 64 bits"),
        ("number", 2**63, "number is no whole number of 64 bits"),
        ("amount", "12,50", "amount is no decimal(6,2)"),
        ("amount", 12.505, "amount is no decimal(6,2)"),
        ("amount", 10000, "amount is no decimal(6,2)"),
        ("amount", True, "amount is no decimal(6,2)"),
        ("share", "much", "share is no number"),
        ("share", "1_0", "share is no number"),
        ("share", "\u0667", "share is no number"),
        ("share", [1], "share is no number"),
        ("at", 1700000000, "at is no ISO 8601 time, such as 2026-01-31T08:30:00Z"),
        ("at", "1700000000", "at is no ISO 8601 time, such as 2026-01-31T08:30:00Z"),
        ("at", "yesterday", "at is no ISO 8601 time, such as 2026-01-31T08:30:00Z"),
        ("day", "31.01.2026", "day is no date, such as 2026-01-31"),
        ("day", "2026-02-30", "day is no date, such as 2026-01-31"),
        ("flag", 1, "flag is no true or false"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_line_and_column_and_nothing_is_stored(
    column: str, given: object, reason: str
) -> None:
    store = Memory()
    other = {**GOOD, "number": 8}
    with pytest.raises(EventsRefusedError) as raised:
        take_events(store, FEED, json_lines(lines_of(other, {**GOOD, column: given})))
    assert raised.value.refused == ({"line": 2, "reason": reason},)
    assert public_status(raised.value).text == "1 of 2 events cannot be taken; none was stored"
    assert store.events == []


@pytest.mark.parametrize("line", [b"[1]", b"{", b"number,at", b'{"who": "\xff"}', b"null", b"[" * 5000])
def test_a_line_that_is_no_object_is_told_by_its_number(line: bytes) -> None:
    with pytest.raises(EventsRefusedError) as raised:
        take_events(Memory(), FEED, json_lines(lines_of(GOOD) + b"\n\n \n" + line))
    assert raised.value.refused == ({"line": 4, "reason": "it is no JSON object"},)


@pytest.mark.parametrize("again", ["amount", "unknown"])
def test_a_line_that_has_a_column_twice_is_told_with_its_name_and_nothing_is_stored(again: str) -> None:
    line = json.dumps({**GOOD, "unknown": {"a": 1}}).removesuffix("}") + f', "{again}" : 1}}'
    store = Memory()
    with pytest.raises(EventsRefusedError) as raised:
        take_events(store, FEED, json_lines(lines_of(GOOD) + b"\n" + line.encode()))
    assert raised.value.refused == ({"line": 2, "reason": f"'{again}' is there twice in one object"},)
    assert store.events == []


def test_a_byte_order_mark_before_json_lines_is_passed_over(tmp_path: Path) -> None:
    marked = b"\xef\xbb\xbf" + lines_of(GOOD)
    (tmp_path / "marked.jsonl").write_bytes(marked)

    for rows in (json_lines(marked), file_rows(tmp_path / "marked.jsonl", FEED)):
        store = Memory()
        assert take_events(store, FEED, rows).accepted == 1
        assert len(store.events) == 1


def test_no_event_at_all_and_too_many_reasons() -> None:
    with pytest.raises(FieldError, match="there is no event: nothing was sent") as nothing:
        take_events(Memory(), FEED, json_lines(b" \n"))
    assert public_status(nothing.value).text == "the events: there is none"
    with pytest.raises(EventsRefusedError) as raised:
        take_events(Memory(), FEED, json_lines(b"\n".join([b"{}"] * 50)))
    assert (raised.value.n_refused, len(raised.value.refused)) == (50, MAX_TOLD)


@pytest.mark.parametrize("column", ["number", "amount"])
@pytest.mark.parametrize("text", ["1e150000", "1e999999", "0e-5000000", "-1e-999999", "1e99999999999999999999"])
def test_a_number_of_a_few_bytes_that_takes_seconds_to_convert_is_refused(column: str, text: str) -> None:
    line = json.dumps({**GOOD, column: "HERE"}).replace('"HERE"', text).encode()
    with pytest.raises(EventsRefusedError) as raised:
        take_events(Memory(), FEED, json_lines(line))
    assert raised.value.n_refused == 1


WIDE = [
    ("9" * 36 + ".99", "9" * 36 + ".99"),
    ("9" * 36 + ".99000", "9" * 36 + ".99"),
    ("-12345678901234567890123456789.1", "-12345678901234567890123456789.10"),
]


@pytest.mark.parametrize(("given", "kept"), WIDE)
def test_decimals_keep_all_of_their_38_digits(given: str, kept: str) -> None:
    wide, store = view_of(DEFINITION.replace("decimal(6,2)", "decimal(38,2)")), Memory()
    feed = feed_of(wide, [wide])
    take_events(store, feed, json_lines(lines_of({**GOOD, "amount": given})))
    assert read_back(store, feed)[0]["amount"] == Decimal(kept)


def test_a_decimal_with_a_digit_too_many_is_refused_however_long_it_is() -> None:
    wide = view_of(DEFINITION.replace("decimal(6,2)", "decimal(38,2)"))
    with pytest.raises(OddEventError, match=r"amount is no decimal\(38,2\)"):
        feed_of(wide, [wide]).event({**GOOD, "amount": "12345678901234567890123456789.123"})


def test_a_stored_value_that_no_column_holds_takes_no_other_with_it() -> None:
    assert _fits(Decimal("1.5"), pa.decimal128(6, 2))
    assert not _fits(Decimal("1.555"), pa.decimal128(6, 2))


def test_a_large_event_is_refused() -> None:
    wide = view_of(DEFINITION.replace('flag = "boolean"', 'flag = "text"'))
    with pytest.raises(OddEventError, match=f"more than {MAX_CONTENT_BYTES} bytes"):
        feed_of(wide, [wide]).event({**GOOD, "flag": "x" * MAX_CONTENT_BYTES})


def test_the_same_event_again_is_a_duplicate_and_columns_of_no_view_are_told() -> None:
    store = Memory()
    first = take_events(store, FEED, json_lines(lines_of(GOOD, {**GOOD, "extra": 1, "zone": "x"})))
    again = take_events(store, FEED, json_lines(lines_of(GOOD)))
    assert (first, again) == (Intake(1, 1, ("extra", "zone")), Intake(0, 1, ()))


def test_views_of_one_table_and_key_share_a_feed_and_its_columns() -> None:
    wider = view_of(DEFINITION.replace('flag = "boolean"', 'flag = "boolean"\nplace = "text"'), version=2)
    other_key = view_of(DEFINITION.replace('key = "who"', 'key = "number"'), script=SCRIPT.replace("who", "number"))
    feed = feed_of(VIEW, [VIEW, wider, other_key])
    assert feed.name == feed_of(wider, [wider]).name == "raw_use.who"
    assert feed_of(other_key, [VIEW, other_key]).name == "raw_use.number"
    assert feed_of(other_key, [other_key]).event(GOOD).sample_id == "7"
    store = Memory()
    take_events(store, feed, json_lines(lines_of({**GOOD, "place": "here"})))
    assert read_back(store, feed_of(wider, [wider]))[0]["place"] == "here"


def test_a_value_that_a_newer_version_declares_otherwise_is_null_where_it_cannot_be_read() -> None:
    store = Memory()
    loose = view_of(DEFINITION.replace("decimal(6,2)", "text"))
    rows = [{**GOOD, "number": at, "amount": text} for at, text in enumerate(("1.5", "much", None))]
    take_events(store, feed_of(loose, [loose]), json_lines(lines_of(*rows)))
    assert [row["amount"] for row in read_back(store)] == [Decimal("1.50"), None, None]


TYPED = {
    "number": pa.array([1, 2], pa.int32()),
    "at": pa.array([NOW, NOW], pa.timestamp("ms", tz="Europe/Zurich")),
    "who": pa.array(["alice", "alice"]).dictionary_encode(),
    "amount": pa.array([Decimal("1.10"), None], pa.decimal128(10, 2)),
    "share": pa.array([float("nan"), 0.5], pa.float32()),
    "day": pa.array([date(2026, 1, 31), None]),
    "flag": pa.array([True, None]),
}
DAY = date(2026, 1, 31)
KEPT = [
    {"number": 1, "at": NOW, "who": "alice", "amount": Decimal("1.10"), "share": None, "day": DAY, "flag": True},
    {"number": 2, "at": NOW, "who": "alice", "amount": None, "share": 0.5, "day": None, "flag": None},
]


def as_file(kind: str, folder: Path) -> Path:
    table, path = pa.table(TYPED), folder / f"events.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind in ("arrow", "arrows"):
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        at = NOW.isoformat()
        path.write_text(
            f"number,at,who,amount,share,day,flag\n1,{at},alice,1.10,nan,2026-01-31,true\n2,{at},alice,,0.5,,\n"
        )
    else:
        plain = ("flag", "share", "number")
        rows = [
            {name: value if value is None or name in plain else str(value) for name, value in row.items()}
            for row in KEPT
        ]
        path.write_bytes(lines_of(*rows))
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows", "csv", "jsonl"])
def test_a_file_of_any_kind_gives_the_same(kind: str, tmp_path: Path) -> None:
    store = Memory()
    assert take_events(store, FEED, file_rows(as_file(kind, tmp_path), FEED)) == Intake(2, 0, ())
    assert read_back(store) == KEPT


def test_a_table_without_a_declared_column_is_refused_by_its_name() -> None:
    table = pa.table({name: column for name, column in TYPED.items() if name != "amount"})
    with pytest.raises(EventsRefusedError, match="no column amount; it has number, at, who"):
        take_events(Memory(), FEED, table_rows(table, FEED))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff\xff\xff\xff\x10\x00\x00\x00damaged"])
def test_a_body_that_is_no_arrow_stream_is_refused(data: bytes) -> None:
    with pytest.raises(EventsRefusedError, match="no Arrow IPC stream"):
        arrow_stream(data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"ARROW1 damaged", "a damaged Arrow file"),
        (b"PAR1 damaged", "a damaged Parquet file"),
        (b"number,who\n1\n", "data row 1 has 1 fields"),
        (b"number,who\n1,\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "events.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FeatureFileError, match=f"events.bin: .*{told}"):
        list(file_rows(path, FEED))


def sent(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def taken(data: bytes) -> Intake:
    return take_events(Memory(), FEED, table_rows(sent_table(data, FEED), FEED))


def test_dictionaries_views_and_further_columns_that_are_sent_are_taken_as_plain_columns() -> None:
    table = pa.table({**TYPED, "more": pa.array([[1]] * len(TYPED["who"]))})
    place = table.column_names.index("who")
    plain = table["who"].cast(pa.string())
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()):
        odd = table.set_column(place, "who", plain.cast(kind))
        assert taken(sent(odd)) == Intake(2, 0, ("more",))


def one_row(who: pa.Array) -> pa.Table:
    n_rows = len(who)
    columns = {name: pa.array([column[0].as_py()] * n_rows, column.type) for name, column in TYPED.items()}
    return pa.table({**columns, "who": who})


def views_of(text: bytes, n_rows: int) -> pa.Array:
    """A column whose every row is the same long text, which is there once."""
    view = struct.pack("<i4sii", len(text), text[:4], 0, 0)
    return pa.Array.from_buffers(pa.string_view(), n_rows, [None, pa.py_buffer(view * n_rows), pa.py_buffer(text)])


LONG = b"a" * 2**20


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda: sent(one_row(pa.array(["a" * 1000] * 1000)), "zstd"), "a compressed table"),
        (
            lambda: sent(one_row(pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [LONG.decode()]))),
            "the limit is 67108864",
        ),
        (lambda: sent(one_row(views_of(LONG, 1000))), "the limit is 67108864"),
        (lambda: sent(one_row(pa.array([["a"]]))), "holds others"),
        (lambda: sent(pa.table({**TYPED, "at": TYPED["at"].cast(pa.timestamp("us", "Nowhere/None"))})), "is none"),
    ],
    ids=["compressed", "dictionary", "views", "nested", "zone"],
)
def test_a_table_that_stands_for_more_than_it_has_is_refused_before_it_is_written_out(
    data: Callable[[], bytes], told: str
) -> None:
    with pytest.raises(EventsRefusedError, match=told):
        taken(data())


def test_a_table_with_a_name_that_is_no_text_is_refused() -> None:
    data = sent(pa.table(TYPED)).replace(b"amount", b"am\x8dunt")

    with pytest.raises(EventsRefusedError):
        taken(data)
    with pytest.raises(EventsRefusedError):
        arrow_stream(data)

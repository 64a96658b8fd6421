"""The same view over the same raw rows gives the same features in every engine, by way of register and refresh."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlglot import exp

from fedpredict.errors import ViewRefusedError
from fedpredict.features.dry_run import Trials, try_everywhere, try_few_rows
from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.tables import script_functions
from fedpredict.tables.script_store import list_scripts
from fedpredict.tables.views import read_snapshot_rows
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_examples import ORACLES, assert_equal, generator
from tests.raw_transactions import (
    AS_OF,
    Event,
    differences,
    example,
    oracle,
    random_events,
    random_merchants,
    renamed,
    revisions,
    store,
)

pytestmark = pytest.mark.timeout(600)

_, DEFINITION, SCRIPT = example("transactions")
PEOPLE, MOST_ROWS = 20, 1_000
"""Of the other examples: raw rows travel in statements here, and some cells and titles may be in no row."""


def at(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[misc, arg-type]


CHOSEN = [
    # the largest id of the newest instant is the last one, whatever the order of the rows
    Event("e2", at(2024, 2, 29, 23, 59, 59, 999_999), "ties", "m0", "2.00", "web"),
    Event("e10", at(2024, 2, 29, 23, 59, 59, 999_999), "ties", "m1", "3.00", "app"),
    Event(None, at(2024, 2, 29, 23, 59, 59, 999_999), "ties", "m1", "4.00", "card"),
    # at the instant itself: not; thirty days before it, to the microsecond: yes; a microsecond earlier: not
    Event("e1", AS_OF, "edge", "m0", "1.00", "web"),
    Event("e3", AS_OF - timedelta(days=30), "edge", "m0", "1.01", "web"),
    Event("e4", AS_OF - timedelta(days=30, microseconds=1), "edge", "m0", "1.02", None),
    # sums of cents are exact, of 0.1 and 0.2 too, and of what a double cannot hold
    *(Event(f"c{n}", AS_OF - timedelta(hours=n), "cents", None, amount, "app") for n, amount in enumerate(
        ["0.10", "0.20", "9999999999.99", "0.01", "0.07"], start=1
    )),
    # in every zone but UTC this is another day and hour
    Event("z", at(2024, 2, 25, 0, 0, 0), "zone", "m6", "5.00", "card"),
    Event("y", at(2024, 2, 24, 23, 59, 59), "zone", "m2", "5.00", " card"),
]  # fmt: skip


def test_a_refreshed_view_holds_what_python_counts(warehouse: Warehouse) -> None:
    suffix = f"_{uuid.uuid4().hex[:12]}"
    events, merchants = [*CHOSEN, *random_events(3, 12, 150)], random_merchants(12)
    events += revisions(events, 4)
    odd = [Event("o", AS_OF - timedelta(hours=1), name, "m0", "1.00", "web") for name in ("bad\nid", "é" * 129)]
    store(warehouse, [*events, *odd], merchants, suffix)
    view, definition = renamed(DEFINITION.replace('texts = ["card", "web", "app"]\n', ""), suffix)
    registered, is_new = register_view(warehouse, view, definition, SCRIPT)

    report = refresh_view(warehouse, registered, AS_OF)

    assert is_new
    assert (report.odd_keys, report.unread) == (2, {})
    rows = read_snapshot_rows(warehouse, report.snapshot, ["sample_id", "event_time", *view.features])
    assert differences(rows, oracle(events, merchants, AS_OF)) == []
    assert set(rows.column("event_time").to_pylist()) == {AS_OF}
    assert [each.script for each in list_scripts(warehouse, view.name)] == [SCRIPT]


@pytest.mark.parametrize("name", ORACLES)
def test_usage_and_watching_hold_what_pandas_counts(warehouse: Warehouse, name: str) -> None:
    suffix, raw = f"_{uuid.uuid4().hex[:12]}", generator()
    tables = {table: rows.slice(0, MOST_ROWS) for table, rows in raw.EXAMPLES[name](PEOPLE).items()}
    raw.write(warehouse, {f"{table}{suffix}": rows for table, rows in tables.items()})
    view, definition = renamed(example(name)[1], suffix, (name, *tables))
    registered, _ = register_view(warehouse, view, definition, example(name)[2])

    report = refresh_view(warehouse, registered, AS_OF)

    assert (report.odd_keys, report.unread) == (0, {})
    rows = read_snapshot_rows(warehouse, report.snapshot, ["sample_id", *view.features])
    assert_equal(rows, ORACLES[name](tables), view.features)


def test_a_dry_run_needs_no_raw_table_and_tells_the_output_that_the_engine_refuses(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, _ = renamed(DEFINITION, suffix := f"_{uuid.uuid4().hex[:12]}")
    own, engine = LocalWarehouse(tmp_path / "own"), warehouse.engine.name
    store(own, random_events(1, 2, 10), random_merchants(2), suffix)

    tried = try_everywhere(own, view, SCRIPT, AS_OF, Trials([warehouse], frozenset({"spark", "hive"}) - {engine}))

    assert tried == tuple(dict.fromkeys(("duckdb", engine)))
    own.close()

    def unknown(value: exp.Expr) -> exp.Expr:
        return exp.Cast(this=exp.Anonymous(this="NO_SUCH", expressions=[value]), to=exp.DataType.build("BIGINT"))

    # the list of functions is wrong about one of them
    known = script_functions.FUNCTIONS["hour"]
    wrong = script_functions.Function(known.arguments, known.result, {engine: unknown})
    monkeypatch.setitem(script_functions.FUNCTIONS, "hour", wrong)
    with pytest.raises(ViewRefusedError, match=r"line 14, column 3: .* does not compute night_30d") as raised:
        try_few_rows(warehouse, view, SCRIPT)
    assert "no_such" in str(raised.value).lower()

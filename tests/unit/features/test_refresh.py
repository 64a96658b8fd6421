"""Registering views and refreshing them in the embedded warehouse: versions, snapshots, and what is held back."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import ViewRefusedError, WarehouseWriteError
from fedpredict.features.load import load_file
from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.tables.models import publish_model
from fedpredict.tables.script_store import RegisteredView, list_scripts, write_script
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.views import latest_snapshot, list_snapshots, read_snapshot_rows
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, Event, Merchant, example, store

VIEW, DEFINITION, SCRIPT = example("transactions")
LARGEST = float("inf")


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    """A warehouse with the raw transactions of ten accounts, an hour before `AS_OF`."""
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    store(warehouse, events(10), [Merchant("m0", "food", "2020-02-29")])
    yield warehouse
    warehouse.close()


def events(n_accounts: int, amount: str = "1.00", channel: str = "web") -> list[Event]:
    return [Event(f"e{at}", AS_OF - timedelta(hours=1), f"a{at}", "m0", amount, channel) for at in range(n_accounts)]


def register(warehouse: LocalWarehouse, definition: str = DEFINITION, script: str = SCRIPT) -> RegisteredView:
    return register_view(warehouse, ScriptView.model_validate(tomllib.loads(definition)), definition, script)[0]


def without(feature: str) -> tuple[str, str]:
    """Return the example's texts without one feature that stands in a line of its own."""
    lines = [line for line in SCRIPT.splitlines() if not line.endswith((f"AS {feature},", f"AS {feature}"))]
    start = DEFINITION.index(f"[features.{feature}]")
    end = DEFINITION.find("[features.", start + 1)
    return DEFINITION[:start] + DEFINITION[end:], "\n".join(lines)


def test_the_same_texts_again_are_no_new_version_and_others_are(warehouse: LocalWarehouse) -> None:
    assert register_view(warehouse, VIEW, DEFINITION, SCRIPT)[1] is True
    assert register_view(warehouse, VIEW, DEFINITION, SCRIPT)[1] is False
    assert register(warehouse, script=SCRIPT.replace("> 0", "> 1")).version == 2

    found = list_scripts(warehouse, "transactions")

    assert [(each.version, each.script) for each in found] == [(1, SCRIPT), (2, SCRIPT.replace("> 0", "> 1"))]


def test_of_two_that_register_at_once_one_is_told(warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(into: LocalWarehouse, made: RegisteredView, _tried: tuple[str, ...]) -> None:
        write_script(into, made)
        write_script(into, replace(made, script=SCRIPT.replace("> 0", "> 1")))

    monkeypatch.setattr("fedpredict.features.registration.write_script", overtaken)

    with pytest.raises(ViewRefusedError, match="registered by another process at the same time: repeat"):
        register(warehouse)


def test_a_view_that_files_made_goes_on_with_the_next_version(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    file = tmp_path / "features.csv"
    file.write_text("who,n_30d\na0,3\n")
    load_file(warehouse, file, view="transactions", key="who")

    registered = register(warehouse)
    refresh_view(warehouse, registered, AS_OF)

    assert registered.version == 2
    found = {each.view.version: each for each in list_snapshots(warehouse)}
    assert read_snapshot_rows(warehouse, found[1], ["n_30d"]).column(0).to_pylist() == [3]
    assert read_snapshot_rows(warehouse, found[2], ["n_30d"]).column(0).to_pylist() == [1] * 10


def model_over(warehouse: LocalWarehouse, registered: RegisteredView, feature: str) -> None:
    part = LinearPart((feature,), np.array([[1.0]]), None, np.array([0.0]))
    partial = PartialModel("credit", "run-1", "bank", Kind.LINEAR, (), False, part)
    publish_model(warehouse, partial, registered.view.feature_view(registered.version), "a" * 64, lambda _: {})


def test_a_feature_that_a_model_uses_cannot_go_and_another_can(warehouse: LocalWarehouse) -> None:
    model_over(warehouse, register(warehouse), "last_amount")

    with pytest.raises(ViewRefusedError, match="model credit uses last_amount of view transactions"):
        register(warehouse, *without("last_amount"))
    assert register(warehouse, *without("last_channel")).version == 2


def test_a_feature_cannot_change_its_type(warehouse: LocalWarehouse) -> None:
    register(warehouse)
    definition = DEFINITION.replace('[features.last_amount]\ntype = "number"', '[features.last_amount]\ntype = "text"')

    with pytest.raises(ViewRefusedError, match="last_amount is text, and number in version 1"):
        register(warehouse, definition, SCRIPT.replace("LAST(tx.amount)", "LAST(tx.merchant)"))


def test_a_raw_column_keeps_its_type_while_a_model_uses_its_table(warehouse: LocalWarehouse) -> None:
    changed = DEFINITION.replace('amount = "decimal(12,2)"', 'amount = "double"')
    v1 = register(warehouse)
    assert register(warehouse, changed).version == 2
    model_over(warehouse, v1, "last_amount")

    with pytest.raises(
        ViewRefusedError,
        match=r"column amount of raw_transactions is double under \[sources.tx\], and decimal\(12,2\) in version 1, "
        "which model credit uses: keep the type",
    ):
        register(warehouse, changed.replace("an account did", "somebody did"))
    assert register(warehouse, DEFINITION.replace("an account did", "somebody did")).version == 3


def test_a_script_that_the_raw_tables_do_not_have_is_not_registered(warehouse: LocalWarehouse) -> None:
    definition = DEFINITION.replace('channel = "text"', 'channel = "text"\nfee = "double"')

    with pytest.raises(ViewRefusedError, match=r"column fee of the raw table raw_transactions .* compare .sources"):
        register(warehouse, definition)
    with pytest.raises(ViewRefusedError, match="the warehouse is duckdb: add it to targets"):
        register(warehouse, DEFINITION.replace('["duckdb", "spark", "hive"]', '["hive"]'))

    assert list_scripts(warehouse) == []


def test_a_refresh_is_named_by_its_instant_and_an_older_one_never_wins(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)

    newest = refresh_view(warehouse, registered, AS_OF)
    older = refresh_view(warehouse, registered, AS_OF - timedelta(minutes=1))
    again = refresh_view(warehouse, registered, AS_OF)

    assert (newest.newest, older.newest, again.newest) == (True, False, True)
    served = latest_snapshot(warehouse, "transactions")
    assert served is not None
    assert served.snapshot == again.snapshot.snapshot == "20240301T000000.000001Z"
    assert len(list_snapshots(warehouse)) == 3


def test_a_refresh_leaves_rows_in_the_order_of_their_buckets(warehouse: LocalWarehouse) -> None:
    snapshot = refresh_view(warehouse, register(warehouse), AS_OF).snapshot
    rows = read_snapshot_rows(warehouse, snapshot, ["sample_id", "fp_place"])

    # the hash's bits from the last to the first, as hexadecimal digits
    bits = (
        f"{int(md5(each.encode(), usedforsecurity=False).hexdigest()[:8], 16):032b}" for each in rows[0].to_pylist()
    )
    assert rows[1].to_pylist() == [f"{int(each[::-1], 2):08x}" for each in bits]
    assert rows[1].to_pylist() == sorted(rows[1].to_pylist())
    assert latest_snapshot(warehouse, "transactions") == replace(snapshot, n_rows=10, n_ids=10, has_places=True)


def test_only_events_before_the_instant_count(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)
    at = AS_OF - timedelta(hours=1)

    with pytest.raises(ViewRefusedError, match="no rows as of 2024-02-29T23:00:00"):
        refresh_view(warehouse, registered, at)
    assert refresh_view(warehouse, registered, at + timedelta(microseconds=1)).snapshot.n_rows == 10


def test_a_refresh_that_shrinks_the_view_is_held_back_until_it_is_forced(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)
    refresh_view(warehouse, registered, AS_OF)
    store(warehouse, events(7), [])

    with pytest.raises(ViewRefusedError, match=r"7 rows instead of the 10 of snapshot 20240301T.*--force"):
        refresh_view(warehouse, registered, AS_OF)
    assert [each.n_rows for each in list_snapshots(warehouse)] == [10]
    assert rows_stored(warehouse) == 10

    assert refresh_view(warehouse, registered, AS_OF, max_shrink=0.5).snapshot.n_rows == 7
    store(warehouse, events(1), [])
    assert refresh_view(warehouse, registered, AS_OF, force=True).snapshot.n_rows == 1


def test_the_first_snapshot_of_a_version_is_compared_with_the_views_newest(warehouse: LocalWarehouse) -> None:
    refresh_view(warehouse, register(warehouse), AS_OF)
    store(warehouse, events(7), [])
    second = register(warehouse, *without("last_channel"))

    with pytest.raises(ViewRefusedError, match=r"7 rows instead of the 10 of snapshot 20240301T\S+ of version 1, more"):
        refresh_view(warehouse, second, AS_OF)
    refresh_view(warehouse, second, AS_OF, force=True)
    # what a version always has fewer is not held back for ever
    assert refresh_view(warehouse, second, AS_OF).snapshot.n_rows == 7


def test_values_that_are_not_of_their_declared_type_are_counted(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)
    odd = [each._replace(amount=amount) for each, amount in zip(events(3), ["12,50", "", None], strict=True)]
    store(warehouse, [*odd, *events(5)[3:]], [Merchant("m0", "food", "1 May")])

    with pytest.raises(ViewRefusedError, match=r"none of the 1 values of dim_merchants.opened is date, as the view"):
        refresh_view(warehouse, registered, AS_OF)
    assert list_snapshots(warehouse) == []
    report = refresh_view(warehouse, registered, AS_OF, force=True)

    assert report.unread == {"raw_transactions.amount": 2, "dim_merchants.opened": 1}
    assert report.snapshot.n_rows == 2  # NULL is not above 0


def test_keys_that_are_no_sample_ids_are_left_out_and_counted(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)
    good = ["plain", "é" * 128, "x" * 256, " a\u00a0b", "a\u200bb", "年龄"]
    bad = ["bad\nid", "nul\0", "del\x7f", "c1\x85", "x" * 257, "é" * 129]
    event = events(1)[0]
    rows = [event._replace(id=f"k{at}", account=name) for at, name in enumerate([*good, *bad, *bad])]
    store(warehouse, [*rows, event._replace(at=AS_OF, account="later\n")], [])

    report = refresh_view(warehouse, registered, AS_OF)

    assert report.odd_keys == len(bad)
    found = read_snapshot_rows(warehouse, report.snapshot, ["sample_id"]).column(0).to_pylist()
    assert sorted(found) == sorted(good)
    assert valid_sample_ids([each.encode() for each in (*good, *bad)]).tolist() == [True] * 6 + [False] * 6


def rows_stored(warehouse: LocalWarehouse) -> int:
    return int(warehouse.read("fp_features_transactions", ["sample_id"], {}).num_rows)


@pytest.mark.parametrize(
    ("given", "merchants", "told"),
    [
        (
            [*events(2), Event("e", AS_OF - timedelta(1), None, "m0", "1", "web")],
            [],
            "1 rows have a NULL or empty account: leave such events out with WHERE",
        ),
        ([Event("e", AS_OF - timedelta(1), "", "m0", "1", "web")], [], "1 rows have a NULL or empty account"),
        (events(3, channel="fax"), [], r"3 rows have a last_channel that is none of \[features.last_channel\] texts"),
        (events(1), [Merchant("m0", "food", None)] * 2, r"dimension merchants \(dim_merchants\) has 1 keys with more"),
        ([], [], "no rows as of"),
    ],
)
def test_rows_that_cannot_be_features_are_refused_with_their_count(
    warehouse: LocalWarehouse, given: list[Event], merchants: list[Merchant], told: str
) -> None:
    registered = register(warehouse)
    store(warehouse, given, merchants)

    with pytest.raises(ViewRefusedError, match=told):
        refresh_view(warehouse, registered, AS_OF)

    assert list_snapshots(warehouse) == []
    assert rows_stored(warehouse) == 0


def test_a_number_out_of_its_range_is_infinite_and_counted(warehouse: LocalWarehouse) -> None:
    definition = DEFINITION.replace(
        '[features.last_amount]\ntype = "number"', '[features.last_amount]\ntype = "number"\nmax = 5'
    )
    registered = register(warehouse, definition)
    store(warehouse, [*events(1, "5.00"), Event("x", AS_OF - timedelta(1), "b", "m0", "5.01", "app")], [])

    report = refresh_view(warehouse, registered, AS_OF)

    assert report.invalid == {"last_amount": 1}
    found = read_snapshot_rows(warehouse, report.snapshot, ["sample_id", "last_amount"]).to_pylist()
    assert {row["sample_id"]: row["last_amount"] for row in found} == {"a0": 5.0, "b": LARGEST}


def test_the_future_is_refused(warehouse: LocalWarehouse) -> None:
    registered = register(warehouse)

    with pytest.raises(ViewRefusedError, match="is in the future"):
        refresh_view(warehouse, registered, datetime.now(UTC) + timedelta(minutes=1))


def test_a_write_that_fails_leaves_the_snapshots_as_they_were(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = register(warehouse)
    refresh_view(warehouse, registered, AS_OF)
    written = LocalWarehouse.replace

    def full(self: LocalWarehouse, table: str, partition: dict[str, str | int], rows: pa.Table) -> None:
        if table == "fp_views":
            raise WarehouseWriteError("disk full")
        written(self, table, partition, rows)

    monkeypatch.setattr(LocalWarehouse, "replace", full)
    with pytest.raises(WarehouseWriteError, match="disk full"):
        refresh_view(warehouse, registered, AS_OF)

    assert [each.snapshot for each in list_snapshots(warehouse)] == ["20240301T000000.000000Z"]

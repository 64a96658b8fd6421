"""One person is taken out of everything that a party keeps, and the rest stays as it was, counts and checksums too."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import InputError, LeaseHeldError, LeaseLostError, WarehouseWriteError
from fedpredict.features.mapped import MappedStore
from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring import erase as erasing
from fedpredict.scoring.erase import ERASE, erase, in_store
from fedpredict.scoring.erased import Erased
from fedpredict.scoring.leased import refresh_name, score_name
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import Alone, NoLeases
from fedpredict.tables import erasure
from fedpredict.tables.models import current_versions, publish_model
from fedpredict.tables.schemas import VIEWS
from fedpredict.tables.script_store import RegisteredView, write_script
from fedpredict.tables.script_types import TEXT
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import SHARES, TaskState, finished_buckets, list_tasks, totals_of, write_task
from fedpredict.tables.views import list_snapshots, publish_snapshot, read_snapshot_rows
from fedpredict.warehouse.base import Column, ColumnType, EngineInfo, Partition, TableSchema, Value
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, Event, Merchant, example, store

VIEW, DEFINITION, SCRIPT = example("transactions")
WHO = "a3"
OTHERS = sorted(f"a{at}" for at in range(10) if at != 3)
DAY = AS_OF.date()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a warehouse with two snapshots of ten accounts, a model, and its shares of a day in two buckets."""
    folder = tmp_path_factory.mktemp("prepared") / "warehouse"
    warehouse = LocalWarehouse(folder)
    events = [
        Event(f"e{at}-{n}", AS_OF - timedelta(hours=1 + n), f"a{at}", "m0", "1.00", "web")
        for at in range(10)
        for n in range(2)
    ]
    events.append(Event("nobody", AS_OF - timedelta(hours=1), None, "m0", "0.00", "web"))  # WHERE leaves it out
    store(warehouse, events, [Merchant("m0", "food", "2020-02-29")])
    registered = register_view(warehouse, VIEW, DEFINITION, SCRIPT)[0]
    for hours in (1, 0):
        refresh_view(warehouse, registered, AS_OF - timedelta(hours=hours))
    part = LinearPart(("n_30d",), np.array([[1.0]]), None, np.array([0.0]))
    model = PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part)
    version = publish_model(warehouse, model, registered.view.feature_view(1), "a" * 64, lambda _: {})[0]
    score_day(warehouse, version, DAY, n_buckets=2)
    warehouse.close()
    return folder


@pytest.fixture
def warehouse(prepared: Path, tmp_path: Path) -> Iterator[LocalWarehouse]:
    """A copy of it."""
    warehouse = LocalWarehouse(shutil.copytree(prepared, tmp_path / "warehouse"))
    yield warehouse
    warehouse.close()


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(FolderLeases(tmp_path / "leases"))


def ids_of(warehouse: LocalWarehouse) -> dict[str, list[str]]:
    """Return the sample ids of every snapshot, by name."""
    return {
        each.snapshot: sorted(read_snapshot_rows(warehouse, each, ["sample_id"]).column(0).to_pylist())
        for each in list_snapshots(warehouse)
    }


def raw_accounts(warehouse: LocalWarehouse) -> list[str | None]:
    return list(warehouse.read("raw_transactions", ["account"], {}).column(0).to_pylist())


def shares_of(warehouse: LocalWarehouse) -> dict[str, object]:
    rows = warehouse.read(SHARES.name, ["sample_id", "scores"], {}).to_pylist()
    return {row["sample_id"]: row["scores"] for row in rows}


def found_in(told: list[Erased]) -> dict[str, tuple[int, int]]:
    tables = sorted({each.table for each in told})
    return {
        table: (
            sum(each.found for each in told if each.table == table),
            sum(each.removed for each in told if each.table == table),
        )
        for table in tables
    }


def test_a_person_is_taken_out_and_nobody_else_is(warehouse: LocalWarehouse, alone: Alone) -> None:
    before, names = shares_of(warehouse), sorted(ids_of(warehouse))

    told = erase(alone, warehouse, WHO)

    assert found_in(told) == {
        "fp_features_transactions": (2, 2),
        "fp_partial_scores": (1, 1),
        "raw_transactions": (2, 0),
    }
    assert [each.note for each in told if each.table == "raw_transactions"] == [
        "--raw removes them; until then a refresh brings them back"
    ]
    # each under the next name: what has a name never changes, and daemons look for new ones
    assert ids_of(warehouse) == {name.replace("000000Z", "000001Z"): OTHERS for name in names}
    assert shares_of(warehouse) == {who: scores for who, scores in before.items() if who != WHO}
    assert raw_accounts(warehouse).count(WHO) == 2
    assert found_in(erase(alone, warehouse, WHO)) == {"raw_transactions": (2, 0)}


def test_records_and_checksums_are_those_of_what_is_left(warehouse: LocalWarehouse, alone: Alone) -> None:
    erase(alone, warehouse, WHO)

    (task,) = list_tasks(warehouse)
    state = TaskState(task, finished_buckets(warehouse, task))
    assert damaged_buckets(warehouse, state) == []
    assert (task.n_ids, task.n_rows, task.erased) == (9, 9, 1)
    assert task.snapshot == sorted(ids_of(warehouse))[-1]
    assert [sum(getattr(each, name) for each in state.buckets.values()) for name in ("n_ids", "n_rows")] == [9, 9]
    assert sum(totals_of(list(state.buckets.values())).values()) == 9
    assert sorted(read_shares(warehouse, task).column("sample_id").to_pylist()) == OTHERS
    # and the day can be begun anew: what is served then has a later name
    again = score_day(warehouse, current_versions(warehouse)["credit"], DAY, again=True).task
    assert (again.generation, again.erased, again.n_ids) == (1, 1, 9)


def test_with_raw_a_refresh_does_not_bring_them_back(warehouse: LocalWarehouse, alone: Alone) -> None:
    accounts = raw_accounts(warehouse)

    told = erase(alone, warehouse, WHO, raw=True)

    assert found_in(told)["raw_transactions"] == (2, 2)
    assert sorted(map(str, raw_accounts(warehouse))) == sorted(str(each) for each in accounts if each != WHO)
    assert None in raw_accounts(warehouse)
    assert erase(alone, warehouse, WHO) == []
    refresh_view(warehouse, registered_view(warehouse), AS_OF + timedelta(hours=1))
    assert ids_of(warehouse)[max(ids_of(warehouse))] == OTHERS


def registered_view(warehouse: LocalWarehouse) -> RegisteredView:
    from fedpredict.tables.script_store import list_scripts

    return list_scripts(warehouse)[0]


def test_a_look_changes_nothing(warehouse: LocalWarehouse, alone: Alone) -> None:
    before = (ids_of(warehouse), shares_of(warehouse), list_tasks(warehouse))

    told = erase(alone, warehouse, WHO, raw=True, keep=True)

    assert found_in(told) == {
        "fp_features_transactions": (2, 0),
        "fp_partial_scores": (1, 0),
        "raw_transactions": (2, 0),
    }
    assert (ids_of(warehouse), shares_of(warehouse), list_tasks(warehouse)) == before
    assert erase(alone, warehouse, "nobody-of-that-name") == []


@pytest.mark.parametrize("at", [1, 4, 6, 7, 8, 16, 17, 19])
def test_a_call_that_is_killed_is_finished_by_another(
    warehouse: LocalWarehouse, alone: Alone, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `at` writes of partitions the disk is gone; a second call finds the rest."""
    left = [at]

    def counting(method: Any) -> Any:
        def write(*arguments: Any) -> Any:
            if left[0] == 0:
                raise WarehouseWriteError("killed")
            left[0] -= 1
            return method(*arguments)

        return write

    with monkeypatch.context() as patched:
        patched.setattr(warehouse, "replace", counting(warehouse.replace))
        patched.setattr(warehouse, "replace_from", counting(warehouse.replace_from))
        with pytest.raises(WarehouseWriteError, match="killed"):
            erase(alone, warehouse, WHO, raw=True)
    erase(alone, warehouse, WHO, raw=True)

    assert all(ids == OTHERS for ids in ids_of(warehouse).values())
    assert sorted(shares_of(warehouse)) == OTHERS
    assert WHO not in raw_accounts(warehouse)
    (task,) = list_tasks(warehouse)
    state = TaskState(task, finished_buckets(warehouse, task))
    assert damaged_buckets(warehouse, state) == []
    assert (task.n_ids, sum(each.n_ids for each in state.buckets.values()), task.n_rows) == (9, 9, 9)
    assert task.snapshot in ids_of(warehouse)
    for schema in (SHARES, list_snapshots(warehouse)[0].view.schema):
        work = erasure.work_table(schema)
        assert warehouse.read(work.name, ["sample_id"], {}).column(0).to_pylist().count(WHO) == 0


def stop_after(n_writes: int, warehouse: LocalWarehouse, patched: pytest.MonkeyPatch) -> None:
    """Have every write of a partition fail after some, as where the process is killed then."""
    left = [n_writes]

    def counting(method: Any) -> Any:
        def write(*arguments: Any) -> Any:
            if left[0] == 0:
                raise WarehouseWriteError("killed")
            left[0] -= 1
            return method(*arguments)

        return write

    patched.setattr(warehouse, "replace", counting(warehouse.replace))
    patched.setattr(warehouse, "replace_from", counting(warehouse.replace_from))


def in_copies(folder: Path) -> list[Path]:
    """Return the files of all tables of work, as they are on the disk."""
    return sorted(folder.glob("fp_erasing_*/**/*.parquet"))


def test_what_a_killed_call_left_goes_with_the_next_call_for_anyone(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_left, at, over = 0, 0, False
    while not over:
        folder = shutil.copytree(prepared, tmp_path / f"killed-{at}")
        warehouse, alone = LocalWarehouse(folder), Alone(FolderLeases(folder / ".leases"))
        with monkeypatch.context() as patched:
            stop_after(at, warehouse, patched)
            try:
                erase(alone, warehouse, WHO, raw=True)
                over = True
            except WarehouseWriteError:
                n_left += bool(in_copies(folder))
        erase(alone, warehouse, "nobody-of-that-name")
        assert in_copies(folder) == [], at
        # the rows themselves stay, and the repeated call finishes
        assert {*raw_accounts(warehouse)} - {WHO, None} == {*OTHERS}
        erase(alone, warehouse, WHO, raw=True)
        assert all(ids == OTHERS for ids in ids_of(warehouse).values())
        assert (sorted(shares_of(warehouse)), WHO in raw_accounts(warehouse)) == (OTHERS, False)
        warehouse.close()
        at += 1
    assert at > 20  # each of the writes was the first that failed
    assert n_left >= 8


def test_a_person_is_found_in_the_copy_of_a_raw_table_that_is_there_no_more(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_after(1, warehouse, patched)
        with pytest.raises(WarehouseWriteError):
            erase(alone, warehouse, WHO, raw=True)
    shutil.rmtree(tmp_path / "warehouse" / "raw_transactions")

    looked, told = (erase(alone, warehouse, "a4", keep=keep) for keep in (True, False))

    (work,) = [each.table for each in looked if each.table.startswith("fp_erasing_")]
    assert [found_in(each)[work] for each in (looked, told)] == [(2, 0), (2, 2)]
    assert in_copies(tmp_path / "warehouse") == []


def test_a_copy_that_may_be_all_that_is_left_of_a_raw_partition_is_told_and_not_removed(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Hive a partition is empty for a moment while it is overwritten, and its server may be killed right then."""
    with monkeypatch.context() as patched:
        stop_after(1, warehouse, patched)
        with pytest.raises(WarehouseWriteError):
            erase(alone, warehouse, WHO, raw=True)
    (copy,) = in_copies(tmp_path / "warehouse")
    raw = warehouse.describe("raw_transactions")
    assert raw is not None
    (partition,) = [partition for partition, _ in erasure.partitions_with(warehouse, raw, WHO, "account")]
    rows = warehouse.read("raw_transactions", [each.name for each in raw.columns], partition)
    warehouse.replace("raw_transactions", partition, raw.arrow_schema.empty_table())

    told = [erase(alone, warehouse, who, raw=True) for who in ("a4", "nobody-of-that-name")]

    work = copy.relative_to(tmp_path / "warehouse").parts[0]
    notes = [[each for each in some if each.table == work] for some in told]
    assert [[(each.found, each.removed) for each in some] for some in notes] == [[(2, 0)], [(0, 0)]]
    assert all("raw_transactions has fewer rows" in each.note for some in notes for each in some)
    assert in_copies(tmp_path / "warehouse") == [copy]
    warehouse.replace("raw_transactions", partition, rows)
    erase(alone, warehouse, "nobody-of-that-name")
    assert in_copies(tmp_path / "warehouse") == []


def test_a_process_that_stood_still_puts_back_nothing_behind_the_next_one(
    warehouse: LocalWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease was taken over after it had copied the rows; what it had copied is gone by then."""
    copy, now = erasure.copy_without, [AS_OF]
    taken: list[int] = []
    alone = Alone(FolderLeases(tmp_path / "leases", lambda: now[0]))

    def slow(*arguments: Any, **named: Any) -> int:
        n_rows = copy(*arguments, **named)
        if not taken:
            taken.append(1)
            now[0] += timedelta(hours=1)
            erase(alone, warehouse, "nobody-of-that-name")
        return n_rows

    for module in (erasure, erasing):
        monkeypatch.setattr(module, "copy_without", slow)
    accounts, before, names = raw_accounts(warehouse), shares_of(warehouse), ids_of(warehouse)
    for raw in (True, False):
        taken.clear()
        with pytest.raises(LeaseLostError):
            erase(alone, warehouse, WHO, raw=raw)
    assert (raw_accounts(warehouse), shares_of(warehouse), ids_of(warehouse)) == (accounts, before, names)


def test_a_refresh_that_had_read_the_raw_rows_is_waited_for(warehouse: LocalWarehouse, alone: Alone) -> None:
    """Its snapshot cannot be seen yet, and nothing else has somebody who is new."""
    new = [Event("e-new", AS_OF, "newcomer", "m0", "1.00", "web")]
    store(warehouse, new, [Merchant("m0", "food", "2020-02-29")])
    view, refused = registered_view(warehouse), []

    def meanwhile() -> None:
        try:
            erase(alone, warehouse, "newcomer", raw=True)
        except LeaseHeldError as error:
            refused.append(str(error))

    name = refresh_name(view.view.name, view.version)
    with alone.hold(name):
        refresh_view(warehouse, view, AS_OF + timedelta(hours=1), force=True, still_ours=meanwhile)
    before = {who for ids in ids_of(warehouse).values() for who in ids}
    erase(alone, warehouse, "newcomer", raw=True)

    assert [each.startswith(f"{name} is under way") for each in refused] == [True]
    assert "newcomer" in before
    assert "newcomer" not in {who for ids in ids_of(warehouse).values() for who in ids}
    assert "newcomer" not in raw_accounts(warehouse)


def test_files_that_killed_writers_left_unfinished_go_too(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path
) -> None:
    """They may have anybody, and stay until the next write to their table."""
    (tmp_path / "warehouse" / "no-table").mkdir()
    folders = [tmp_path / "warehouse" / name for name in ("raw_transactions", SHARES.name, "no-table")]
    left = [folder / ".tmp-0123456789abcdef" for folder in folders]
    for file in left:
        file.write_bytes(b"PAR1")
    erase(alone, warehouse, "nobody-of-that-name", keep=True)
    looked = [file.exists() for file in left]

    erase(alone, warehouse, "nobody-of-that-name")

    assert (looked, [file.exists() for file in left]) == ([True, True, True], [False, False, True])


class OnServer(LocalWarehouse):
    """Makes no table without partitions, as behind a HiveServer2."""

    @property
    @override
    def engine(self) -> EngineInfo:
        return EngineInfo("hive", "4.0.1")

    @override
    def ensure(self, schema: TableSchema) -> None:
        if not schema.partitioned_by:
            raise WarehouseWriteError(f"table {schema.name} is not as needed: cannot recognize input near ')'")
        super().ensure(schema)


def test_rows_of_a_raw_table_without_partitions_on_a_server_are_told_and_all_else_goes(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path
) -> None:
    warehouse.ensure(TableSchema("customers", (Column("who", ColumnType.STRING),), ()))
    warehouse.replace("customers", {}, pa.table({"who": [WHO, "a4"]}))
    on_server = OnServer(tmp_path / "warehouse")

    told = erase(alone, on_server, WHO, raw=True, tables=[("customers", "who")])

    assert found_in(told)["customers"] == (1, 0)
    (note,) = [each.note for each in told if each.table == "customers"]
    assert note == "remove them there: on hive fedpredict writes partitions, and this table has none"
    assert all(each.found == each.removed for each in told if each.table != "customers")
    assert sorted(shares_of(warehouse)) == OTHERS
    on_server.close()


class WithoutDay(LocalWarehouse):
    """Has a row of `customers` whose partition column is NULL, as Hive makes them of rows without a value."""

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        if any(each.name == "customers" for each in statement.find_all(exp.Table)):
            return pa.table({"day": pa.array([None], pa.int32()), "fp_rows": [1]})
        return super().run(statement, params)


def test_rows_of_a_partition_without_a_value_are_told_and_all_else_goes(
    warehouse: LocalWarehouse, alone: Alone, tmp_path: Path
) -> None:
    schema = TableSchema("customers", (Column("who", ColumnType.STRING),), (Column("day", ColumnType.INT),))
    warehouse.ensure(schema)
    odd = WithoutDay(tmp_path / "warehouse")

    told = erase(alone, odd, WHO, raw=True, tables=[("customers", "who")])

    (row,) = [each for each in told if each.table == "customers"]
    assert (row.place, row.found, row.removed) == ("day=__HIVE_DEFAULT_PARTITION__", 1, 0)
    assert row.note.startswith("remove them there: '__HIVE_DEFAULT_PARTITION__' cannot be a partition value")
    assert all(each.found == each.removed for each in told if each.table != "customers")
    odd.close()


def test_rows_of_a_view_that_has_no_snapshot_are_found(warehouse: LocalWarehouse, alone: Alone) -> None:
    """Its first refresh was killed before the snapshot could be seen."""
    (_, newest) = list_snapshots(warehouse)
    pointers = warehouse.describe(VIEWS.name)
    assert pointers is not None
    for each in list_snapshots(warehouse):
        pointer: Partition = {"view": each.view.name, "view_version": 1, "snapshot": each.snapshot}
        warehouse.replace(VIEWS.name, pointer, pointers.arrow_schema.empty_table())

    told = [each for each in erase(alone, warehouse, WHO) if each.table == newest.view.schema.name]

    assert [(each.found, each.removed) for each in told] == [(1, 0), (1, 0)]
    assert all("left by a run that was killed" in each.note for each in told)


def test_copies_that_a_killed_call_left_of_others_go_with_them(
    warehouse: LocalWarehouse, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day is removed before anybody erases again: the copy alone has them."""
    work, replace_rows = erasure.work_table(SHARES), warehouse.replace

    def killed(table: str, *arguments: Any) -> None:
        if table == work.name:
            raise WarehouseWriteError("killed")
        replace_rows(table, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(warehouse, "replace", killed)
        with pytest.raises(WarehouseWriteError):
            erase(alone, warehouse, WHO)
    (other, *_) = warehouse.read(work.name, ["sample_id"], {}).column(0).to_pylist()
    for partition, _ in erasure.partitions_with(warehouse, SHARES, other):
        warehouse.replace(SHARES.name, partition, SHARES.arrow_schema.empty_table())

    looked, told = erase(alone, warehouse, other, keep=True), erase(alone, warehouse, other)

    assert [found_in(some)[work.name] for some in (looked, told)] == [(1, 0), (1, 1)]
    assert other not in warehouse.read(work.name, ["sample_id"], {}).column(0).to_pylist()


def test_stores_follow_at_their_next_look(warehouse: LocalWarehouse, alone: Alone, tmp_path: Path) -> None:
    served = MappedStore(tmp_path / "store")
    loader = ModelLoader(warehouse, "lab", served)
    loader.refresh()
    before = in_store(served, WHO)

    erase(alone, warehouse, WHO)
    loader.refresh()

    assert len(before) == 2  # features and stored shares
    assert in_store(served, WHO) == set()
    assert in_store(served, "a4") == before
    # what was mapped is unlinked, so that nothing of it stays on the disk
    files = [each for each in (tmp_path / "store").iterdir() if each.suffix == ".arrow"]
    assert len(files) == 2
    assert not any(WHO.encode() + b"a4" in each.read_bytes() for each in files)


def test_rows_that_nobody_reads_go_too_and_those_being_written_are_told(
    warehouse: LocalWarehouse, alone: Alone
) -> None:
    newest = list_snapshots(warehouse)[-1]
    rows = warehouse.read(newest.view.schema.name, [c.name for c in newest.view.schema.columns], newest.partition)
    for name in ("20200101T000000.000000Z", "20990101T000000.000000Z"):
        warehouse.replace(newest.view.schema.name, {**newest.partition, "snapshot": name}, rows)

    told = {each.place: (each.found, each.removed, each.note) for each in erase(alone, warehouse, WHO, raw=True)}

    assert told["view_version=1, snapshot=20200101T000000.000000Z"] == (1, 1, "")
    found, removed, note = told["view_version=1, snapshot=20990101T000000.000000Z"]
    assert (found, removed, "repeat when it is over" in note) == (1, 0, True)


def test_rows_of_an_id_that_a_file_has_twice_go_all(warehouse: LocalWarehouse, alone: Alone) -> None:
    newest = list_snapshots(warehouse)[-1]
    twice = [*OTHERS, WHO, WHO]
    rows = pa.table(
        {
            "sample_id": twice,
            "event_time": pa.array([AS_OF] * len(twice), pa.timestamp("us", tz="UTC")),
            "n_30d": np.ones(len(twice)),
        }
    )
    publish_snapshot(warehouse, newest.view, "20990101T000000.000000Z", rows)

    told = erase(alone, warehouse, WHO)

    assert [each.removed for each in told if "2099" in each.place] == [2]
    made = list_snapshots(warehouse)[-1]
    assert (made.snapshot, made.n_rows, made.n_ids) == ("20990101T000000.000001Z", 9, 9)


def test_a_day_that_is_being_scored_is_not_robbed_of_its_snapshot(warehouse: LocalWarehouse, alone: Alone) -> None:
    version = current_versions(warehouse)["credit"]
    began = score_day(warehouse, version, DAY, again=True, n_buckets=2).task
    write_task(warehouse, replace(began, finished_at=None, n_ids=None))
    name = score_name("credit", version.params_sha256, DAY)

    with alone.hold(name), pytest.raises(LeaseHeldError, match="score:credit"):
        erase(alone, warehouse, WHO)
    untouched = ids_of(warehouse)
    erase(alone, warehouse, WHO)
    (task,) = list_tasks(warehouse)

    assert sorted({who for ids in untouched.values() for who in ids}) == sorted([*OTHERS, WHO])
    assert task.finished_at is None
    assert task.snapshot in ids_of(warehouse)
    assert score_day(warehouse, version, DAY).task.n_ids == 9


def test_a_bucket_whose_snapshot_goes_while_it_is_read_is_not_recorded(warehouse: LocalWarehouse, alone: Alone) -> None:
    version = current_versions(warehouse)["credit"]
    asked = []

    def meanwhile() -> None:
        asked.append(1)
        if len(asked) == 1:
            erase(Alone(NoLeases()), warehouse, WHO)

    with pytest.raises(InputError, match=r"was removed, or somebody erased from it, while .* was scored: repeat"):
        score_day(warehouse, version, DAY, again=True, still_ours=meanwhile)
    (task,) = list_tasks(warehouse)
    records = finished_buckets(warehouse, task)
    done = score_day(warehouse, version, DAY, again=True).task

    assert records == {}
    assert (done.n_ids, sorted(shares_of(warehouse))) == (9, OTHERS)


def test_shares_of_a_snapshot_that_went_do_not_stay_behind_an_erasure(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows were read before somebody was erased, and written after nothing of them was found any more."""
    version = current_versions(warehouse)["credit"]
    monkeypatch.setattr("fedpredict.scoring.tasks.is_there", lambda *_: False)
    with pytest.raises(InputError, match="somebody erased from it"):
        score_day(warehouse, version, DAY, again=True)
    assert shares_of(warehouse) == {}
    monkeypatch.undo()
    assert score_day(warehouse, version, DAY).task.n_ids == 10


def test_one_who_is_at_it_is_told_and_so_is_what_is_no_id(warehouse: LocalWarehouse, alone: Alone) -> None:
    for name in (ERASE, "refresh:transactions:1"):
        with alone.hold(name), pytest.raises(LeaseHeldError, match=name):
            erase(alone, warehouse, WHO)
    for bad in ("", "a\nb", "x" * 257):
        with pytest.raises(InputError, match="no sample id"):
            erase(alone, warehouse, bad)
    assert sorted(shares_of(warehouse)) == sorted([*OTHERS, WHO])


def test_an_id_is_found_in_raw_rows_as_the_declared_type_reads_it(warehouse: LocalWarehouse, alone: Alone) -> None:
    definition = """
name = "people"
key = "who"
targets = ["duckdb"]
[sources.t]
table = "raw_people"
event_id = "id"
event_time = "at"
[sources.t.columns]
id = "text"
at = "timestamp"
who = "int"
[features.n]
type = "number"
"""
    schema = TableSchema("raw_people", tuple(Column(name, ColumnType.STRING) for name in ("id", "at", "who")), ())
    warehouse.ensure(schema)
    whos = ["0042", "7", "42", "nobody", None, "420"]
    rows = {"id": [str(at) for at in range(6)], "at": ["2024-01-01 00:00:00"] * 6, "who": whos}
    warehouse.replace("raw_people", {}, pa.table(rows))
    view = ScriptView.model_validate(tomllib.loads(definition))
    script = "SELECT t.who, COUNT(*) AS n FROM t WHERE t.who IS NOT NULL GROUP BY t.who"
    registered = register_view(warehouse, view, definition, script)[0]
    refresh_view(warehouse, registered, AS_OF)

    told = erase(alone, warehouse, "42", raw=True)

    assert found_in(told)["raw_people"] == (2, 2)
    left = warehouse.read("raw_people", ["who"], {}).column(0).to_pylist()
    assert sorted(map(str, left)) == ["420", "7", "None", "nobody"]


def test_a_raw_table_that_is_gone_keeps_nothing_else_from_going(warehouse: LocalWarehouse, alone: Alone) -> None:
    gone = DEFINITION.replace('"raw_transactions"', '"raw_gone"')
    foreign = DEFINITION.replace('table = "raw_transactions"', 'table = "raw_far"\ndatabase = "elsewhere"')
    for version, definition in enumerate((gone, foreign), 2):
        view = ScriptView.model_validate(tomllib.loads(definition))
        write_script(warehouse, RegisteredView(view, version, definition, SCRIPT, AS_OF))

    told = erase(alone, warehouse, WHO, raw=True)

    assert found_in(told)["raw_transactions"] == (2, 2)
    assert sorted(shares_of(warehouse)) == OTHERS
    assert all(ids == OTHERS for ids in ids_of(warehouse).values())
    assert "raw_gone" not in found_in(told)
    (far,) = [each for each in told if each.table == "elsewhere.raw_far"]
    assert (far.found, far.removed) == (0, 0)
    assert far.note.startswith("it cannot be read, look there: ")


def test_raw_columns_are_the_key_and_dimensions_joined_on_it_alone(warehouse: LocalWarehouse) -> None:
    registered = registered_view(warehouse)
    people = SCRIPT.replace("merchants.merchant = tx.merchant", "merchants.merchant = tx.account")

    assert erasure.raw_columns(registered) == {("", "raw_transactions", "account", TEXT)}
    assert people != SCRIPT
    assert erasure.raw_columns(replace(registered, script=people)) == {
        ("", "raw_transactions", "account", TEXT),
        ("", "dim_merchants", "merchant", TEXT),
    }
    assert erasing.ERASE == "erase"

"""Erasing a person while others read, sweep or were killed: nobody else loses results, and nothing is left over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fedpredict.errors import FieldError, LeaseLostError, StatementError, TableCorruptError, WarehouseWriteError
from fedpredict.initiator.offline import erasing, standing
from fedpredict.initiator.offline.desk import TaskDesk
from fedpredict.initiator.offline.recorded import ranked_results, recorded_results
from fedpredict.initiator.offline.retention import sweep
from fedpredict.model.offline import OfflineState, OfflineTask, PopulationRef, Ranking
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.model.standing import PopulationState
from fedpredict.state.leases import HeldLease
from fedpredict.tables.deliveries import ACCEPTANCES, list_deliveries, write_acceptance
from fedpredict.tables.erasure import work_table
from fedpredict.tables.populations import POPULATION_IDS, list_versions, remove_buckets, write_version
from fedpredict.tables.results import RESULTS, results_partition
from fedpredict.tables.results_erasure import put_blanked
from fedpredict.warehouse.base import Partition, Warehouse
from fedpredict.wire.offline_codec import Submission
from tests.unit.initiator.test_offline_erasing import EXPECTED, LATER, WHO, erased, people, rows_of
from tests.unit.initiator.test_offline_fetch import DESK, done, serving
from tests.unit.initiator.test_offline_runner import IDS, N_BUCKETS, N_IDS, Bench

_PUT = "fedpredict.initiator.offline.erasing.put_blanked"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, {})


def bucket_with(bench: Bench, task: OfflineTask, who: str = WHO) -> int:
    places = [results_partition(task.task_id, bucket) for bucket in range(N_BUCKETS)]
    ids = [bench.warehouse.read(RESULTS.name, ["sample_id"], place).column(0).to_pylist() for place in places]
    return next(bucket for bucket, there in enumerate(ids) if who in there)


def empty(bench: Bench, place: Partition) -> None:
    bench.warehouse.replace(RESULTS.name, place, RESULTS.arrow_schema.empty_table())


async def test_results_that_retention_removes_meanwhile_do_not_come_back(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await done(bench)

    def late(warehouse: Warehouse, task_id: str, bucket: int) -> None:
        sweep(bench.store, bench.warehouse, "bank", 1, datetime.now(UTC) + timedelta(days=2))
        put_blanked(warehouse, task_id, bucket)

    monkeypatch.setattr(_PUT, late)
    erased(bench, tmp_path)

    assert bench.store.task(task.task_id).results_removed
    assert (people(bench, RESULTS), bench.store.rewriting()) == ([], [])


async def test_results_of_a_killed_call_that_were_removed_since_do_not_stay(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await done(bench)

    def late(warehouse: Warehouse, task_id: str, bucket: int) -> None:
        sweep(bench.store, bench.warehouse, "bank", 1, datetime.now(UTC) + timedelta(days=2))
        put_blanked(warehouse, task_id, bucket)
        raise WarehouseWriteError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(_PUT, late)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path)
    assert people(bench, RESULTS)
    erased(bench, tmp_path, "u6")
    assert (people(bench, RESULTS), bench.store.rewriting()) == ([], [])


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("n_empty", [1, 2, 3])
async def test_a_reader_looks_again_where_rows_are_put_back_right_behind_its_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, n_empty: int, is_refused: bool
) -> None:
    """The rows are away for some looks, and there, with nobody writing, when the reader asks after the last of them."""
    monkeypatch.setattr("fedpredict.initiator.offline.recorded.PAUSE_S", 0.0)
    task = await done(bench)
    record = bench.store.buckets(task.task_id)[0]
    read, left = bench.warehouse.read, [n_empty]

    def reading(table: str, *arguments: Any) -> pa.Table:
        rows = read(table, *arguments)
        if table != RESULTS.name or not left[0]:
            return rows
        left[0] -= 1
        if is_refused:
            raise StatementError("its files are gone")
        return rows.slice(0, 0)

    monkeypatch.setattr(bench.warehouse, "read", reading)
    monkeypatch.setattr(bench.store, "rewriting", lambda: [(task.task_id, 0)] if left[0] else [])
    assert recorded_results(bench.store, bench.warehouse, task, record).num_rows == record.totals.ids


async def test_rows_that_are_gone_are_told_as_damaged(bench: Bench) -> None:
    task = await done(bench)
    record = bench.store.buckets(task.task_id)[0]
    empty(bench, results_partition(task.task_id, 0))
    with pytest.raises(TableCorruptError, match="are not those recorded"):
        recorded_results(bench.store, bench.warehouse, task, record)


async def test_a_statement_that_is_refused_with_nobody_writing_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await done(bench, ranking=Ranking(0))
    record = bench.store.buckets(task.task_id)[0]

    def refused(*_: Any) -> pa.Table:
        raise StatementError("no such column")

    monkeypatch.setattr(bench.warehouse, "read", refused)
    monkeypatch.setattr(bench.warehouse, "run", refused)
    with pytest.raises(StatementError, match="no such column"):
        recorded_results(bench.store, bench.warehouse, task, record)
    with pytest.raises(StatementError, match="no such column"):
        ranked_results(bench.store, bench.warehouse, task.task_id, 1, 5)


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("n_empty", [1, 2, 3])
async def test_ranks_are_looked_for_again_where_rows_are_put_back_right_behind_a_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, n_empty: int, is_refused: bool
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.recorded.PAUSE_S", 0.0)
    task = await done(bench, ranking=Ranking(0))
    run, left = bench.warehouse.run, [n_empty]

    def running(*query: Any) -> pa.Table:
        rows = run(*query)
        if not left[0]:
            return rows
        left[0] -= 1
        if is_refused:
            raise StatementError("its files are gone")
        return rows.slice(0, 0)

    monkeypatch.setattr(bench.warehouse, "run", running)
    monkeypatch.setattr(bench.store, "rewriting", lambda: [(task.task_id, 0)] if left[0] else [])
    rows = ranked_results(bench.store, bench.warehouse, task.task_id, 1, 5)
    assert rows is not None
    assert rows.column("rank").to_pylist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("combine", ["numpy", "engine"])
async def test_a_partition_that_is_empty_since_a_call_was_killed_gets_its_rows_back(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combine: str
) -> None:
    """In Hive it is empty between two steps of the statement that overwrites it."""
    task_id = bench.submit()
    async with bench.working(combine=combine):
        task = await bench.until(task_id, OfflineState.DONE)

    def killed(_: Warehouse, task_id: str, bucket: int) -> None:
        empty(bench, results_partition(task_id, bucket))
        raise WarehouseWriteError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(_PUT, killed)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path, after=LATER)
    erased(bench, tmp_path, after=LATER)

    assert {row["sample_id"] for row in await rows_of(bench, task)} == {*EXPECTED, ""} - {WHO}
    assert (people(bench, work_table(RESULTS)), bench.store.rewriting()) == ([], [])


async def test_the_copy_that_a_killed_call_left_is_emptied(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await done(bench)
    replace, work = bench.warehouse.replace, work_table(RESULTS).name

    def killed(table: str, *arguments: Any) -> None:
        if table == work:
            raise WarehouseWriteError("killed")
        replace(table, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(bench.warehouse, "replace", killed)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path)
    assert people(bench, work_table(RESULTS))
    erased(bench, tmp_path)
    assert people(bench, work_table(RESULTS)) == []


async def test_a_person_is_found_in_the_copy_that_was_left_of_results_that_are_gone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await done(bench)
    with monkeypatch.context() as patched:
        patched.setattr(bench.store.__class__, "rerecord", _killed)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path)
    sweep(bench.store, bench.warehouse, "bank", 1, datetime.now(UTC) + timedelta(days=2))
    (other, *_) = [each for each in people(bench, work_table(RESULTS)) if each]

    looked, told = (erased(bench, tmp_path, other, keep=keep) for keep in (True, False))

    copies = [[each for each in some if each.table == work_table(RESULTS).name] for some in (looked, told)]
    assert [[(each.found, each.removed, each.note) for each in some] for some in copies] == [[(1, 0, "")], [(1, 1, "")]]
    assert task.task_id in copies[0][0].place
    assert other not in people(bench, work_table(RESULTS))


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_the_copy_that_a_killed_call_left_goes_with_the_next_call_for_anyone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_recorded: bool
) -> None:
    task = await done(bench)
    what: tuple[Any, str] = (erasing, "put_blanked") if is_recorded else (bench.store.__class__, "rerecord")
    with monkeypatch.context() as patched:
        patched.setattr(*what, _killed)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path)
    left = people(bench, work_table(RESULTS))
    erased(bench, tmp_path, "nobody")

    assert (len(left) > 1, people(bench, work_table(RESULTS))) == (True, [])
    assert {row["sample_id"] for row in await rows_of(bench, task)} == set(EXPECTED)
    erased(bench, tmp_path)
    assert {row["sample_id"] for row in await rows_of(bench, task)} == {*EXPECTED, ""} - {WHO}


def _killed(*_: object) -> bool:
    raise WarehouseWriteError("killed")


async def test_a_process_that_stood_still_does_not_write_behind_the_next_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ran out right before it put back what it had written: the copy is the next one's by then."""
    task, store = await done(bench), bench.store.__class__
    rerecord = store.rerecord

    def slow(*arguments: Any) -> bool:
        recorded = rerecord(*arguments)
        with monkeypatch.context() as patched:
            patched.setattr(store, "rerecord", rerecord)
            erased(bench, tmp_path)
        monkeypatch.setattr(HeldLease, "check", lost)
        return recorded

    def lost(_: HeldLease) -> None:
        raise LeaseLostError("another process took it over")

    monkeypatch.setattr(store, "rerecord", slow)
    with pytest.raises(LeaseLostError):
        erased(bench, tmp_path)
    assert {row["sample_id"] for row in await rows_of(bench, task)} == {*EXPECTED, ""} - {WHO}


async def test_what_a_worker_may_write_that_lost_the_task_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    task_id = bench.submit()
    assert bench.store.claim("w0", lease_s=0.0) is not None
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    late = {each.table: each for each in erased(bench, tmp_path)}[RESULTS.name]
    told = {each.table: each for each in erased(bench, tmp_path, after=LATER)}[RESULTS.name]

    assert (late.removed, "may be under way: repeat after" in late.note) == (0, True)
    assert (told.removed, told.note) == (1, "")


async def test_no_task_is_queued_about_a_list_that_goes_while_it_is_submitted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = bench.uploads.store([SampleIds.of(IDS)], str(DESK))
    bench.store.add_upload(upload)
    asked = Submission(request_id="r-1", model_id="m", mode=Mode.NEARLINE, upload_id=upload.upload_id)

    def slow(*_: object) -> str:
        erased(bench, tmp_path, after=LATER)
        return "ids"

    monkeypatch.setattr(TaskDesk, "_asked_for", slow)
    with serving(bench) as (desk, _), pytest.raises(FieldError, match=f"no upload {upload.upload_id}") as refused:
        await desk.submit(asked, DESK)
    assert "send the ids again" in refused.value.problem
    assert bench.store.tasks(["m"], limit=1) == []


def _proposed(bench: Bench, ids: Iterable[bytes]) -> None:
    standing.propose(bench.warehouse, "bank", "people", [SampleIds.of(list(ids))], parties=["lab"], by="ada")


def _answers_for(bench: Bench, version: int) -> None:
    """Have the participant's word for a version written down, as the courier does."""
    bench.warehouse.ensure(ACCEPTANCES)
    (delivery,) = list_deliveries(bench.warehouse, "bank", "people")
    write_acceptance(bench.warehouse, delivery, version)


async def test_a_task_about_a_version_that_went_while_it_was_submitted_names_the_next_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _proposed(bench, IDS)
    _answers_for(bench, 1)
    asked = Submission(request_id="r-1", model_id="m", mode=Mode.NEARLINE, standing="people")

    def slow(*_: object) -> str:
        erased(bench, tmp_path)
        _answers_for(bench, 2)
        erased(bench, tmp_path)
        return "population people"

    with monkeypatch.context() as patched, serving(bench) as (desk, _):
        patched.setattr(TaskDesk, "_asked_for", slow)
        task = await desk.submit(asked, DESK)
    there = [each.version for each in list_versions(bench.warehouse)]
    async with bench.working():
        failed = await bench.until(task.task_id, OfflineState.FAILED, OfflineState.DONE)
    with serving(bench) as (desk, _):
        again = await desk.submit(asked, DESK)

    assert there == [2]
    assert failed.state is OfflineState.FAILED
    assert failed.problem == (
        "version 1 of population people is gone at the initiator: a person was erased from it, or newer ones took its"
        " place; submit the task again, for version 2 or without naming one"
    )
    assert (again.new.population.version, again.new.ids) == (2, N_IDS - 1)


@pytest.mark.parametrize("state", [PopulationState.RECEIVING, PopulationState.REVOKED])
async def test_a_task_whose_version_is_half_removed_says_so_too(bench: Bench, state: PopulationState) -> None:
    """Its buckets go before its row, which says until then that it is not complete; a revoked one's row stays."""
    _proposed(bench, IDS)
    (version,) = list_versions(bench.warehouse)
    population = PopulationRef(owner="bank", name="people", version=1, is_standing=True)
    task_id = bench.submit(population=population, n_buckets=version.n_buckets)
    write_version(bench.warehouse, replace(version, state=state))
    remove_buckets(bench.warehouse, "bank", "people", enumerate(version.digests))
    async with bench.working():
        failed = await bench.until(task_id, OfflineState.FAILED)
    assert failed.problem == (
        "version 1 of population people is gone at the initiator, and it has no other: have it proposed anew"
        " (`fedpredict population propose people`), then submit the task again"
    )


async def test_ids_of_a_version_that_is_there_which_are_damaged_are_told_as_before(bench: Bench) -> None:
    _proposed(bench, IDS)
    (version,) = list_versions(bench.warehouse)
    population = PopulationRef(owner="bank", name="people", version=1, is_standing=True)
    task_id = bench.submit(population=population, n_buckets=version.n_buckets)
    remove_buckets(bench.warehouse, "bank", "people", [(0, version.digests[0])])
    async with bench.working():
        failed = await bench.until(task_id, OfflineState.FAILED)
    assert failed.problem.startswith("ids or shares that are stored at the initiator are damaged or gone")


async def test_the_list_of_a_task_whose_results_are_damaged_stays_for_its_retry(bench: Bench, tmp_path: Path) -> None:
    task = await done(bench)
    place = results_partition(task.task_id, bucket_with(bench, task))
    rows = bench.warehouse.read(RESULTS.name, [each.name for each in RESULTS.columns], place)
    origins = pa.array([int(Origin.DEFAULT_PARTIAL)] * rows.num_rows, pa.int32())
    bench.warehouse.replace(RESULTS.name, place, rows.set_column(3, "origin", origins))

    told = {each.table: each for each in erased(bench, tmp_path, after=LATER)}

    assert [told[name].removed for name in (RESULTS.name, POPULATION_IDS.name)] == [0, 0]
    assert "its rows are not those recorded" in told[POPULATION_IDS.name].note
    assert sorted(people(bench, POPULATION_IDS)) == sorted(EXPECTED)

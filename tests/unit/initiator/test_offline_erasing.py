"""A person goes out of the results, shares and lists of an initiator's tasks; all other rows keep their places."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fedpredict.errors import PartyRefusedError, WarehouseWriteError
from fedpredict.initiator.offline.erasing import erase_from_tasks
from fedpredict.model.offline import OfflineState, OfflineTask, Ranking
from fedpredict.model.populations import BucketAnswer
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.erased import Erased
from fedpredict.state.leases import Alone, NoLeases
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.erasure import work_table
from fedpredict.tables.populations import POPULATION_IDS
from fedpredict.tables.results import RESULTS, UNRANKED, results_partition
from fedpredict.tables.results_erasure import put_blanked
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.base import Partition, TableSchema, Warehouse
from fedpredict.wire.offline_arrow import results_from_wire
from tests.unit.initiator.test_offline_fetch import done, fetched, serving
from tests.unit.initiator.test_offline_runner import IDS, N_BUCKETS, N_IDS, Bench

WHO, LATER = "u5", timedelta(hours=2)
EXPECTED = {f"u{number}": 11.0 * number for number in range(N_IDS)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, {})


def erased(
    bench: Bench, folder: Path, who: str = WHO, *, after: timedelta = timedelta(), keep: bool = False
) -> list[Erased]:
    return erase_from_tasks(
        Alone(NoLeases()),
        lambda: open_task_store("sqlite:///state.db", folder),
        bench.warehouse,
        "bank",
        who,
        by="ada",
        now=datetime.now(UTC) + after,
        keep=keep,
    )


def said(told: list[Erased]) -> dict[str, tuple[int, int, bool]]:
    return {each.table: (each.found, each.removed, bool(each.note)) for each in told}


def people(bench: Bench, schema: TableSchema) -> list[str]:
    return [str(each) for each in bench.warehouse.read(schema.name, ["sample_id"], {}).column(0).to_pylist()]


async def rows_of(bench: Bench, task: OfflineTask, offset: int = 0, top: int = 0) -> list[dict[str, Any]]:
    call = await fetched(bench, task.task_id, offset, top)
    assert call.is_whole
    return [row for each in call.answered for row in results_from_wire(each).to_pylist()]


@pytest.mark.parametrize("combine", ["numpy", "engine"])
async def test_a_row_keeps_its_place_and_nothing_of_the_person(bench: Bench, tmp_path: Path, combine: str) -> None:
    task_id = bench.submit()
    async with bench.working(combine=combine):
        task = await bench.until(task_id, OfflineState.DONE)
    before = await rows_of(bench, task)
    looked = erased(bench, tmp_path, after=LATER, keep=True)
    assert await rows_of(bench, task) == before

    told = erased(bench, tmp_path, after=LATER)

    after = await rows_of(bench, task)
    at = [row["sample_id"] for row in before].index(WHO)
    assert after[at] == {"sample_id": "", "prediction": None, "status": "id_invalid", "origin": "unspecified"}
    assert (after[:at], after[at + 1 :]) == (before[:at], before[at + 1 :])
    for offset in (at, at + 1, N_IDS):  # from where a reader was when its connection broke
        assert await rows_of(bench, task, offset) == after[offset:]
    totals = bench.store.task(task_id).totals
    assert totals.statuses == {SampleStatus.OK: N_IDS - 1, SampleStatus.ID_INVALID: 1}
    assert (totals.ids, totals.scored, sum(totals.histograms[0])) == (N_IDS, N_IDS - 1, N_IDS - 1)
    assert totals.parties == task.totals.parties
    there = {RESULTS.name, POPULATION_IDS.name} | ({TASK_SHARES.name} if combine == "engine" else set())
    n_rows = {name: 2 if name == TASK_SHARES.name else 1 for name in there}
    assert said(looked) == {name: (n, 0, False) for name, n in n_rows.items()}
    assert said(told) == {name: (n, n, False) for name, n in n_rows.items()}
    assert erased(bench, tmp_path, after=LATER) == []
    assert people(bench, POPULATION_IDS) == []  # a list that no task needs goes as a whole
    assert bench.store.events(task_id)[-1].what == "a person was erased"


async def test_ranks_stay_and_the_first_are_as_many_as_before(bench: Bench, tmp_path: Path) -> None:
    bench.parties["lab"].lacks = {7}
    task = await done(bench, ranking=Ranking(0))
    best, unscored = f"u{N_IDS - 1}", "u7"
    late = erased(bench, tmp_path, best)
    assert said(late) == {
        RESULTS.name: (1, 0, True),  # a worker that lost the task may be writing them
        UNRANKED.name: (1, 0, True),
        POPULATION_IDS.name: (1, 1, False),
    }
    assert "may be under way: repeat after" in late[0].note

    told = erased(bench, tmp_path, best, after=LATER) + erased(bench, tmp_path, unscored, after=LATER)

    assert all(each.removed == 1 for each in told)
    task = bench.store.task(task.task_id)
    first = await rows_of(bench, task, top=N_IDS)
    assert [row["rank"] for row in first] == list(range(1, N_IDS))
    assert [row["sample_id"] for row in first[:3]] == ["", f"u{N_IDS - 2}", f"u{N_IDS - 3}"]
    assert first[0]["prediction"] is None
    assert [row["sample_id"] for row in await rows_of(bench, task)].count("") == 2
    assert [best in people(bench, each) for each in (RESULTS, UNRANKED)] == [False, False]


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 11, 13])
async def test_a_call_that_is_killed_is_finished_by_another_and_readers_notice_nothing(
    bench: Bench, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await done(bench)
    before = await rows_of(bench, task)
    left = [at]

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            if left[0] == 0:
                raise WarehouseWriteError("killed")
            left[0] -= 1
            return method(*arguments)

        return write

    with monkeypatch.context() as patched:
        patched.setattr(bench.warehouse, "replace", counting(bench.warehouse.replace))
        patched.setattr(bench.warehouse, "replace_from", counting(bench.warehouse.replace_from))
        with pytest.raises(WarehouseWriteError, match="killed"):
            erased(bench, tmp_path)
    between = await rows_of(bench, task)
    erased(bench, tmp_path)

    after = await rows_of(bench, task)
    blanked = [row if row["sample_id"] != WHO else {**row, "sample_id": ""} for row in before]
    assert [row["sample_id"] for row in after] == [row["sample_id"] for row in blanked]
    assert between in (before, after)
    assert bench.store.task(task.task_id).totals.statuses == {SampleStatus.OK: N_IDS - 1, SampleStatus.ID_INVALID: 1}
    assert bench.store.task(task.task_id).state is OfflineState.DONE
    assert [WHO in people(bench, each) for each in (RESULTS, POPULATION_IDS)] == [False, False]
    records = bench.store.buckets(task.task_id)
    assert all(bench.store.digests(task.task_id, at) == {each.results_sha256} for at, each in records.items())
    assert WHO not in people(bench, work_table(RESULTS))


@pytest.mark.parametrize("who", [WHO, "u6"])
async def test_one_is_erased_after_a_call_for_another_was_killed(
    bench: Bench, tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await done(bench)

    def killed(*_: object) -> None:
        raise WarehouseWriteError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("fedpredict.initiator.offline.erasing.put_blanked", killed)
        with pytest.raises(WarehouseWriteError):
            erased(bench, tmp_path)
    erased(bench, tmp_path, who)
    gone = {WHO, who} if who == WHO else {who}
    assert {row["sample_id"] for row in await rows_of(bench, task)} == {*EXPECTED, ""} - gone
    erased(bench, tmp_path)
    assert {row["sample_id"] for row in await rows_of(bench, task)} == {*EXPECTED, ""} - gone - {WHO}


async def test_who_read_a_record_before_gets_the_rows_of_after(bench: Bench, tmp_path: Path) -> None:
    task = await done(bench)
    records = bench.store.buckets(task.task_id)

    for who in (WHO, "u6"):
        erased(bench, tmp_path, who)

    with serving(bench) as (desk, _):
        found = [each for record in records.values() for each in (await desk.results(task, record)).to_pylist()]
    assert sorted(row["sample_id"] for row in found) == sorted(["", "", *({*EXPECTED} - {WHO, "u6"})])
    assert bench.store.task(task.task_id).state is OfflineState.DONE


async def test_a_partition_that_is_empty_while_it_is_overwritten_is_waited_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Hive it is; here the rows are taken away until the reader has looked twice."""
    monkeypatch.setattr("fedpredict.initiator.offline.recorded.PAUSE_S", 0.01)
    task = await done(bench)
    before, looked = await rows_of(bench, task), threading.Event()
    rewriting = bench.store.rewriting

    def seen() -> list[tuple[str, int]]:
        looked.set()
        return rewriting()

    def slow(warehouse: Warehouse, task_id: str, bucket: int) -> None:
        bench.warehouse.replace(RESULTS.name, results_partition(task_id, bucket), RESULTS.arrow_schema.empty_table())
        emptied.set()
        assert looked.wait(30.0)
        put_blanked(warehouse, task_id, bucket)

    emptied = threading.Event()
    monkeypatch.setattr(bench.store, "rewriting", seen)
    monkeypatch.setattr("fedpredict.initiator.offline.erasing.put_blanked", slow)
    erasing = asyncio.create_task(asyncio.to_thread(erased, bench, tmp_path))
    assert await asyncio.to_thread(emptied.wait, 30.0)
    after = await rows_of(bench, task)
    await erasing

    assert [row["sample_id"] for row in after].count("") == 1
    assert [row for row in after if row["sample_id"]] == [row for row in before if row["sample_id"] != WHO]


async def test_ranks_are_waited_for_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.recorded.PAUSE_S", 0.01)
    task = await done(bench, ranking=Ranking(0))
    whole, run, emptied = await rows_of(bench, task, top=5), bench.warehouse.run, [RESULTS.arrow_schema.empty_table()]
    monkeypatch.setattr(bench.store, "rewriting", lambda: [(task.task_id, 0)])
    monkeypatch.setattr(bench.warehouse, "run", lambda *query: emptied.pop() if emptied else run(*query))

    assert await rows_of(bench, task, top=5) == whole
    assert emptied == []


async def test_results_are_whole_at_every_moment_of_an_erasure(bench: Bench, tmp_path: Path) -> None:
    task = await done(bench)
    before = await rows_of(bench, task)
    gone = [f"u{number}" for number in range(0, N_IDS, 8)]

    erasing = asyncio.create_task(asyncio.to_thread(lambda: [erased(bench, tmp_path, who) for who in gone]))
    n_fetches = 0
    while not erasing.done():
        rows = await rows_of(bench, task)
        there = zip((row["sample_id"] for row in rows), (row["sample_id"] for row in before), strict=True)
        assert all(now == was or (now == "" and was in gone) for now, was in there)
        n_fetches += 1
    told = await erasing

    assert n_fetches
    assert [each.removed for one in told for each in one if each.table == RESULTS.name] == [1] * len(gone)
    assert bench.store.task(task.task_id).state is OfflineState.DONE


async def test_what_a_task_that_goes_on_needs_stays_and_is_told(bench: Bench, tmp_path: Path) -> None:
    lab = bench.parties["lab"]
    lab.raises = [PartyRefusedError("no", party="lab")]
    queued = bench.submit()
    (waits,) = erased(bench, tmp_path)
    async with bench.working(buckets_under_way=1):
        await bench.until(queued, OfflineState.FAILED)
    (failed,) = erased(bench, tmp_path)
    bench.store.retry(queued)
    async with bench.working():
        task = await bench.until(queued, OfflineState.DONE)

    assert (waits.table, waits.found, waits.removed) == (POPULATION_IDS.name, 1, 0)
    assert f"task {queued} is queued: wait for its end, or `fedpredict task cancel {queued}`" in waits.note
    assert f"task {queued} failed, and may go on: `fedpredict task retry {queued}`" in failed.note
    assert {row["sample_id"] for row in await rows_of(bench, task)} == set(EXPECTED)
    assert said(erased(bench, tmp_path)) == {RESULTS.name: (1, 1, False), POPULATION_IDS.name: (1, 1, False)}


async def test_buckets_of_a_task_that_failed_half_way_are_left_alone(bench: Bench, tmp_path: Path) -> None:
    task_id = bench.submit()
    lab = bench.parties["lab"]

    def refuse(answer: BucketAnswer) -> BucketAnswer:
        if len(lab.queries) == N_BUCKETS:
            raise PartyRefusedError("no", party="lab")
        return answer

    lab.edit = refuse
    async with bench.working(buckets_under_way=1) as runner:
        failed = await bench.until(task_id, OfflineState.FAILED)
        there = people(bench, RESULTS)[0]
        told = erased(bench, tmp_path, there, after=LATER)
        bench.store.retry(task_id)
        runner.look()
        task = await bench.until(task_id, OfflineState.DONE)

    assert failed.buckets_done == N_BUCKETS - 1
    assert said(told) == {RESULTS.name: (1, 0, True), POPULATION_IDS.name: (1, 0, True)}
    assert all(each.note.startswith(f"task {task_id} failed, and may go on") for each in told)
    assert {row["sample_id"] for row in await rows_of(bench, task)} == set(EXPECTED)


async def test_rows_that_nobody_can_fetch_go_as_a_bucket_and_those_of_a_strange_task_are_told(
    bench: Bench, tmp_path: Path
) -> None:
    task = await done(bench)
    (bucket,) = [each for each in range(N_BUCKETS) if WHO in _ids_of(bench, task, each)]
    where: Partition = {"task_id": task.task_id, "bucket": bucket}
    rows = bench.warehouse.read(RESULTS.name, [each.name for each in RESULTS.columns], where)
    bench.warehouse.replace(RESULTS.name, {"task_id": "of-another", "bucket": 0}, rows)
    bench.store.withdraw(datetime.now(UTC) + timedelta(days=1))

    told = erased(bench, tmp_path)

    notes = {each.place: each.note for each in told if each.table == RESULTS.name}
    assert notes[f"task_id={task.task_id}, bucket={bucket}"] == ""
    assert "does not know" in notes["task_id=of-another, bucket=0"]
    assert _ids_of(bench, task, bucket) == []


def _ids_of(bench: Bench, task: OfflineTask, bucket: int) -> list[str]:
    where: Partition = {"task_id": task.task_id, "bucket": bucket}
    return list(bench.warehouse.read(RESULTS.name, ["sample_id"], where).column(0).to_pylist())


async def test_damaged_results_are_told_and_not_written_anew(bench: Bench, tmp_path: Path) -> None:
    task = await done(bench)
    (bucket,) = [each for each in range(N_BUCKETS) if WHO in _ids_of(bench, task, each)]
    where: Partition = {"task_id": task.task_id, "bucket": bucket}
    rows = bench.warehouse.read(RESULTS.name, [each.name for each in RESULTS.columns], where)
    origins = pa.array([int(Origin.DEFAULT_PARTIAL)] * rows.num_rows, pa.int32())
    bench.warehouse.replace(RESULTS.name, where, rows.set_column(3, "origin", origins))

    told = erased(bench, tmp_path)

    assert [("rows are not those recorded" in each.note) for each in told if each.table == RESULTS.name] == [True]
    assert WHO in _ids_of(bench, task, bucket)


async def test_a_cancelled_task_is_over_when_nobody_can_be_writing_it(bench: Bench, tmp_path: Path) -> None:
    task_id = bench.submit()
    bench.store.cancel(task_id)
    assert said(erased(bench, tmp_path)) == {POPULATION_IDS.name: (1, 1, False)}


def test_a_list_that_was_just_sent_stays_for_its_task(bench: Bench, tmp_path: Path) -> None:
    upload = bench.uploads.store([SampleIds.of(IDS)], "desk")
    bench.store.add_upload(upload)

    (told,) = erased(bench, tmp_path)
    (looked,) = erased(bench, tmp_path, after=timedelta(minutes=11), keep=True)
    still = bench.store.upload(upload.upload_id)
    (gone,) = erased(bench, tmp_path, after=timedelta(minutes=11))

    assert (told.removed, told.note) == (0, "it was just sent, for a task that may come: repeat in 10 minutes")
    assert (looked.found, looked.removed, looked.note, still) == (1, 0, "", upload)
    assert (gone.removed, bench.store.upload(upload.upload_id)) == (1, None)
    assert people(bench, POPULATION_IDS) == []

"""Offline tasks of an initiator whose warehouse is a server: lists, tables, results, ranks, erasing and retention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from fedpredict.initiator.offline.erasing import erase_from_tasks
from fedpredict.initiator.offline.recorded import recorded_results
from fedpredict.initiator.offline.retention import sweep
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.model.offline import CombinedBy, OfflineState, Ranking
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.erased import Erased
from fedpredict.state.lease_sql import open_leases
from fedpredict.state.leases import Alone
from fedpredict.state.tasks import open_task_store
from fedpredict.tables import ranking_sql
from fedpredict.tables.combining_sql import probe_query
from fedpredict.tables.id_tables import ids_of_table
from fedpredict.tables.results import RESULTS, UNRANKED, read_results
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings
from tests.contract.conftest import Place
from tests.unit.initiator.test_offline_runner import IDS, N_IDS, Bench

pytestmark = [pytest.mark.further, pytest.mark.timeout(900)]


class ServerBench(Bench):
    """An initiator whose ids, shares and results are in a server's tables."""

    def __init__(self, folder: Path, settings: HiveSettings) -> None:
        super().__init__(folder, {})
        (folder / "staging").mkdir()
        settings = replace(settings, staging=str(folder / "staging"))
        self.server = HiveWarehouse(settings)
        self.statements = HiveWarehouse(settings)  # type: ignore[assignment]  # as a daemon has it: a second session
        self.warehouse = self.server  # type: ignore[assignment]  # the bench says which one it has in its own tests
        self.uploads = Uploads(warehouse=self.server, owner="bank", max_rows=1_000, least_buckets=2)


@pytest.fixture(params=[pytest.param("spark", marks=pytest.mark.spark), pytest.param("hive", marks=pytest.mark.hive)])
def bench(request: pytest.FixtureRequest, places: Callable[[str], Place], tmp_path: Path) -> Iterator[ServerBench]:
    settings = places(request.param).settings
    assert settings is not None
    bench = ServerBench(tmp_path, settings)
    yield bench
    assert bench.statements is not None
    bench.statements.close()
    bench.server.close()
    bench.store.close()


async def test_a_task_is_combined_ranked_erased_and_swept_on_a_server(
    bench: ServerBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.initiator.test_offline_runner.ENDS_IN_S", 600.0)
    people = TableSchema("people", (Column("who", ColumnType.STRING),), (Column("part", ColumnType.STRING),))
    bench.server.ensure(people)
    given = [each.decode() for each in IDS] + ["u1", "u2"]
    bench.server.replace("people", {"part": "a"}, pa.table({"who": given}))
    upload = bench.uploads.store(ids_of_table(bench.server, "people", "who"), "desk")
    bench.store.add_upload(upload)
    assert (upload.ids, upload.duplicates, upload.n_buckets) == (N_IDS, 2, 2)
    bench.parties["lab"].lacks = {7}

    task_id = bench.submit(population=upload.population, n_buckets=2, ranking=Ranking(0, top=10))
    async with bench.working():
        task = await bench.until(task_id, OfflineState.DONE, OfflineState.FAILED)

    assert [(each.what, each.detail) for each in bench.store.events(task_id)][-1] == ("done", "")
    assert (task.combined_by, task.totals.ids, task.totals.scored) == (CombinedBy.ENGINE, N_IDS, N_IDS - 1)
    assert sum(task.totals.histograms[0]) == N_IDS - 1
    rows = {
        row["sample_id"]: row
        for bucket, done in bench.store.buckets(task_id).items()
        for row in read_results(bench.server, task_id, bucket, done.totals.ids, "", with_rank=True).to_pylist()
    }
    assert {each: row["predictions"] for each, row in rows.items()} == {
        f"u{number}": None if number == 7 else [11.0 * number] for number in range(N_IDS)
    }
    assert {each: row["rank"] for each, row in rows.items() if row["rank"]} == {
        f"u{N_IDS - rank}": rank for rank in range(1, 11)
    }
    for bucket in (None, 0, 1):  # what looks for shares that cannot be read
        (probed,) = bench.server.run(*probe_query(task_id, bucket)).to_pylist()
        assert next(iter(probed.values())) == "lab"
    top = bench.server.run(*ranking_sql.top_query(task_id, 1, 3)).sort_by("rank")
    assert top.column("sample_id").to_pylist() == ["u63", "u62", "u61"]

    def erased(*, keep: bool) -> list[Erased]:
        with contextlib.closing(open_leases("sqlite:///leases.db", tmp_path)) as leases:
            told = erase_from_tasks(
                Alone(leases),
                lambda: open_task_store("sqlite:///state.db", tmp_path),
                bench.server,
                "bank",
                "u5",
                by="me",
                now=datetime.now(UTC) + timedelta(hours=2),
                keep=keep,
            )
        return [each for each in told if task_id in each.place]  # other tests have tasks there, too

    there = {(RESULTS.name, 1), (UNRANKED.name, 1), (TASK_SHARES.name, 2)}  # of two parties
    assert {(each.table, each.found) for each in erased(keep=True)} >= there
    assert {(each.table, each.removed) for each in erased(keep=False)} >= there
    rows_after = [
        row
        for record in bench.store.buckets(task_id).values()
        for row in recorded_results(bench.store, bench.server, task, record).to_pylist()
    ]
    blanked = {**rows["u5"], "sample_id": "", "status": int(SampleStatus.ID_INVALID), "predictions": None, "origin": 0}
    expected = [row for name, row in rows.items() if name != "u5"] + [blanked]
    assert sorted(map(str, rows_after)) == sorted(map(str, expected))
    assert bench.store.task(task_id).totals.scored == N_IDS - 2
    assert erased(keep=False) == []
    sweep(bench.store, bench.server, "bank", 7, datetime.now(UTC) + timedelta(hours=2))
    assert bench.server.read(TASK_SHARES.name, ["status"], {"task_id": task_id}).num_rows == 0
    assert bench.server.read(RESULTS.name, ["status"], {"task_id": task_id}).num_rows == N_IDS
    sweep(bench.store, bench.server, "bank", 7, datetime.now(UTC) + timedelta(days=8))
    assert bench.server.read(RESULTS.name, ["status"], {"task_id": task_id}).num_rows == 0
    assert bench.store.task(task_id).results_removed


async def test_numpy_and_a_server_give_the_same_results(bench: ServerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.initiator.test_offline_runner.ENDS_IN_S", 600.0)
    upload = bench.uploads.store([SampleIds.of(IDS)], "desk")
    by_numpy = bench.submit(population=upload.population, n_buckets=2, ranking=Ranking(0))
    async with bench.working(combine="numpy"):
        numpy_task = await bench.until(by_numpy, OfflineState.DONE, OfflineState.FAILED)
    by_engine = bench.submit(population=upload.population, n_buckets=2)
    async with bench.working():
        task = await bench.until(by_engine, OfflineState.DONE, OfflineState.FAILED)

    assert (numpy_task.combined_by, task.combined_by) == (CombinedBy.NUMPY, CombinedBy.ENGINE)
    assert bench.results(by_engine) == bench.results(by_numpy)
    assert task.totals == numpy_task.totals

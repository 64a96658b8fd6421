"""Tasks whose shares the warehouse's engine combines, and tasks with ranks: results, resuming, what is left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlglot import exp

from fedpredict.errors import PartyUnavailableError, WarehouseWriteError
from fedpredict.initiator.offline import retention
from fedpredict.initiator.offline.retention import sweep
from fedpredict.model.links import Link
from fedpredict.model.offline import CombinedBy, OfflineState, Ranking
from fedpredict.model.prediction import Origin
from fedpredict.model.share import SampleStatus
from fedpredict.state.task_base import Why
from fedpredict.state.task_rows import GATHERED
from fedpredict.tables.results import RESULTS, UNRANKED, read_results
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.local import LocalWarehouse
from tests.unit.initiator.test_offline_runner import EXPECTED, N_BUCKETS, N_IDS, Bench

ENGINE = {"combine": "engine"}


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, getattr(request, "param", {}))


def ranks(bench: Bench, task_id: str) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for bucket, done in bench.store.buckets(task_id).items():
        ids, sha256 = done.totals.ids, done.results_sha256
        rows = read_results(bench.warehouse, task_id, bucket, ids, sha256, with_rank=True).to_pylist()
        found |= {row["sample_id"]: row["rank"] for row in rows}
    return found


def rows_left(bench: Bench, table: str, task_id: str) -> int:
    return int(bench.warehouse.read(table, ["status"], {"task_id": task_id}).num_rows)


ALL_RANKS = {f"u{number}": N_IDS - number for number in range(N_IDS)}
"""Of `EXPECTED`: the larger the number of an id, the larger its prediction."""


@pytest.mark.parametrize(
    "bench", [{}, {"policy": "default_partial", "defaults": {"lab": (7.0,)}}], indirect=True, ids=["fail", "default"]
)
async def test_the_engine_gives_what_numpy_gives(bench: Bench) -> None:
    bench.parties["lab"].lacks = {3, 4, 50}
    bench.parties["bank"].lacks = {4, 9}
    by_numpy, by_engine = bench.submit(), bench.submit(asked_for="the same")
    async with bench.working(combine="numpy"):
        numpy_task = await bench.until(by_numpy, OfflineState.DONE)
        bench.store.cancel(by_engine)
    by_engine = bench.submit()
    async with bench.working(**ENGINE):
        task = await bench.until(by_engine, OfflineState.DONE)
    assert (numpy_task.combined_by, task.combined_by) == (CombinedBy.NUMPY, CombinedBy.ENGINE)
    assert bench.results(by_engine) == bench.results(by_numpy)
    assert bench.origins(by_engine) == bench.origins(by_numpy)
    assert bench.results(by_engine)["u4"] == (SampleStatus.NOT_FOUND, None)
    assert task.totals == numpy_task.totals
    assert (task.buckets_done, task.bins) == (N_BUCKETS, numpy_task.bins)
    assert bench.info(by_engine).buckets_gathered == 0  # they are done


async def test_what_a_statement_cannot_do_numpy_does_and_the_task_says_so(bench: Bench) -> None:
    bench.pins["m"] = replace(bench.pins["m"], link=Link("sqrt"))
    bench.catalogue.record_pins(bench.pins)
    task_id = bench.submit()
    async with bench.working(**ENGINE):
        task = await bench.until(task_id, OfflineState.DONE, OfflineState.FAILED)
    assert (task.state, task.problem) == (OfflineState.DONE, "")
    info = bench.info(task_id)
    assert (info.combined_by, info.combined_why) == (CombinedBy.NUMPY, "the link sqrt is none that a statement applies")
    assert any(info.combined_why in each.detail for each in bench.store.events(task_id))


@pytest.mark.parametrize("bench", [{"policy": "fallback_model", "fallback_model": "own"}], indirect=True)
async def test_a_fallback_model_is_numpys(bench: Bench) -> None:
    bench.parties["lab"].lacks = {3}
    task_id = bench.submit()
    async with bench.working(**ENGINE):
        await bench.until(task_id, OfflineState.DONE)
    assert bench.origins(task_id)["u3"] == Origin.FALLBACK_MODEL
    assert "fallback_model" in bench.info(task_id).combined_why


async def test_shares_that_are_there_are_not_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.failure.FIRST_WAIT_S", 30.0)
    lab = bench.parties["lab"]
    task_id = bench.submit()
    lab.edit = lambda answer: _away_after(len(lab.queries), answer)
    async with bench.working(buckets_under_way=1, **ENGINE):
        waiting = await bench.until(task_id, OfflineState.WAITING)
    assert (waiting.buckets_done, waiting.buckets_gathered) == (0, 3)
    assert {each.party: each.buckets_done for each in bench.info(task_id).parties} == {"bank": 3, "lab": 3}
    assert bench.results(task_id) == {}
    lab.edit = lambda answer: answer
    lab.queries.clear()
    bench.store._clock = lambda: datetime.now(UTC).timestamp() + 60.0
    async with bench.working("w2", **ENGINE):
        await bench.until(task_id, OfflineState.DONE)
    assert len({query.bucket for query in lab.queries}) == len(lab.queries) == N_BUCKETS - 3
    assert bench.results(task_id) == EXPECTED


def _away_after(calls: int, answer: Any) -> Any:
    if calls > 3:
        raise PartyUnavailableError("gone", party="lab")
    return answer


@pytest.mark.parametrize("table", [RESULTS.name, UNRANKED.name])
async def test_a_statement_that_fails_is_made_again_by_a_retry_without_asking_anybody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    whole = LocalWarehouse.replace_each_from

    def full(
        self: LocalWarehouse, into: str, partition: Mapping[str, Any], statement: exp.Expression, params: Any
    ) -> None:
        if into == table:
            raise WarehouseWriteError("No space left on device")
        whole(self, into, partition, statement, params)

    monkeypatch.setattr(LocalWarehouse, "replace_each_from", full)
    task_id = bench.submit(ranking=Ranking(0))
    async with bench.working(**ENGINE) as runner:
        failed = await bench.until(task_id, OfflineState.FAILED)
        assert "results cannot be stored" in failed.problem
        monkeypatch.setattr(LocalWarehouse, "replace_each_from", whole)
        bench.parties["lab"].queries.clear()
        bench.store.retry(task_id)
        runner.look()
        await bench.until(task_id, OfflineState.DONE)
    assert bench.parties["lab"].queries == []
    assert bench.results(task_id) == EXPECTED
    assert ranks(bench, task_id) == ALL_RANKS


async def test_shares_that_are_gone_fail_the_task_and_a_retry_asks_for_them_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalWarehouse.replace_each_from

    def after_a_loss(
        self: LocalWarehouse, table: str, partition: Mapping[str, Any], statement: exp.Expression, params: Any
    ) -> None:
        monkeypatch.setattr(LocalWarehouse, "replace_each_from", whole)
        lost = {"task_id": partition["task_id"], "bucket": 5}
        self.replace(TASK_SHARES.name, lost, TASK_SHARES.arrow_schema.empty_table())
        whole(self, table, partition, statement, params)

    monkeypatch.setattr(LocalWarehouse, "replace_each_from", after_a_loss)
    task_id = bench.submit()
    async with bench.working(**ENGINE) as runner:
        await bench.until(task_id, OfflineState.FAILED)
        assert bench.store.buckets(task_id) == {}
        assert "bucket 5" in bench.store.events(task_id)[-1].detail
        bench.store.retry(task_id)
        runner.look()
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == EXPECTED


async def test_a_task_goes_on_by_the_engine_where_numpy_had_begun_it(bench: Bench) -> None:
    lab = bench.parties["lab"]
    lab.edit = lambda answer: _away_after(len(lab.queries), answer)
    task_id = bench.submit(ranking=Ranking(0))
    async with bench.working(buckets_under_way=1, combine="numpy"):
        await bench.until(task_id, OfflineState.WAITING)
    assert len(bench.store.buckets(task_id)) == 3
    lab.edit = lambda answer: answer
    bench.store._clock = lambda: datetime.now(UTC).timestamp() + 120.0
    async with bench.working("w2", **ENGINE):
        task = await bench.until(task_id, OfflineState.DONE)
    assert (task.buckets_done, task.totals.ids) == (N_BUCKETS, N_IDS)
    assert bench.results(task_id) == EXPECTED
    assert ranks(bench, task_id) == ALL_RANKS


@pytest.mark.parametrize("combine", ["numpy", "engine"])
@pytest.mark.parametrize("top", [0, 10])
async def test_ranks_are_from_the_largest_prediction_on(bench: Bench, combine: str, top: int) -> None:
    bench.parties["lab"].lacks = {N_IDS - 1}
    task_id = bench.submit(ranking=Ranking(0, top))
    async with bench.working(combine=combine):
        await bench.until(task_id, OfflineState.DONE)
    expected: dict[str, int | None] = {each: rank - 1 for each, rank in ALL_RANKS.items()}
    expected[f"u{N_IDS - 1}"] = None
    if top:
        expected = {each: rank if rank is not None and rank <= top else None for each, rank in expected.items()}
    assert ranks(bench, task_id) == expected


@pytest.mark.parametrize("is_swept", [False, True], ids=["at once", "after its work was removed"])
async def test_a_bucket_that_is_made_again_is_ranked_among_the_others(bench: Bench, is_swept: bool) -> None:
    task_id = bench.submit(ranking=Ranking(0))
    async with bench.working(combine="numpy") as runner:
        await bench.until(task_id, OfflineState.DONE)
        if is_swept:
            sweep(bench.store, bench.warehouse, "bank", None, datetime.now(UTC) + timedelta(hours=2))
            assert rows_left(bench, UNRANKED.name, task_id) == 0
        bench.store.lose(task_id, [bench.store.buckets(task_id)[2]], Why(problem="damaged"))
        bench.warehouse.replace(RESULTS.name, {"task_id": task_id, "bucket": 2}, RESULTS.arrow_schema.empty_table())
        bench.parties["lab"].queries.clear()
        bench.store.retry(task_id)
        runner.look()
        await bench.until(task_id, OfflineState.DONE)
    assert {query.bucket for query in bench.parties["lab"].queries} == {2}
    assert ranks(bench, task_id) == ALL_RANKS


@pytest.mark.parametrize("ending", [OfflineState.DONE, OfflineState.CANCELLED])
async def test_shares_and_results_without_ranks_are_removed_an_hour_after_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ending: OfflineState
) -> None:
    lab = bench.parties["lab"]
    task_id = bench.submit(ranking=Ranking(0))
    if ending is OfflineState.CANCELLED:
        monkeypatch.setattr("fedpredict.initiator.offline.failure.FIRST_WAIT_S", 30.0)
        lab.edit = lambda answer: _away_after(len(lab.queries), answer)
    async with bench.working(**ENGINE):
        await bench.until(task_id, OfflineState.DONE, OfflineState.WAITING)
        bench.store.cancel(task_id)
    assert bench.store.task(task_id).state is ending
    sweep(bench.store, bench.warehouse, "bank", 7, datetime.now(UTC) + timedelta(minutes=30))
    assert rows_left(bench, TASK_SHARES.name, task_id) > 0
    sweep(bench.store, bench.warehouse, "bank", 7, datetime.now(UTC) + timedelta(minutes=90))
    assert rows_left(bench, TASK_SHARES.name, task_id) == rows_left(bench, UNRANKED.name, task_id) == 0
    assert bench.store.gathered(task_id) == {}
    assert bench.store.worked(datetime.now(UTC) + timedelta(days=1)) == []
    if ending is OfflineState.DONE:
        assert ranks(bench, task_id) == ALL_RANKS


async def test_a_task_that_is_retried_while_others_are_swept_keeps_its_shares(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is swept is read once, and takes long: what it names may go on again by then."""
    tasks = [bench.submit(), bench.submit()]
    async with bench.working(**ENGINE):
        for task_id in tasks:
            await bench.until(task_id, OfflineState.DONE)
    removed: list[str] = []

    def remove(warehouse: Any, task_id: str, n_buckets: int) -> None:
        if not removed:
            other = next(each for each in tasks if each != task_id)
            bench.store.lose(other, [bench.store.buckets(other)[2]], Why(problem="damaged"))
            bench.store.retry(other)
        removed.append(task_id)

    monkeypatch.setattr(retention, "remove_work", remove)
    sweep(bench.store, bench.warehouse, "bank", None, datetime.now(UTC) + timedelta(hours=2))
    assert len(removed) == 1
    (kept,) = set(tasks) - set(removed)
    assert len(bench.store.gathered(kept)) == N_BUCKETS
    bench.parties["lab"].queries.clear()
    async with bench.working(**ENGINE):
        await bench.until(kept, OfflineState.DONE)
    assert bench.parties["lab"].queries == []
    assert bench.results(kept) == EXPECTED


async def test_a_task_whose_shares_are_forgotten_while_they_are_combined_is_not_done_with_a_hole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.failure.FIRST_WAIT_S", 0.01)
    whole = bench.store.gathered
    calls = 0

    def forgetful(task_id: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first is asked for what is left; between the two somebody else forgot
            with bench.store._database.transaction() as connection:
                connection.execute(GATHERED.delete().where(GATHERED.c.task_id == task_id))
        return whole(task_id)

    monkeypatch.setattr(bench.store, "gathered", forgetful)
    task_id = bench.submit()
    async with bench.working(**ENGINE):
        await bench.until(task_id, OfflineState.DONE)
    assert any("UnfinishedError" in each.detail for each in bench.store.events(task_id))
    assert bench.results(task_id) == EXPECTED


@pytest.mark.parametrize("heals", [True, False])
async def test_shares_in_a_file_that_cannot_be_read_are_asked_for_again_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heals: bool
) -> None:
    whole = LocalWarehouse.replace_each_from

    def damaged(
        self: LocalWarehouse, table: str, partition: Mapping[str, Any], statement: exp.Expression, params: Any
    ) -> None:
        if heals:
            monkeypatch.setattr(LocalWarehouse, "replace_each_from", whole)
        (file,) = (tmp_path / "warehouse" / TASK_SHARES.name).glob(f"task_id={partition['task_id']}/bucket=5/*.parquet")
        content = bytearray(file.read_bytes())
        content[4:-8] = bytes(len(content) - 12)
        file.write_bytes(content)
        whole(self, table, partition, statement, params)

    monkeypatch.setattr(LocalWarehouse, "replace_each_from", damaged)
    task_id = bench.submit()
    async with bench.working(**ENGINE):
        task = await bench.until(task_id, OfflineState.DONE, OfflineState.FAILED)
    assert task.state is (OfflineState.DONE if heals else OfflineState.FAILED)
    asked = [query.bucket for query in bench.parties["lab"].queries]
    assert sorted(asked) == sorted([*range(N_BUCKETS), 5])
    if heals:
        assert bench.results(task_id) == EXPECTED


async def test_results_that_went_before_they_were_ranked_are_made_again_by_one_retry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalWarehouse.replace_each_from

    def full(self: LocalWarehouse, *_: Any) -> None:
        raise WarehouseWriteError("No space left on device")

    monkeypatch.setattr(LocalWarehouse, "replace_each_from", full)
    task_id = bench.submit(ranking=Ranking(0))
    async with bench.working(combine="numpy") as runner:
        await bench.until(task_id, OfflineState.FAILED)
        monkeypatch.setattr(LocalWarehouse, "replace_each_from", whole)
        retention._sweep_work(bench.store, bench.warehouse, datetime.now(UTC) + timedelta(days=8))
        assert rows_left(bench, UNRANKED.name, task_id) == 0
        for state in (OfflineState.FAILED, OfflineState.DONE):  # the first finds what is gone
            bench.store.retry(task_id)
            runner.look()
            await bench.until(task_id, state)
    assert bench.results(task_id) == EXPECTED
    assert ranks(bench, task_id) == ALL_RANKS


@pytest.mark.parametrize("combine", ["numpy", "engine"])
async def test_what_takes_long_is_done_over_a_connection_of_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, combine: str
) -> None:
    """Else whoever asks the warehouse for anything waits for it: a server's connection does one thing at a time."""
    filled: list[LocalWarehouse] = []
    whole = LocalWarehouse.replace_each_from

    def fill(self: LocalWarehouse, *given: Any) -> None:
        filled.append(self)
        whole(self, *given)

    monkeypatch.setattr(LocalWarehouse, "replace_each_from", fill)
    bench.statements = LocalWarehouse(bench.warehouse._root)
    task_id = bench.submit(ranking=Ranking(0))
    async with bench.working(combine=combine):
        await bench.until(task_id, OfflineState.DONE)
    assert filled == [bench.statements] * (2 if combine == "engine" else 1)
    assert ranks(bench, task_id) == ALL_RANKS

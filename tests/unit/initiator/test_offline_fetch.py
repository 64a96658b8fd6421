"""Results as an initiator sends them: all there are, or an error; and states are told whatever the warehouse does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedpredict.errors import FieldError, TaskFailedError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.offline.desk import TaskDesk
from fedpredict.initiator.offline.service import OfflineService
from fedpredict.initiator.settings import ClientSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.offline import BucketDone, OfflineState, OfflineTask, Ranking
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.state.task_rows import BUCKETS
from fedpredict.tables.results import RESULTS
from fedpredict.warehouse.base import Partition
from fedpredict.wire.codec import PROTOCOL_VERSION
from fedpredict.wire.offline_arrow import results_from_wire
from fedpredict.wire.v1 import initiator_pb2
from tests.unit.initiator.test_offline_runner import N_BUCKETS, N_IDS, Bench

DESK = Identity(IdentityKind.CLIENT, "desk")
WAIT_S = 20.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, {})


@contextmanager
def serving(bench: Bench, warehouse: Any = None) -> Iterator[tuple[TaskDesk, OfflineService]]:
    desk = TaskDesk(
        store=bench.store,
        warehouse=warehouse or bench.warehouse,
        catalogue=bench.catalogue,
        access=Access({"desk": ClientSettings(models=("m",))}),
        uploads=bench.uploads,
        settings=InitiatorTaskSettings(),
        own_party="bank",
        look=lambda: None,
    )
    service = OfflineService(desk, lambda _: DESK, TaskMetrics(lambda problem, _: problem))
    with closing(desk), closing(service):
        yield desk, service


class Call:
    """A call of FetchResults, and what it was answered."""

    def __init__(self, task_id: str, offset: int, top: int) -> None:
        self.request = initiator_pb2.FetchResultsRequest(
            protocol_version=PROTOCOL_VERSION, task_id=task_id, offset=offset, top=top, with_rank=True
        )
        self.answered: list[initiator_pb2.ResultBatch] = []

    async def read(self) -> bytes:
        return self.request.SerializeToString()

    async def write(self, message: bytes) -> None:
        self.answered.append(initiator_pb2.ResultBatch.FromString(message))

    @property
    def ids(self) -> list[str]:
        return [each for batch in self.answered for each in results_from_wire(batch)["sample_id"].to_pylist()]

    @property
    def is_whole(self) -> bool:
        return bool(self.answered) and self.answered[-1].last


async def fetched(bench: Bench, task_id: str, offset: int = 0, top: int = 0) -> Call:
    call = Call(task_id, offset, top)
    with serving(bench) as (_, service):
        await service.fetch(cast(Any, call))
    return call


async def done(bench: Bench, **changes: Any) -> OfflineTask:
    task_id = bench.submit(**changes)
    async with bench.working(combine="numpy"):
        return await bench.until(task_id, OfflineState.DONE)


async def test_a_task_with_a_hole_is_not_told_to_be_whole(bench: Bench) -> None:
    task = await done(bench)
    assert len(set((await fetched(bench, task.task_id)).ids)) == N_IDS
    with bench.store._database.transaction() as connection:
        connection.execute(BUCKETS.delete().where(BUCKETS.c.bucket == N_BUCKETS - 1))
    call = Call(task.task_id, 0, 0)
    with serving(bench) as (_, service), pytest.raises(TaskFailedError, match="some of its results are missing"):
        await service.fetch(cast(Any, call))
    assert not call.is_whole


@pytest.mark.parametrize("offset", [0, N_IDS - 3])
async def test_a_fetch_holds_some_records_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    task = await done(bench)
    every = (await fetched(bench, task.task_id)).ids
    held, buckets = list[int](), bench.store.buckets

    def some(task_id: str, among: Collection[int] | None = None) -> dict[int, BucketDone]:
        found = buckets(task_id, among)
        held.append(len(found))
        return found

    monkeypatch.setattr("fedpredict.initiator.offline.service.RECORDS", 3)
    monkeypatch.setattr(bench.store, "buckets", some)
    call = await fetched(bench, task.task_id, offset)

    assert (call.ids, call.is_whole) == (every[offset:], True)
    assert held == [3, 3, 2]


async def test_a_task_is_worked_on_without_the_records_of_what_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_records(*_: object) -> dict[int, BucketDone]:
        raise AssertionError("the records of all buckets are read")

    monkeypatch.setattr(bench.store, "buckets", all_records)
    task = await done(bench)

    assert task.buckets_done == N_BUCKETS


@pytest.mark.parametrize(("given", "top", "expected"), [(0, N_IDS, N_IDS - 2), (10, 10, 10), (0, 5, 5)])
async def test_the_first_are_as_many_as_have_ranks(bench: Bench, given: int, top: int, expected: int) -> None:
    bench.parties["lab"].lacks = {N_IDS - 1, 7}
    task = await done(bench, ranking=Ranking(0, given))
    best = [f"u{number}" for number in range(N_IDS - 2, -1, -1) if number != 7][:expected]
    for offset in (0, 3, expected):
        call = await fetched(bench, task.task_id, offset, top)
        assert (call.ids, call.is_whole) == (best[offset:], True)
    with pytest.raises(FieldError, match=f"has {expected} rows") as refused:
        await fetched(bench, task.task_id, expected + 1, top)
    assert refused.value.place == "offset"


@pytest.mark.parametrize("n_gone", [1, N_BUCKETS], ids=["some", "all"])
async def test_ranks_that_are_missing_are_no_short_list(bench: Bench, n_gone: int) -> None:
    task = await done(bench, ranking=Ranking(0))
    for bucket in range(n_gone):
        lost: Partition = {"task_id": task.task_id, "bucket": bucket}
        bench.warehouse.replace(RESULTS.name, lost, RESULTS.arrow_schema.empty_table())
    with pytest.raises(TaskFailedError, match="ranks are damaged"):
        await fetched(bench, task.task_id, top=N_IDS)


async def test_ranks_that_are_removed_meanwhile_are_said_to_be_removed(bench: Bench) -> None:
    task = await done(bench, ranking=Ranking(0))

    def run(*_: Any) -> Any:
        bench.store.withdraw(datetime.now(UTC) + timedelta(days=1))
        return RESULTS.arrow_schema.empty_table()

    removed = pytest.raises(TaskFailedError, match="removed, because they were old")
    with serving(bench, SimpleNamespace(run=run)) as (desk, _), removed:
        await desk.top(task, 1, 5)


async def test_states_are_told_and_tasks_cancelled_while_the_warehouse_hangs(bench: Bench) -> None:
    task = await done(bench)
    (record, *_) = bench.store.buckets(task.task_id).values()
    goes_on = threading.Event()
    hangs = SimpleNamespace(read=lambda *_: goes_on.wait(WAIT_S))
    other = bench.submit()
    with serving(bench, hangs) as (desk, _):
        reading = [asyncio.create_task(desk.results(task, record)) for _ in range(50)]
        try:
            async with asyncio.timeout(WAIT_S / 2):
                await asyncio.sleep(0)
                assert (await desk.get(task.task_id, DESK)).state is OfflineState.DONE
                assert (await desk.cancel(other, DESK)).state is OfflineState.CANCELLED
                assert len(await desk.list("m", 0, DESK)) == 2
        finally:
            goes_on.set()
            for each in reading:
                each.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

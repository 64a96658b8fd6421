"""Lists on their way in: who may send one, and what becomes of one that stops in the middle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from fedpredict.errors import FieldError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.offline import service as service_module
from fedpredict.initiator.offline.desk import DeskThreads, TaskDesk
from fedpredict.initiator.offline.service import UPLOADS_AT_ONCE, OfflineService
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.initiator.settings import ClientSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.offline import Upload
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.public_status import public_status
from fedpredict.scoring import populations
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.tables.populations import ensure_tables, list_versions, write_bucket
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.handlers import service
from fedpredict.wire.offline_arrow import chunk_to_wire
from fedpredict.wire.offline_codec import Submission
from fedpredict.wire.v1 import initiator_pb2

IDS = SampleIds.of([b"u1", b"u2"])
WAIT_S = 30.0


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    opened = LocalWarehouse(tmp_path / "warehouse")
    ensure_tables(opened)
    yield opened
    opened.close()


@pytest.fixture
def uploads(warehouse: LocalWarehouse) -> Uploads:
    return Uploads(warehouse=warehouse, owner="bank", max_rows=100)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Desk:
    """What an upload needs of the use case, behind a real server."""

    def __init__(self, uploads: Uploads) -> None:
        self.recorded: list[Upload] = []
        self.metrics = TaskMetrics(lambda problem, party: problem)
        self.access = Access({"desk": ClientSettings(models=("m",))})
        self.uploads = uploads
        self.store = SimpleNamespace(add_upload=self.recorded.append)
        self.threads = DeskThreads()

    def __getattr__(self, name: str) -> Any:
        return None  # methods of tasks, which nobody calls here

    @asynccontextmanager
    async def served(self, caller: Identity) -> AsyncIterator[grpc.aio.StreamUnaryMultiCallable[Any, Any]]:
        offline = OfflineService(self, lambda _: caller, self.metrics)  # type: ignore[arg-type]
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service("S", offline.methods()),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_unary("/S/UploadSamples", None, None)
        await server.stop(0)
        offline.close()
        self.threads.close()


DESK = Identity(IdentityKind.CLIENT, "desk")
CHUNK = chunk_to_wire(IDS, "r" * 16).SerializeToString()


@pytest.mark.parametrize("caller", [Identity(IdentityKind.CLIENT, "stranger"), Identity(IdentityKind.PARTY, "desk")])
async def test_who_may_ask_for_no_model_may_send_no_list(uploads: Uploads, caller: Identity) -> None:
    desk = Desk(uploads)
    async with desk.served(caller) as upload:
        with pytest.raises(grpc.aio.AioRpcError, match="no such model") as refused:
            await upload(iter([CHUNK]), timeout=WAIT_S)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert desk.recorded == []


async def test_a_list_is_no_standing_population(uploads: Uploads, warehouse: LocalWarehouse) -> None:
    sent = uploads.store([IDS], "client:other")
    desk = TaskDesk(
        store=SimpleNamespace(),
        warehouse=warehouse,
        catalogue=SimpleNamespace(answerable=lambda _: SimpleNamespace(parties=("bank", "lab"))),  # type: ignore[arg-type]
        access=Access({"desk": ClientSettings(models=("m",))}),
        uploads=uploads,
        settings=InitiatorTaskSettings(),
        own_party="bank",
        look=lambda: None,
    )
    asked = Submission(request_id="r-1", model_id="m", mode=Mode.NEARLINE, standing=sent.population.name)

    with pytest.raises(FieldError, match=f"no population {sent.population.name}"):
        await desk.submit(asked, DESK)


async def test_uploads_that_fall_silent_end_and_others_go_on(
    uploads: Uploads, warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "SILENT_S", 0.3)
    desk = Desk(uploads)
    async with desk.served(DESK) as upload:
        silent = [upload(None, timeout=WAIT_S) for _ in range(UPLOADS_AT_ONCE)]
        for call in silent:
            await call.write(CHUNK)
        reply = initiator_pb2.UploadReply.FromString(await upload(iter([CHUNK]), timeout=WAIT_S))
        codes = {await call.code() for call in silent}

    assert (reply.rows, [each.rows for each in desk.recorded]) == (2, [2])
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert len(list_versions(warehouse)) == 1


async def test_beyond_a_few_lists_that_wait_others_are_told_to_come_again(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "UPLOADS_WAITING", 2)
    desk = Desk(uploads)
    async with desk.served(DESK) as upload, asyncio.timeout(WAIT_S):
        calls = [upload(None, timeout=WAIT_S) for _ in range(UPLOADS_AT_ONCE + 3)]
        done, waiting = await asyncio.wait(
            [asyncio.ensure_future(each.code()) for each in calls], return_when="FIRST_COMPLETED"
        )
        assert [each.result() for each in done] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert len(waiting) == UPLOADS_AT_ONCE + 2
        for call in calls:
            if not call.done():
                await call.write(CHUNK)
                await call.done_writing()
        codes = [await call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == len(desk.recorded) == UPLOADS_AT_ONCE + 2


async def test_who_waits_for_a_place_is_not_read_from(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    class Silent:
        async def read(self) -> bytes:
            read.append(CHUNK)
            await asyncio.Event().wait()
            return CHUNK

    desk = Desk(uploads)
    offline = OfflineService(desk, lambda _: DESK, desk.metrics)  # type: ignore[arg-type]
    calls = [asyncio.create_task(offline.upload(Silent())) for _ in range(UPLOADS_AT_ONCE + 5)]  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S):
        while len(read) < UPLOADS_AT_ONCE:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(read) == UPLOADS_AT_ONCE
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    offline.close()
    desk.threads.close()


async def test_a_list_that_its_sender_broke_off_is_not_taken_for_a_whole_one(
    uploads: Uploads, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(populations, "write_bucket", lambda *given: written.append(given[3]))
    waits = asyncio.Event()
    chunks = [IDS]

    async def read() -> SampleIds | None:
        if chunks:
            return chunks.pop()
        waits.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return None  # as gRPC reads a call that was cancelled

    async with asyncio.timeout(WAIT_S):
        taking = asyncio.create_task(uploads.take(read, "desk", threads))
        await waits.wait()
        taking.cancel()
        await asyncio.wait({taking})

    assert taking.cancelled()
    assert written == []


async def test_nothing_is_left_of_a_list_that_was_broken_off_while_it_was_written(
    uploads: Uploads, warehouse: LocalWarehouse, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, goes_on = threading.Event(), threading.Event()

    def write(warehouse: Warehouse, owner: str, population: str, bucket: int, sample_ids: SampleIds) -> str:
        writes.set()
        assert goes_on.wait(WAIT_S)
        return write_bucket(warehouse, owner, population, bucket, sample_ids)

    monkeypatch.setattr(populations, "write_bucket", write)
    chunks = [IDS]

    async def read() -> SampleIds | None:
        return chunks.pop() if chunks else None

    taking = asyncio.create_task(uploads.take(read, "desk", threads))
    assert await asyncio.to_thread(writes.wait, WAIT_S)
    taking.cancel()
    await asyncio.sleep(0)
    assert not taking.done()  # its place is taken until the thread has ended
    goes_on.set()
    await asyncio.wait({taking}, timeout=WAIT_S)

    assert taking.cancelled()
    assert list_versions(warehouse) == []
    assert warehouse.read("fp_population_ids", ["sample_id"], {}).num_rows == 0


class SlowSender:
    """Sends some ids every so many seconds of its own clock."""

    def __init__(self, n_ids: int, every_s: float, times: int) -> None:
        self.now = 0.0
        self._chunks = [SampleIds.of([b"u%d-%d" % (time, row) for row in range(n_ids)]) for time in range(times)]
        self._every_s = every_s

    def clock(self) -> float:
        return self.now

    async def read(self) -> SampleIds | None:
        self.now += self._every_s
        return self._chunks.pop(0) if self._chunks else None


def paced(warehouse: LocalWarehouse, sender: SlowSender) -> Uploads:
    return Uploads(warehouse=warehouse, owner="bank", max_rows=100, grace_s=120.0, rows_per_s=0.5, clock=sender.clock)


async def test_who_sends_a_little_now_and_then_loses_its_place_and_nothing_is_left(
    warehouse: LocalWarehouse, threads: ThreadPoolExecutor
) -> None:
    sender = SlowSender(n_ids=1, every_s=59.0, times=50)

    with pytest.raises(FieldError, match="3 rows came in 177 s") as refused:
        await paced(warehouse, sender).take(sender.read, "desk", threads)

    assert public_status(refused.value).text.startswith("sample_ids: came too slowly: at least 0.5 rows a second")
    assert list_versions(warehouse) == []


async def test_who_is_slow_and_sends_enough_keeps_its_place(
    warehouse: LocalWarehouse, threads: ThreadPoolExecutor
) -> None:
    sender = SlowSender(n_ids=30, every_s=59.0, times=3)  # more than a row in two seconds

    upload = await paced(warehouse, sender).take(sender.read, "desk", threads)

    assert upload.rows == 90
    assert sender.now == 4 * 59.0


async def test_what_is_done_with_the_rows_does_not_count(
    warehouse: LocalWarehouse, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = SlowSender(n_ids=1, every_s=1.0, times=10)
    taken: list[SampleIds] = []

    def store(_: Uploads, batches: Iterable[SampleIds], caller: str) -> None:
        for batch in batches:
            taken.append(batch)
            sender.now += 1_000.0  # a warehouse that is slow

    monkeypatch.setattr(Uploads, "store", store)
    await paced(warehouse, sender).take(sender.read, "desk", threads)

    assert len(taken) == 10

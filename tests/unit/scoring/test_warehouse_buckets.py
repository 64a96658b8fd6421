"""Buckets answered from the warehouse, held against the path that online questions take over the same tables."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import (
    ManifestMismatchError,
    ModelNotReadyError,
    ProtocolError,
    StatementError,
    TableCorruptError,
)
from fedpredict.features.memory import MemoryStore
from fedpredict.model.buckets import Hashes, buckets_of
from fedpredict.model.populations import BucketQuery, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring import warehouse_buckets
from fedpredict.scoring.buckets import BucketPart, StoreBuckets
from fedpredict.scoring.freshness import ViewFreshness
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.open_buckets import open_buckets
from fedpredict.scoring.settings import AnswerFrom, TaskSettings
from fedpredict.scoring.tasks import score_day
from fedpredict.tables.models import ModelVersion
from fedpredict.tables.shares import SHARES, TASK_BUCKETS, TASKS, ShareTask, write_bucket, write_task
from fedpredict.tables.views import latest_snapshot, remove_snapshot
from fedpredict.warehouse.base import Partition
from fedpredict.warehouse.local import LocalWarehouse
from tests.unit.scoring.test_tasks import DAY, MORNING, load, people, simple

N = 3_000
BOTH = [Mode.NEARLINE, Mode.OFFLINE]


class Party:
    """A party over a warehouse, twice: with an online store, and without one."""

    def __init__(self, warehouse: LocalWarehouse, version: ModelVersion, **freshness: ViewFreshness) -> None:
        self.version = version
        store = MemoryStore()
        filled = ModelLoader(warehouse, "lab", store)
        filled.refresh()
        self.stored = filled
        stored = LocalParty("lab", lambda: filled.state, store, freshness=freshness, now=now)
        self.by_store: BucketPart = StoreBuckets(stored, stored.source_of)
        self.loader = ModelLoader(warehouse, "lab", MemoryStore(), fills_store=False)
        self.loader.refresh()
        part = LocalParty("lab", lambda: self.loader.state, MemoryStore(), freshness=freshness, now=now)
        settings = TaskSettings(answer_from=AnswerFrom.WAREHOUSE, answer_rows=1_000)
        self.by_warehouse = open_buckets(settings, warehouse, part, lambda: self.loader.state, poll_s=0.0, at_once=2)

    def query(self, sample_ids: Sequence[bytes], bucket: int, n_buckets: int, mode: Mode) -> BucketQuery:
        version = self.version
        return BucketQuery(
            request_id="r",
            task_id="t",
            model_id=version.model_id,
            manifest_sha256="1" * 64,
            params_sha256=version.params_sha256,
            mode=mode,
            bucket=bucket,
            n_buckets=n_buckets,
            rows=SampleIds.of(sample_ids),
        )

    async def ask(self, part: BucketPart, query: BucketQuery) -> PartyReply:
        assert isinstance(query.rows, SampleIds)
        return await part.answer(query, query.rows, 30.0)


def now() -> int:
    return int((MORNING + timedelta(hours=6)).timestamp() * 1e6)


def in_buckets(sample_ids: Sequence[bytes], n_buckets: int) -> list[list[bytes]]:
    numbers = buckets_of(sample_ids, n_buckets)
    return [list(in_order(SampleIds.of([s for s, n in zip(sample_ids, numbers, strict=True) if n == bucket])))
            for bucket in range(n_buckets)]  # fmt: skip


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path / "warehouse")


def filled(warehouse: LocalWarehouse, *, n_buckets: int = 4, **freshness: ViewFreshness) -> Party:
    ids, features = people(N)
    features[5, 1], features[6, 2] = np.nan, np.inf
    seen = [MORNING - timedelta(hours=row % 24) for row in range(N)]
    load(warehouse, [*ids[:-1], " odd id\n"], features, seen=seen)
    version = simple(warehouse)
    score_day(warehouse, version, DAY, n_buckets=n_buckets)
    return Party(warehouse, version, **freshness)


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("n_buckets", [1, 4, 16])
async def test_a_bucket_is_answered_as_the_online_store_answers_it(
    warehouse: LocalWarehouse, mode: Mode, n_buckets: int
) -> None:
    age = 26 * 3_600_000_000
    party = filled(warehouse, people=ViewFreshness(max_age=age, max_age_offline=age))
    asked = [f"person-{row}".encode() for row in range(0, 2 * N, 3)] + [b"person-5", b"person-6", b" odd id\n", b""]

    seen = set[int]()
    for bucket, sample_ids in enumerate(in_buckets(asked, n_buckets)):
        query = party.query(sample_ids, bucket, n_buckets, mode)
        reply, expected = await party.ask(party.by_warehouse, query), await party.ask(party.by_store, query)
        np.testing.assert_array_equal(reply.share.status, expected.share.status)
        np.testing.assert_allclose(reply.share.values, expected.share.values, rtol=1e-12)
        assert reply.oldest_event_time == expected.oldest_event_time
        seen |= set(reply.share.status.tolist())

    missing = {SampleStatus.FEATURE_MISSING, SampleStatus.FEATURE_INVALID}
    assert seen == {SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.ID_INVALID, SampleStatus.STALE, *missing}


@pytest.mark.parametrize("mode", BOTH)
async def test_all_ids_of_a_bucket_are_answered_too(warehouse: LocalWarehouse, mode: Mode) -> None:
    party = filled(warehouse)
    ids, features = people(N)
    for bucket, sample_ids in enumerate(in_buckets([each.encode() for each in ids[:-1]], 2)):
        reply = await party.ask(party.by_warehouse, party.query(sample_ids, bucket, 2, mode))
        rows = [int(each.decode().partition("-")[2]) for each in sample_ids]
        right = [SampleStatus.OK if row not in (5, 6) else reply.share.status[at] for at, row in enumerate(rows)]
        assert reply.share.status.tolist() == right
        expected = features[rows] @ [2.0, -1.0, 0.5] + 1.0
        ok = reply.share.status == SampleStatus.OK
        np.testing.assert_allclose(reply.share.values[ok, 0], expected[ok], rtol=1e-12)


async def test_a_share_says_which_snapshot_or_day_it_comes_from(warehouse: LocalWarehouse) -> None:
    party = filled(warehouse)

    async def sources(mode: Mode) -> list[tuple[str, ...]]:
        query = party.query([b"person-1"], 0, 1, mode)
        return [(await party.ask(part, query)).sources for part in (party.by_store, party.by_warehouse)]

    assert await sources(Mode.NEARLINE) == [("snapshot 20260301T060000.000000Z",)] * 2
    assert await sources(Mode.OFFLINE) == [("day 2026-03-01",)] * 2

    load(warehouse, *people(N), at=MORNING + timedelta(hours=1))
    score_day(warehouse, party.version, DAY, n_buckets=4, again=True)
    party.stored.refresh()

    assert await sources(Mode.NEARLINE) == [("snapshot 20260301T070000.000000Z",)] * 2
    assert await sources(Mode.OFFLINE) == [("day 2026-03-01, scored again: 1",)] * 2


async def test_a_store_that_changes_while_it_answers_has_both_named(warehouse: LocalWarehouse) -> None:
    party, names = filled(warehouse), iter(("snapshot A", "snapshot B"))
    store = MemoryStore()
    loader = ModelLoader(warehouse, "lab", store)
    loader.refresh()
    changing = StoreBuckets(LocalParty("lab", lambda: loader.state, store, now=now), lambda _: next(names))
    reply = await party.ask(changing, party.query([b"person-1"], 0, 1, Mode.NEARLINE))
    assert reply.sources == ("snapshot A", "snapshot B")


async def test_an_id_that_is_asked_for_in_the_wrong_bucket_is_no_unknown_person(warehouse: LocalWarehouse) -> None:
    party = filled(warehouse)
    (first, second) = in_buckets([b"person-1", b"person-2", b"person-3", b"person-4", b"nobody"], 2)
    assert first
    with pytest.raises(ProtocolError, match="not in bucket 0 of 2"):
        await party.ask(party.by_warehouse, party.query([*first, *second], 0, 2, Mode.OFFLINE))


async def test_the_rows_of_neighbours_are_read_once(warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    party = filled(warehouse)
    reads, whole = list[Partition](), warehouse.read

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        if table == SHARES.name:
            reads.append(where)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    groups = in_buckets([f"person-{row}".encode() for row in range(100)], 16)
    places = [0, 4, 8, 12]  # buckets of 16 that are in bucket 0 of 4
    queries = [party.query(groups[bucket], bucket, 16, Mode.OFFLINE) for bucket in places]
    await asyncio.gather(*(party.ask(party.by_warehouse, each) for each in queries))
    assert [each["bucket"] for each in reads] == [0]


async def test_as_many_pieces_are_held_as_are_made_at_once_however_many_buckets_there_are(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party, places = filled(warehouse, n_buckets=8), list[weakref.ref[Hashes]]()

    def noted(rows: pa.Table, n_scores: int) -> warehouse_buckets.Piece:
        piece = whole(rows, n_scores)
        places.append(weakref.ref(piece.places))
        return piece

    whole = warehouse_buckets._ordered
    monkeypatch.setattr(warehouse_buckets, "_ordered", noted)
    held = []
    for bucket, sample_ids in enumerate(in_buckets([f"person-{row}".encode() for row in range(200)], 8)):
        await party.ask(party.by_warehouse, party.query(sample_ids, bucket, 8, Mode.OFFLINE))
        held.append(sum(each() is not None for each in places))
    assert (len(places), held[0], max(held)) == (8, 1, 2)


async def test_the_records_of_all_buckets_are_read_once_however_often_a_day_is_looked_for(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = filled(warehouse)  # which looks at every question
    reads, whole = list[str](), warehouse.read

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        reads.append(table)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    for bucket, sample_ids in enumerate(in_buckets([f"person-{row}".encode() for row in range(100)], 4)):
        await party.ask(party.by_warehouse, party.query(sample_ids, bucket, 4, Mode.OFFLINE))
    assert (reads.count(SHARES.name), reads.count(TASK_BUCKETS.name)) == (4, 1)

    score_day(warehouse, party.version, DAY, n_buckets=4, again=True)
    reads.clear()
    await party.ask(party.by_warehouse, party.query([b"person-1"], 0, 1, Mode.OFFLINE))
    assert (reads.count(SHARES.name), reads.count(TASK_BUCKETS.name)) == (4, 1)


async def test_what_is_scored_again_meanwhile_is_never_mixed(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = filled(warehouse)
    whole, changed = warehouse.read, threading.Event()

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        if table == SHARES.name and not changed.is_set():
            changed.set()
            score_day(warehouse, party.version, DAY, n_buckets=4, again=True)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    query = party.query(in_buckets([b"person-1"], 1)[0], 0, 1, Mode.OFFLINE)
    with pytest.raises(ModelNotReadyError, match="changed while they were read"):
        await party.ask(party.by_warehouse, query)
    reply = await party.ask(party.by_warehouse, query)
    assert reply.share.status.tolist() == [SampleStatus.OK]


async def test_stored_shares_of_which_some_are_lost_give_no_one_a_wrong_status(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.scoring.pieces._AGAIN_S", 0.0)
    party = filled(warehouse, n_buckets=1)
    task: ShareTask = score_day(warehouse, party.version, DAY).task
    rows = warehouse.read(SHARES.name, ["sample_id", "status", "scores", "event_time"], task.partition)
    warehouse.replace(SHARES.name, {**task.partition, "bucket": 0}, rows.slice(10))
    with pytest.raises(TableCorruptError, match="--again"):
        await party.ask(party.by_warehouse, party.query([b"person-1"], 0, 1, Mode.OFFLINE))


async def test_without_a_snapshot_or_stored_shares_or_the_version_nothing_is_answered(
    warehouse: LocalWarehouse,
) -> None:
    ids, features = people(10)
    load(warehouse, ids, features)
    party = Party(warehouse, simple(warehouse))
    query = party.query([b"person-1"], 0, 1, Mode.OFFLINE)
    with pytest.raises(ModelNotReadyError, match="task score"):
        await party.ask(party.by_warehouse, query)
    with pytest.raises(ManifestMismatchError):
        await party.ask(party.by_warehouse, replace(query, params_sha256="0" * 64))
    snapshot = latest_snapshot(warehouse, "people")
    assert snapshot is not None
    remove_snapshot(warehouse, snapshot)
    with pytest.raises(ModelNotReadyError, match="no snapshot"):
        await party.ask(party.by_warehouse, replace(query, mode=Mode.NEARLINE))


async def test_who_waits_in_vain_finds_the_piece_when_he_asks_again(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = filled(warehouse)
    whole, go_on, reads = warehouse.read, threading.Event(), list[str]()

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        if table == SHARES.name:
            reads.append(table)
            assert go_on.wait(30.0)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    query = party.query(in_buckets([b"person-1"], 4)[int(buckets_of([b"person-1"], 4)[0])],
                        int(buckets_of([b"person-1"], 4)[0]), 4, Mode.OFFLINE)  # fmt: skip
    assert isinstance(query.rows, SampleIds)
    with pytest.raises(TimeoutError):
        await party.by_warehouse.answer(query, query.rows, 0.05)
    go_on.set()
    reply = await party.ask(party.by_warehouse, query)
    assert reply.share.status.tolist() == [SampleStatus.OK]
    assert reads == [SHARES.name]


async def test_what_came_too_late_for_one_question_is_no_answer_to_another(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = filled(warehouse, n_buckets=1)
    whole, slow = warehouse.read, True

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        time.sleep(0.2 if slow and table == TASKS.name else 0.0)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    first, other = (party.query([each], 0, 1, Mode.OFFLINE) for each in (b"person-1", b"person-2"))
    assert isinstance(first.rows, SampleIds)
    with pytest.raises(TimeoutError):
        await party.by_warehouse.answer(first, first.rows, 0.05)
    await asyncio.sleep(0.5)  # it ends meanwhile, after its time
    slow = False
    reply, expected = await party.ask(party.by_warehouse, other), await party.ask(party.by_store, other)
    assert reply.share.values.tolist() == expected.share.values.tolist()


async def test_a_list_that_needs_many_pieces_goes_on_where_it_was(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = filled(warehouse, n_buckets=8)
    whole, reads, slow = warehouse.read, list[object](), True

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        if table == SHARES.name:
            reads.append(where["bucket"])
            time.sleep(0.1 if slow else 0.0)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    query = party.query(in_buckets([b"person-1", b"person-2", b"nobody"], 1)[0], 0, 1, Mode.OFFLINE)
    assert isinstance(query.rows, SampleIds)
    with pytest.raises(TimeoutError):
        await party.by_warehouse.answer(query, query.rows, 0.25)
    await asyncio.sleep(0.3)  # the piece that was begun
    before, slow = len(reads), False
    assert 0 < before < 8
    reply = await party.ask(party.by_warehouse, query)
    expected = await party.ask(party.by_store, query)
    assert reply.share.status.tolist() == expected.share.status.tolist()
    np.testing.assert_allclose(reply.share.values, expected.share.values, rtol=1e-12)
    assert len(reads) <= 9  # each piece once, the one that was late perhaps twice
    assert set(reads) == set(range(8))


async def test_somebody_who_is_taken_out_meanwhile_is_waited_for(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.scoring.pieces._AGAIN_S", 0.0)
    party = filled(warehouse, n_buckets=1)
    state = score_day(warehouse, party.version, DAY)
    partition = {**state.task.partition, "bucket": 0}
    rows = warehouse.read(SHARES.name, ["sample_id", "status", "scores", "event_time"], partition)
    whole, after = warehouse.read, rows.filter(pa.compute.not_equal(rows.column("sample_id"), "person-1"))
    seen = 0

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        nonlocal seen
        if table == SHARES.name:
            seen += 1
            if seen == 2:  # the record came before, the rows come now
                warehouse.replace(SHARES.name, partition, after)
        return whole(table, columns, where)

    write_bucket(warehouse, state.task, replace(state.buckets[0], n_ids=after.num_rows))
    monkeypatch.setattr(warehouse, "read", read)
    reply = await party.ask(party.by_warehouse, party.query([b"person-1"], 0, 1, Mode.OFFLINE))
    assert reply.share.status.tolist() == [SampleStatus.NOT_FOUND]


@pytest.mark.parametrize("mode", BOTH)
async def test_what_goes_while_it_is_read_has_the_task_wait(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    party = filled(warehouse, n_buckets=1)
    name = "read" if mode is Mode.OFFLINE else "run"
    whole = getattr(warehouse, name)

    def refused(*given: object) -> pa.Table:
        if mode is Mode.OFFLINE and given[0] != SHARES.name:
            return whole(*given)
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        if mode is Mode.OFFLINE:
            score_day(warehouse, party.version, DAY, again=True)
        else:
            remove_snapshot(warehouse, snapshot)
        raise StatementError("a file is gone")

    monkeypatch.setattr(warehouse, name, refused)
    with pytest.raises(ModelNotReadyError, match=r"changed while|went while"):
        await party.ask(party.by_warehouse, party.query([b"person-1"], 0, 1, mode))


async def test_while_the_newest_day_is_scored_again_no_older_one_is_answered(warehouse: LocalWarehouse) -> None:
    party = filled(warehouse, n_buckets=1)
    task = score_day(warehouse, party.version, DAY).task
    write_task(warehouse, replace(task, generation=1, finished_at=None))
    older = replace(task, day=DAY - timedelta(days=1))
    write_task(warehouse, older)
    with pytest.raises(ModelNotReadyError, match="scored again"):
        await party.ask(party.by_warehouse, party.query([b"person-1"], 0, 1, Mode.OFFLINE))


async def test_pieces_that_nobody_asks_for_are_let_go_also_after_a_failure(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.scoring.warehouse_buckets.IDLE_S", 0.05)
    party = filled(warehouse)
    whole, late, reads = warehouse.read, threading.Event(), list[str]()

    def read(table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        if table == SHARES.name:
            reads.append(table)
            assert late.wait(30.0)
        return whole(table, columns, where)

    monkeypatch.setattr(warehouse, "read", read)
    query = party.query([b"person-1"], int(buckets_of([b"person-1"], 4)[0]), 4, Mode.OFFLINE)
    assert isinstance(query.rows, SampleIds)
    for _ in range(20):  # who came too late to read anything has begun nothing
        with pytest.raises(TimeoutError):
            await party.by_warehouse.answer(query, query.rows, 0.5)
        if reads:
            break
    assert len(reads) == 1
    late.set()
    for _ in range(20):  # a question keeps it; longer than that nobody asks
        await asyncio.sleep(0.5)
        await party.ask(party.by_warehouse, query)
        if len(reads) == 2:
            break
    assert len(reads) == 2  # it was let go


def test_a_loader_that_fills_no_store_has_its_models_ready(warehouse: LocalWarehouse) -> None:
    party = filled(warehouse)
    assert party.loader.is_ready("m")
    assert party.loader.state.problems == {}
    assert not party.loader.is_ready("other")

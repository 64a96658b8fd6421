"""The worker of offline tasks over a real database and warehouse; parties are doubles behind the contract."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import (
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    FedPredictError,
    PartyRefusedError,
    PartyUnavailableError,
    PopulationRefusedError,
    TableCorruptError,
    WarehouseWriteError,
)
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.offline import bucket as bucket_module
from fedpredict.initiator.offline.failure import PartyFailedError, verdict_on, waiting_reason
from fedpredict.initiator.offline.report import info_of
from fedpredict.initiator.offline.retention import sweep
from fedpredict.initiator.offline.runner import TaskRunner
from fedpredict.initiator.offline.uploads import Uploads
from fedpredict.initiator.settings import ModelSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest
from fedpredict.model.offline import NewTask, OfflineState, OfflineTask, TaskInfo
from fedpredict.model.populations import BucketAnswer, BucketQuery, BucketScorer, PopulationRows, digest_of
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.state.tasks import SqlTaskStore, open_task_store
from fedpredict.tables.populations import list_versions, read_bucket
from fedpredict.tables.results import read_results
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.offline_codec import task_from_wire, task_to_wire

N_IDS, N_BUCKETS = 64, 8
IDS = [f"u{number}".encode() for number in range(N_IDS)]
ENDS_IN_S = 30.0


@dataclass
class Party(BucketScorer):
    """Scores the number in an id times a weight, and does as the test says.

    Attributes:
        name: Who it is.
        weight: Its share of an id.
        lacks: Numbers of ids that it does not know.
        raises: What its next calls end in, in order.
        held: While set, calls wait for it.
        queries: What it was asked.
    """

    name: str
    weight: float
    lacks: set[int] = field(default_factory=set)
    raises: list[FedPredictError] = field(default_factory=list)
    held: asyncio.Event | None = None
    queries: list[BucketQuery] = field(default_factory=list)
    edit: Callable[[BucketAnswer], BucketAnswer] = lambda answer: answer
    left: int = 0

    @property
    @override
    def party(self) -> str:
        return self.name

    @override
    async def score_bucket(self, query: BucketQuery, *, deadline_s: float) -> BucketAnswer:
        self.queries.append(query)
        if self.raises:
            raise self.raises.pop(0)
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        assert not isinstance(query.rows, PopulationRows)
        numbers = np.array([int(each[1:]) for each in query.rows])
        status = np.where(np.isin(numbers, list(self.lacks)), SampleStatus.NOT_FOUND, SampleStatus.OK).astype(np.uint8)
        share = build_share(numbers[:, None] * self.weight, status)
        answer = BucketAnswer(share=share, ids_sha256=digest_of(query.rows), oldest_event_time=5, elapsed_s=0.1)
        return self.edit(answer)


def manifest(parties: Mapping[str, str], model_id: str = "m") -> Manifest:
    return Manifest(
        model_id=model_id,
        training_run="run-1",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=1,
        fit_intercept=False,
        intercept_party=None,
        digests=tuple(sorted(parties.items())),
    )


BOTH = {"bank": "a" * 64, "lab": "b" * 64}


class Bench:
    """An initiator "bank" with a part, and one participant "lab"."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.store: SqlTaskStore = open_task_store("sqlite:///state.db", folder)
        self.warehouse = LocalWarehouse(folder / "warehouse")
        self.statements: LocalWarehouse | None = None
        self.parties = {"bank": Party("bank", 1.0), "lab": Party("lab", 10.0)}
        models = {"m": ModelSettings(parties=("bank", "lab"), **settings), "own": ModelSettings(parties=("bank",))}
        self.catalogue = Catalogue(models)
        self.pins = {"m": manifest(BOTH), "own": manifest({"bank": "c" * 64}, "own")}
        self.catalogue.record_pins(self.pins)
        self.uploads = Uploads(warehouse=self.warehouse, owner="bank", max_rows=1_000, least_buckets=N_BUCKETS)

    def submit(self, **changes: Any) -> str:
        upload = self.uploads.store([SampleIds.of(IDS)], "desk")
        new = NewTask(
            manifest=self.pins["m"],
            mode=Mode.NEARLINE,
            population=upload.population,
            asked_for="ids",
            n_buckets=upload.n_buckets,
            rows=upload.rows,
            ids=upload.ids,
            duplicates=0,
            invalid=0,
            idempotency_key="",
            note="",
            submitted_by="desk",
        )
        return self.store.submit(replace(new, **changes)).task_id

    @asynccontextmanager
    async def working(self, worker: str = "w1", **settings: Any) -> AsyncIterator[TaskRunner]:
        runner = TaskRunner(
            self.store,
            self.warehouse,
            self.catalogue,
            self.parties,
            own_party="bank",
            settings=InitiatorTaskSettings(**settings),
            worker=worker,
            statements=self.statements,
            look_s=0.02,
        )
        running = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def until(self, task_id: str, *states: OfflineState) -> OfflineTask:
        ends = time.monotonic() + ENDS_IN_S
        while (task := self.store.task(task_id)).state not in states:
            assert time.monotonic() < ends, self.store.events(task_id)
            await asyncio.sleep(0.02)
        return task

    def results(self, task_id: str) -> dict[str, tuple[int, list[float] | None]]:
        found: dict[str, tuple[int, list[float] | None]] = {}
        for bucket, done in self.store.buckets(task_id).items():
            rows = read_results(self.warehouse, task_id, bucket, done.totals.ids, done.results_sha256).to_pylist()
            for row in rows:
                assert row["sample_id"] not in found
                found[row["sample_id"]] = (row["status"], row["predictions"])
        return found

    def origins(self, task_id: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for bucket, done in self.store.buckets(task_id).items():
            rows = read_results(self.warehouse, task_id, bucket, done.totals.ids, done.results_sha256)
            found |= dict(zip(rows["sample_id"].to_pylist(), rows["origin"].to_pylist(), strict=True))
        return found

    def info(self, task_id: str, limit: float = 0.25) -> TaskInfo:
        task = self.store.task(task_id)
        return info_of(task, self.store.before(task), limit=limit)


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, getattr(request, "param", {}))


EXPECTED = {f"u{number}": (1, [11.0 * number]) for number in range(N_IDS)}
OWN: dict[str, int] = dict.fromkeys(EXPECTED, Origin.MODEL)


async def test_every_id_gets_the_sum_of_all_shares_and_buckets_are_counted(bench: Bench) -> None:
    task_id = bench.submit()
    async with bench.working():
        task = await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == EXPECTED
    assert (task.buckets_done, task.totals.ids, task.totals.statuses) == (N_BUCKETS, N_IDS, {SampleStatus.OK: N_IDS})
    assert task.totals.parties["lab"].oldest_event_time == 5
    assert sum(task.totals.histograms[0]) == N_IDS
    asked = {(query.bucket, query.params_sha256) for query in bench.parties["lab"].queries}
    assert asked == {(bucket, "b" * 64) for bucket in range(N_BUCKETS)}


async def test_a_wide_share_is_asked_for_in_pages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "REPLY_BYTES", 3 * 9)
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == EXPECTED
    assert max(query.n_rows for query in bench.parties["lab"].queries) == 3


async def test_the_ids_of_a_whole_bucket_are_not_digested_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[SampleIds] = []
    monkeypatch.setattr(bucket_module, "digest_of", digested.append)
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    assert digested == []
    assert bench.results(task_id) == EXPECTED


async def test_a_standing_population_is_asked_for_by_digest_and_rows_and_of_the_own_part_by_ids(bench: Bench) -> None:
    task_id = bench.submit()
    standing = replace(bench.store.task(task_id).new.population, is_standing=True)
    bench.store.cancel(task_id)
    bench.parties["lab"].raises = [PopulationRefusedError("", population="p", problem="not accepted yet")] * 3
    other = bench.submit(population=standing)
    async with bench.working():
        task = await bench.until(other, OfflineState.FAILED)
    assert "party lab: population p: not accepted yet" in task.problem
    rows = bench.parties["lab"].queries[0].rows
    assert isinstance(rows, PopulationRows)
    own = next(each for each in bench.parties["bank"].queries if each.bucket == bench.parties["lab"].queries[0].bucket)
    assert isinstance(own.rows, SampleIds)
    assert (rows.population, rows.first, rows.rows) == (standing.name, 0, len(own.rows))
    assert rows.bucket_sha256 == digest_of(own.rows)


async def test_a_party_that_is_away_for_a_while_holds_the_task_up_and_no_bucket_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.failure.MAX_WAIT_S", 0.05)
    bench.parties["lab"].raises = [PartyUnavailableError("gone", party="lab")] * 5
    task_id = bench.submit()
    async with bench.working():
        waiting = await bench.until(task_id, OfflineState.WAITING, OfflineState.DONE)
        await bench.until(task_id, OfflineState.DONE)
    assert (waiting.problem, waiting.problem_party) == ("party lab is away, or not ready", "lab")
    assert bench.results(task_id) == EXPECTED


async def test_a_daily_limit_holds_the_task_up_until_it_begins_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.failure.MAX_WAIT_S", 0.05)
    bench.parties["lab"].raises = [DistinctIdsUsedUpError("used up", until="2026-11-28T00:00:00Z")] * 5
    task_id = bench.submit()
    async with bench.working():
        waiting = await bench.until(task_id, OfflineState.WAITING, OfflineState.DONE)
        await bench.until(task_id, OfflineState.DONE)
    told = "party lab answers about no more sample ids today: its daily limit is used up until 0:00 UTC"
    assert (waiting.problem, waiting_reason(waiting.problem, "lab")) == (told, "daily_limit")
    assert bench.results(task_id) == EXPECTED
    verdict = verdict_on(PartyFailedError("lab", DistinctIdsUnavailableError("its disk is full")))
    assert (verdict.state, verdict.why.problem) == (OfflineState.WAITING, "party lab is away, or not ready")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda answer: replace(answer, ids_sha256="0" * 64), "party lab refused"),
        (lambda answer: replace(answer, share=answer.share.cut(slice(0, 1))), "party lab refused"),
    ],
    ids=["other ids", "other shape"],
)
async def test_an_answer_about_something_else_fails_the_task(
    bench: Bench, edit: Callable[[BucketAnswer], BucketAnswer], told: str
) -> None:
    bench.parties["lab"].edit = edit
    task_id = bench.submit()
    async with bench.working():
        task = await bench.until(task_id, OfflineState.FAILED)
    assert told in task.problem
    assert bench.results(task_id) == {}


async def test_a_refusal_fails_the_task_and_retrying_goes_on_with_what_is_left(bench: Bench) -> None:
    task_id = bench.submit()
    async with bench.working(buckets_under_way=1) as runner:
        lab = bench.parties["lab"]
        lab.edit = _refuse_from(lab, 4)
        failed = await bench.until(task_id, OfflineState.FAILED)
        assert failed.buckets_done == 3
        lab.edit = lambda answer: answer
        asked = len(lab.queries)
        bench.store.retry(task_id)
        runner.look()
        await bench.until(task_id, OfflineState.DONE)
    assert len(lab.queries) - asked == N_BUCKETS - 3
    assert bench.results(task_id) == EXPECTED


def _refuse_from(party: Party, call: int) -> Callable[[BucketAnswer], BucketAnswer]:
    def edit(answer: BucketAnswer) -> BucketAnswer:
        if len(party.queries) >= call:
            raise PartyRefusedError("no", party="lab")
        return answer

    return edit


async def test_a_full_disk_in_a_bucket_fails_the_task_and_keeps_the_buckets_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalWarehouse.replace

    def full(self: LocalWarehouse, table: str, partition: Mapping[str, Any], rows: Any) -> None:
        if table == "fp_results" and partition["bucket"] == 5:
            raise WarehouseWriteError("No space left on device")
        whole(self, table, partition, rows)

    task_id = bench.submit()
    async with bench.working(buckets_under_way=1) as runner:
        monkeypatch.setattr(LocalWarehouse, "replace", full)
        failed = await bench.until(task_id, OfflineState.FAILED)
        assert "results cannot be stored at the initiator (disk full" in failed.problem
        assert list(bench.store.buckets(task_id)) == [0, 1, 2, 4, 6]  # those before it, by their places
        assert "No space left" in bench.store.events(task_id)[-1].detail
        monkeypatch.setattr(LocalWarehouse, "replace", whole)
        bench.store.retry(task_id)
        runner.look()
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == EXPECTED


async def test_cancelling_ends_the_calls_under_way(bench: Bench) -> None:
    lab = bench.parties["lab"]
    lab.held = asyncio.Event()
    task_id = bench.submit()
    async with bench.working() as runner, asyncio.timeout(ENDS_IN_S):
        while len(lab.queries) < 3:
            await asyncio.sleep(0.02)
        bench.store.cancel(task_id)
        runner.look()
        while lab.left < 3:
            await asyncio.sleep(0.02)
    assert bench.store.task(task_id).state is OfflineState.CANCELLED
    assert bench.results(task_id) == {}


async def test_a_worker_that_lost_its_claim_records_nothing(bench: Bench) -> None:
    lab = bench.parties["lab"]
    lab.held = asyncio.Event()
    task_id = bench.submit()
    async with bench.working(buckets_under_way=1) as first, asyncio.timeout(ENDS_IN_S):
        while not lab.queries:
            await asyncio.sleep(0.02)
        bench.store._clock = lambda: 4e9  # every lease has run out
        taken = bench.store.claim("w2")
        assert taken is not None
        lab.held.set()
        first.look()
        while first._holdings:
            await asyncio.sleep(0.02)
    assert bench.store.buckets(task_id) == {}
    assert bench.store.task(task_id).state is OfflineState.RUNNING


async def test_a_task_that_its_own_process_claims_anew_after_a_pause_is_done(bench: Bench) -> None:
    lab = bench.parties["lab"]
    lab.held = asyncio.Event()
    task_id = bench.submit()
    async with bench.working(parallel=2, buckets_under_way=1, lease_s=4.0) as runner, asyncio.timeout(ENDS_IN_S):
        while not lab.queries:
            await asyncio.sleep(0.02)
        first = runner._holdings[task_id]
        bench.store._clock = lambda: time.time() + 1000  # as after a SIGSTOP: the lease has run out
        while runner._holdings[task_id] is first:
            await asyncio.sleep(0.02)
        await first.lost.wait()
        lab.held.set()
        await bench.until(task_id, OfflineState.DONE)
        while runner._holdings:
            await asyncio.sleep(0.02)
    assert [each.what for each in bench.store.events(task_id)] == ["submitted", "started", "taken over", "done"]
    assert bench.results(task_id) == EXPECTED


async def test_a_worker_that_stops_gives_the_task_back_at_once(bench: Bench) -> None:
    lab = bench.parties["lab"]
    lab.held = asyncio.Event()
    task_id = bench.submit()
    async with bench.working():
        async with asyncio.timeout(ENDS_IN_S):
            while not lab.queries:
                await asyncio.sleep(0.02)
    assert bench.store.task(task_id).state is OfflineState.QUEUED
    lab.held = None
    async with bench.working("w2"):
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == EXPECTED


@pytest.mark.parametrize("bench", [{"policy": "default_partial", "defaults": {"lab": [500.0]}}], indirect=True)
async def test_a_constant_stands_in_for_a_party_that_does_not_know_an_id(bench: Bench) -> None:
    bench.parties["lab"].lacks = {3}
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == {**EXPECTED, "u3": (1, [503.0])}
    assert bench.origins(task_id) == {**OWN, "u3": Origin.DEFAULT_PARTIAL}
    assert bench.info(task_id).warnings == ("predictions with a constant in place of a party's share: 1",)


@pytest.mark.parametrize("bench", [{"policy": "fallback_model", "fallback_model": "own"}], indirect=True)
async def test_the_own_model_answers_for_ids_that_a_party_does_not_know(bench: Bench) -> None:
    bench.parties["lab"].lacks = {3, 40}
    task_id = bench.submit()
    async with bench.working():
        task = await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == {**EXPECTED, "u3": (1, [3.0]), "u40": (1, [40.0])}
    assert bench.origins(task_id) == {**OWN, "u3": Origin.FALLBACK_MODEL, "u40": Origin.FALLBACK_MODEL}
    assert task.totals.origins == {Origin.MODEL: N_IDS - 2, Origin.FALLBACK_MODEL: 2}
    assert bench.info(task_id).warnings == ("predictions of the fallback model: 2",)
    assert task.totals.parties["lab"].statuses == {SampleStatus.OK: N_IDS - 2, SampleStatus.NOT_FOUND: 2}


@pytest.mark.parametrize("bench", [{"policy": "fallback_model", "fallback_model": "own"}], indirect=True)
async def test_the_event_loop_digests_and_combines_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            threads.add(threading.current_thread().name)
            return work(*args)

        return noting

    for name in ("digest_of", "combine"):
        monkeypatch.setattr(bucket_module, name, noted(getattr(bucket_module, name)))
    bench.parties["lab"].lacks = {3, 40}
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id)["u3"] == (1, [3.0])
    assert {name.rpartition("_")[0] for name in threads} == {"fedpredict-offline"}


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        ("its operator has not accepted it", "have its operator accept it, then retry"),
        ("it was revoked here", "`revoke`, then `propose`) and accepted there, and submit the task again"),
        ("it is not complete here: not all of its ids have come", "lacks nothing"),
        ("version 3 is not known here", "see `fedpredict population show` at both"),
    ],
)
def test_a_population_that_is_not_answered_for_is_told_with_what_helps(problem: str, fix: str) -> None:
    error = PopulationRefusedError("", population="p", problem=f"version 3: {problem}")
    verdict = verdict_on(PartyFailedError("lab", error))
    assert verdict.state is OfflineState.FAILED
    assert problem in verdict.why.problem
    assert fix in verdict.why.problem
    assert ("have its operator accept it" in verdict.why.problem) == (problem == "its operator has not accepted it")


async def test_without_a_number_there_is_none_and_it_is_counted(bench: Bench) -> None:
    bench.parties["lab"].lacks = {3}
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    assert bench.results(task_id) == {**EXPECTED, "u3": (int(SampleStatus.NOT_FOUND), None)}
    assert bench.origins(task_id) == {**OWN, "u3": Origin.UNSPECIFIED}
    info = bench.info(task_id)
    assert (info.scored, info.statuses[SampleStatus.NOT_FOUND]) == (N_IDS - 1, 1)


async def test_predictions_that_moved_since_the_task_before_are_a_warning(bench: Bench) -> None:
    first = bench.submit()
    async with bench.working():
        await bench.until(first, OfflineState.DONE)
        same = bench.submit()
        await bench.until(same, OfflineState.DONE)
        bench.parties["lab"].weight = 100.0
        moved = bench.submit()
        await bench.until(moved, OfflineState.DONE)
    assert bench.info(first).histograms[0].stability is None
    assert (bench.info(same).histograms[0].stability, bench.info(same).warnings) == (0.0, ())
    (warning,) = bench.info(moved).warnings
    assert f"have moved since task {same}" in warning


async def test_a_task_whose_buckets_come_from_several_snapshots_of_a_party_is_warned_of(bench: Bench) -> None:
    mixed, n_answers = bench.parties["lab"], 0

    def told(answer: BucketAnswer) -> BucketAnswer:
        nonlocal n_answers
        n_answers += 1
        return replace(answer, sources=("snapshot 20260301T060000.000000Z" if n_answers <= 3 else "snapshot B",))

    mixed.edit = told
    bench.parties["bank"].edit = lambda answer: replace(answer, sources=("snapshot A",))
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    info = bench.info(task_id)
    sources = {each.party: each.sources for each in info.parties}
    assert sources == {"bank": ("snapshot A",), "lab": ("snapshot 20260301T060000.000000Z", "snapshot B")}
    (warning,) = info.warnings
    assert warning.startswith("the shares of party lab come from 2 states of its data (snapshot 20260301T")
    of_buckets = [each.totals.parties["lab"].sources for each in bench.store.buckets(task_id).values()]
    assert (len(of_buckets), of_buckets.count(("snapshot B",))) == (N_BUCKETS, N_BUCKETS - 3)
    assert [each.buckets_done for each in info.parties] == [N_BUCKETS, N_BUCKETS]
    assert task_from_wire(task_to_wire(info)).parties == info.parties


async def test_predictions_that_are_missing_since_the_task_before_are_a_warning(bench: Bench) -> None:
    first = bench.submit()
    async with bench.working():
        await bench.until(first, OfflineState.DONE)
        bench.parties["lab"].lacks = set(range(N_IDS))
        empty = bench.submit()
        await bench.until(empty, OfflineState.DONE)
    assert bench.info(first).warnings == ()
    told = f"0 of {N_IDS} ids have a score, 0.0 %; of task {first} it was 100.0 %"
    assert bench.info(empty).warnings == (told,)


async def test_bins_are_not_chosen_by_a_bucket_without_predictions(bench: Bench) -> None:
    task_id = bench.submit()
    (version,) = list_versions(bench.warehouse)
    first = read_bucket(bench.warehouse, "bank", version.population, 0, version.digests[0])
    bench.parties["lab"].lacks = {int(each[1:]) for each in first}
    async with bench.working(buckets_under_way=1):
        task = await bench.until(task_id, OfflineState.DONE)
    assert len(first) > 0
    assert bench.store.buckets(task_id)[0].totals.histograms == ()
    (counts,) = task.totals.histograms
    assert sum(counts) == N_IDS - len(first)
    assert sum(counts[1:-1]) > 0


async def test_bins_that_the_predictions_of_the_task_before_are_beyond_are_not_had_again(bench: Bench) -> None:
    first = bench.submit()
    async with bench.working(buckets_under_way=1):
        await bench.until(first, OfflineState.DONE)
        bench.parties["lab"].weight, bench.parties["lab"].lacks = 1e6, {0}
        moved, after = [await bench.until(bench.submit(), OfflineState.DONE) for _ in range(2)]
    assert moved.bins == bench.store.task(first).bins
    assert sum(moved.totals.histograms[0][1:-1]) == 0
    assert after.bins != moved.bins
    assert sum(after.totals.histograms[0][1:-1]) > 0


async def test_results_that_were_changed_are_not_handed_out(bench: Bench) -> None:
    task_id = bench.submit()
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    (done, *_) = bench.store.buckets(task_id).values()
    with pytest.raises(TableCorruptError, match="not those recorded"):
        read_results(bench.warehouse, task_id, done.bucket, done.totals.ids, "0" * 64)


async def test_old_results_and_their_lists_are_removed(bench: Bench) -> None:
    task_id = bench.submit()
    bench.store.add_upload(bench.uploads.store([SampleIds.of([b"u1"])], "desk"))
    async with bench.working():
        await bench.until(task_id, OfflineState.DONE)
    soon = datetime.now(UTC) + timedelta(days=3)
    sweep(bench.store, bench.warehouse, "bank", None, soon)
    assert bench.results(task_id) == EXPECTED
    forgotten = bench.uploads.store([SampleIds.of([b"u2"])], "desk").population.name
    assert list_versions(bench.warehouse, population=forgotten)
    sweep(bench.store, bench.warehouse, "bank", 2, soon)
    assert list_versions(bench.warehouse) == []
    assert bench.warehouse.read("fp_results", ["sample_id"], {}).num_rows == 0
    assert bench.store.unused_uploads(soon) == []
    assert "results were removed" in bench.info(task_id).warnings[-1]

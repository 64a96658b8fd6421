"""What every store of offline tasks keeps: one suite, one line per implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from fedpredict.errors import FieldError, TaskNotFoundError
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest
from fedpredict.model.offline import (
    BucketDone,
    CombinedBy,
    NewTask,
    OfflineState,
    PartyTotals,
    PopulationRef,
    Ranking,
    Totals,
    Upload,
    add_totals,
)
from fedpredict.model.prediction import Origin
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.model.task_history import TaskOverview, TaskWaiting
from fedpredict.state.engine import Database, open_engine
from fedpredict.state.task_base import TaskStore, Why
from fedpredict.state.task_rows import METADATA, PLANS
from fedpredict.state.tasks import SCHEMA_VERSION, SqlTaskStore
from tests.conftest import POSTGRES_PASSWORD

STORES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]
Reopen = Callable[[], TaskStore]
NOW = datetime(2026, 11, 27, 5, 0, tzinfo=UTC)


class Clock:
    """The time that claims go by."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
def reopen(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Reopen]:
    if request.param == "sqlite":
        url, password = "sqlite:///state.db", None
    else:
        url, password = request.getfixturevalue("postgres_database")(), POSTGRES_PASSWORD
    opened: list[TaskStore] = []

    def another() -> TaskStore:
        database = Database(open_engine(url, tmp_path, password), "offline tasks", SCHEMA_VERSION, METADATA)
        opened.append(SqlTaskStore(database, clock))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Reopen) -> TaskStore:
    return reopen()


def manifest(model_id: str) -> Manifest:
    return Manifest(
        model_id=model_id,
        training_run="run-1",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=("good", "bad"),
        n_scores=1,
        fit_intercept=True,
        intercept_party="bank",
        digests=(("bank", "a" * 64), ("lab", "0" * 64)),
    )


def new(model_id: str = "credit", key: str = "", **changes: object) -> NewTask:
    ref = PopulationRef(owner="bank", name="upload-1", version=1, is_standing=False)
    task = NewTask(
        manifest=manifest(model_id),
        mode=Mode.NEARLINE,
        population=ref,
        asked_for="ids aa",
        n_buckets=2,
        rows=13,
        ids=10,
        duplicates=2,
        invalid=1,
        idempotency_key=key,
        note="naïve, 試",
        submitted_by="client desk",
    )
    return replace(task, **changes)  # type: ignore[arg-type]


def done(bucket: int, ids: int = 5, oldest: int | None = 17) -> BucketDone:
    counts = {SampleStatus.OK: ids - 1, SampleStatus.STALE: 1}
    parties = {"lab": PartyTotals(statuses=counts, oldest_event_time=oldest)}
    origins = {Origin.MODEL: ids - 2, Origin.FALLBACK_MODEL: 1}
    totals = Totals(ids=ids, statuses=counts, origins=origins, parties=parties, histograms=((1, 2), (3, 4)))
    return BucketDone(bucket=bucket, totals=totals, results_sha256="b" * 64, seconds=0.5, finished_at=NOW)


def test_a_task_is_seen_by_another_opener_as_it_was_submitted(store: TaskStore, reopen: Reopen) -> None:
    made = store.submit(new())
    found = reopen().task(made.task_id)
    assert found == made
    assert (found.new, found.state, found.totals) == (new(), OfflineState.QUEUED, Totals())
    assert [each.what for each in reopen().events(made.task_id)] == ["submitted"]


def test_a_task_that_is_not_there_is_said_so(store: TaskStore) -> None:
    for ask in (store.task, store.cancel, store.retry, store.events):
        with pytest.raises(TaskNotFoundError, match="no task 'nothing'"):
            ask("nothing")


def test_the_same_key_of_the_same_caller_gives_the_same_task(store: TaskStore, reopen: Reopen) -> None:
    other_upload = PopulationRef(owner="bank", name="upload-2", version=1, is_standing=False)
    first = store.submit(new(key="daily"))
    assert reopen().submit(new(key="daily", population=other_upload)) == first
    assert store.submit(new(key="daily", submitted_by="client other")).task_id != first.task_id
    assert store.submit(new()).task_id != store.submit(new()).task_id
    with pytest.raises(FieldError, match="another model") as refused:
        store.submit(new("churn", key="daily"))
    assert refused.value.place == "idempotency_key"
    for other in ("ids bb", "table aa"):
        with pytest.raises(FieldError, match="another model, mode, population or ranking"):
            store.submit(new(key="daily", asked_for=other))
    assert store.by_key("client desk", "daily") == first
    assert store.by_key("client desk", "weekly") is None


def test_one_of_many_who_submit_the_same_key_at_once_makes_the_task(reopen: Reopen) -> None:
    stores = [reopen() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda each: each.submit(new(key="daily")).task_id, stores))
    assert len(made) == 1


def test_tasks_are_listed_newest_first_by_model(store: TaskStore) -> None:
    ids = [store.submit(new(model)).task_id for model in ("credit", "churn", "credit")]
    assert [each.task_id for each in store.tasks(["credit"], limit=9)] == [ids[2], ids[0]]
    assert [each.task_id for each in store.tasks(["credit", "churn"], limit=2)] == [ids[2], ids[1]]
    assert store.tasks([], limit=9) == []


def test_a_task_is_claimed_by_one_until_the_claim_runs_out(store: TaskStore, reopen: Reopen, clock: Clock) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1", lease_s=10.0)
    assert claim is not None
    assert (claim.task.task_id, claim.task.state) == (task_id, OfflineState.RUNNING)
    other = reopen()
    assert other.claim("w2", lease_s=10.0) is None
    clock.now += 9.0
    assert store.renew(claim, lease_s=10.0)
    clock.now += 9.0
    assert other.claim("w2", lease_s=10.0) is None
    clock.now += 2.0
    successor = other.claim("w2", lease_s=10.0)
    assert successor is not None
    assert not store.renew(claim)
    assert not store.record(claim, done(0), ran_s=1.0)
    assert not store.settle(claim, OfflineState.FAILED, Why(problem="late"))
    assert not store.begin(claim, ((0.0, 1.0),))
    assert other.record(successor, done(0), ran_s=1.0)
    assert [each.what for each in store.events(task_id)] == ["submitted", "started", "taken over"]


def test_a_bucket_is_recorded_once_and_added_up(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    assert store.begin(claim, ((0.0, 0.5), (1.0, 2.0)))
    assert store.record(claim, done(1, oldest=None), ran_s=2.0)
    assert store.record(claim, done(1, ids=99), ran_s=2.0)
    assert store.record(claim, done(0), ran_s=1.5)
    assert store.buckets(task_id) == {0: done(0), 1: done(1, oldest=None)}
    assert store.buckets(task_id, [2, 1]) == {1: done(1, oldest=None)}
    assert (store.recorded(task_id), store.recorded("another")) == ({0, 1}, set())
    task = store.task(task_id)
    counts = {SampleStatus.OK: 8, SampleStatus.STALE: 2}
    assert task.totals == Totals(
        ids=10,
        statuses=counts,
        origins={Origin.MODEL: 6, Origin.FALLBACK_MODEL: 2},
        parties={"lab": PartyTotals(statuses=counts, oldest_event_time=17)},
        histograms=((2, 4), (6, 8)),
    )
    assert (task.buckets_done, task.ran_s, task.bins) == (2, 3.5, ((0.0, 0.5), (1.0, 2.0)))


def test_a_task_that_waits_is_claimed_again_after_a_while_and_counts_how_often(store: TaskStore, clock: Clock) -> None:
    task_id = store.submit(new()).task_id
    for attempts in range(3):
        claim = store.claim("w1")
        assert claim is not None
        assert claim.attempts == attempts
        assert store.settle(claim, OfflineState.WAITING, Why(problem="party lab is away", party="lab"), wait_s=5.0)
        assert store.claim("w1") is None
        assert (store.task(task_id).problem, store.task(task_id).problem_party) == ("party lab is away", "lab")
        clock.now += 5.0
    claim = store.claim("w1")
    assert claim is not None
    assert claim.task.problem == ""
    assert store.record(claim, done(0), ran_s=1.0)
    assert store.settle(claim, OfflineState.QUEUED)
    again = store.claim("w1")
    assert again is not None
    assert again.attempts == 0
    told = [each.what for each in store.events(task_id)]
    assert told == ["submitted", "started", "waiting", "goes on", "queued", "started"]


def test_cancelling_ends_the_claim_and_what_has_ended_stays(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    assert store.cancel(task_id).state is OfflineState.CANCELLED
    assert not store.renew(claim)
    assert not store.record(claim, done(0), ran_s=1.0)
    assert store.claim("w2") is None
    assert store.retry(task_id).state is OfflineState.CANCELLED
    assert store.cancel(task_id).finished_at == store.task(task_id).finished_at


def test_a_task_that_failed_goes_on_when_it_is_retried(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    assert store.retry(task_id).state is OfflineState.QUEUED
    claim = store.claim("w1")
    assert claim is not None
    assert store.record(claim, done(0), ran_s=1.0)
    assert store.settle(claim, OfflineState.FAILED, Why(problem="no room", detail="ENOSPC"))
    failed = store.task(task_id)
    assert (failed.state, failed.problem, failed.finished_at is None) == (OfflineState.FAILED, "no room", False)
    assert store.events(task_id)[-1].detail == "ENOSPC"
    assert store.claim("w1") is None
    retried = store.retry(task_id)
    assert (retried.state, retried.problem, retried.finished_at) == (OfflineState.QUEUED, "", None)
    again = store.claim("w2")
    assert again is not None
    assert list(store.buckets(task_id)) == [0]


def test_a_bucket_that_is_lost_is_counted_no_more_and_its_task_fails(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    for bucket in (0, 1):
        assert store.record(claim, done(bucket, ids=5 + bucket), ran_s=1.0)
    assert store.settle(claim, OfflineState.DONE)
    finished = store.task(task_id)
    assert store.lose(task_id, [replace(done(0), results_sha256="c" * 64)], Why(problem="damaged")) == finished
    lost = store.lose(task_id, [done(0)], Why(problem="damaged", detail="bucket 0"))
    assert (lost.state, lost.problem, lost.buckets_done) == (OfflineState.FAILED, "damaged", 1)
    assert lost.totals == done(1, ids=6).totals
    assert store.buckets(task_id) == {1: done(1, ids=6)}
    assert (store.events(task_id)[-1].what, store.events(task_id)[-1].detail) == ("failed", "bucket 0")
    assert store.retry(task_id).state is OfflineState.QUEUED


def test_a_bucket_that_is_lost_while_its_task_runs_ends_the_claim_and_of_one_cancelled_nothing_changes(
    store: TaskStore,
) -> None:
    running, cancelled = store.submit(new()).task_id, store.submit(new()).task_id
    for task_id in (running, cancelled):
        claim = store.claim("w1")
        assert claim is not None
        assert claim.task.task_id == task_id
        assert store.record(claim, done(0), ran_s=1.0)
        if task_id == cancelled:
            store.cancel(task_id)
        store.lose(task_id, [done(0)], Why(problem="damaged"))
        assert not store.renew(claim)
    assert [store.task(each).state for each in (running, cancelled)] == [OfflineState.FAILED, OfflineState.CANCELLED]
    assert (list(store.buckets(running)), list(store.buckets(cancelled))) == ([], [0])


def test_the_task_before_is_the_newest_done_of_the_same_model(store: TaskStore) -> None:
    ids = [store.submit(new(model)).task_id for model in ("credit", "credit", "churn", "credit")]
    for state in (OfflineState.DONE, OfflineState.FAILED, OfflineState.DONE):
        claim = store.claim("w1")
        assert claim is not None
        store.settle(claim, state)
    later = store.submit(new()).task_id
    found = store.before(store.task(later))
    assert found is not None
    assert found.task_id == ids[0]
    assert store.before(store.task(ids[0])) is None


def test_what_ended_long_ago_is_found_until_its_results_are_removed(store: TaskStore) -> None:
    ended, running = store.submit(new()).task_id, store.submit(new()).task_id
    store.cancel(ended)
    soon = datetime.now(UTC) + timedelta(days=1)
    assert store.withdraw(soon - timedelta(days=2)) == []
    assert not store.task(ended).results_removed
    assert [each.task_id for each in store.withdraw(soon)] == [ended]
    assert [each.task_id for each in store.withdraw(soon - timedelta(days=2))] == [ended]
    store.mark_removed(running)
    store.mark_removed(ended)
    assert store.withdraw(soon) == []
    assert (store.task(ended).results_removed, store.task(running).results_removed) == (True, False)


def test_a_task_whose_results_were_withdrawn_is_not_queued_again_and_one_that_was_queued_keeps_them(
    store: TaskStore,
) -> None:
    withdrawn, retried = store.submit(new()).task_id, store.submit(new()).task_id
    for _ in range(2):
        claim = store.claim("w1")
        assert claim is not None
        assert store.settle(claim, OfflineState.FAILED, Why(problem="no room"))
    assert store.retry(retried).state is OfflineState.QUEUED
    assert [each.task_id for each in store.withdraw(datetime.now(UTC) + timedelta(days=1))] == [withdrawn]
    assert store.retry(withdrawn).state is OfflineState.FAILED
    assert not store.task(retried).results_removed


def test_a_list_is_unused_until_a_task_is_about_it_and_when_that_is_gone(store: TaskStore) -> None:
    ref = PopulationRef(owner="bank", name="upload-1", version=1, is_standing=False)
    upload = Upload(
        upload_id="1",
        population=ref,
        n_buckets=2,
        rows=13,
        ids=10,
        duplicates=2,
        invalid=1,
        uploaded_by="client desk",
        uploaded_at=NOW,
    )
    store.add_upload(upload)
    assert store.upload("1") == upload
    assert store.upload("2") is None
    assert store.unused_uploads(NOW) == []
    assert store.unused_uploads(NOW + timedelta(seconds=1)) == [upload]
    task_id = store.submit(new()).task_id
    assert store.unused_uploads(NOW + timedelta(days=9)) == []
    store.cancel(task_id)
    store.withdraw(datetime.now(UTC) + timedelta(days=1))
    assert store.unused_uploads(NOW + timedelta(days=9)) == [upload]
    store.drop_upload("1")
    assert store.upload("1") is None


def test_what_is_gathered_for_the_engine_is_kept_until_it_is_cleared(store: TaskStore, reopen: Reopen) -> None:
    task_id = store.submit(new(ranking=Ranking(0, 1_000))).task_id
    claim = store.claim("w1")
    assert claim is not None
    assert (claim.task.combined_by, claim.task.new.ranking) == (CombinedBy.UNDECIDED, Ranking(0, 1_000))
    said = Totals(ids=5, parties={"lab": PartyTotals(statuses={SampleStatus.OK: 5}, oldest_event_time=3)})

    assert store.plan(claim, CombinedBy.ENGINE, "", has_work=True)
    assert store.gather(claim, 1, said, ran_s=2.0)
    assert store.gather(claim, 1, Totals(), ran_s=0.5)  # once is enough
    found = reopen().task(task_id)
    assert (found.combined_by, found.buckets_gathered, found.ran_s) == (CombinedBy.ENGINE, 1, 2.5)
    assert reopen().gathered(task_id) == {1: said}
    store.record(claim, done(1), ran_s=0.0)
    assert (store.task(task_id).buckets_gathered, store.task(task_id).buckets_done) == (0, 1)

    assert store.worked(NOW + timedelta(days=999)) == []  # it goes on
    store.settle(claim, OfflineState.DONE)
    assert [each.task_id for each in store.worked(datetime.now(UTC) + timedelta(hours=1))] == [task_id]
    assert store.worked(datetime.now(UTC) - timedelta(hours=1)) == []
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert store.withdraw_work(task_id, soon)
    assert store.gathered(task_id) == {}
    assert store.clear_work(task_id, soon)
    assert store.worked(soon) == []


def test_what_a_task_that_goes_on_again_has_gathered_is_not_cleared(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    assert store.plan(claim, CombinedBy.ENGINE, "", has_work=True)
    assert store.record(claim, done(0), ran_s=0.0)
    assert store.settle(claim, OfflineState.DONE)
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert [each.task_id for each in store.worked(soon)] == [task_id]
    store.lose(task_id, [done(0)], Why(problem="damaged"))
    store.retry(task_id)
    again = store.claim("w2")
    assert again is not None
    assert store.gather(again, 0, Totals(ids=5), ran_s=0.0)
    assert not store.withdraw_work(task_id, soon)
    assert not store.clear_work(task_id, soon)
    assert store.gathered(task_id) == {0: Totals(ids=5)}
    store.settle(again, OfflineState.DONE)
    assert [each.task_id for each in store.worked(soon)] == [task_id]


def test_shares_of_a_task_that_failed_are_kept_for_a_week(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    assert store.plan(claim, CombinedBy.ENGINE, "", has_work=True)
    assert store.gather(claim, 0, Totals(ids=5), ran_s=0.0)
    assert store.settle(claim, OfflineState.FAILED)
    now = datetime.now(UTC)
    assert store.worked(now + timedelta(days=6)) == []
    assert not store.withdraw_work(task_id, now + timedelta(days=6))
    assert [each.task_id for each in store.worked(now + timedelta(days=8))] == [task_id]
    assert store.withdraw_work(task_id, now + timedelta(days=8))
    assert store.gathered(task_id) == {}


def test_who_holds_a_task_has_buckets_gathered_again_and_who_lost_it_does_not(store: TaskStore, clock: Clock) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1", lease_s=10.0)
    assert claim is not None
    for bucket in (0, 1):
        assert store.gather(claim, bucket, Totals(ids=5), ran_s=0.0)
    assert store.ungather(claim, [1])
    assert store.gathered(task_id) == {0: Totals(ids=5)}
    clock.now += 11.0
    assert store.claim("w2") is not None
    assert not store.ungather(claim, [0])
    assert store.gathered(task_id) == {0: Totals(ids=5)}


def test_of_many_buckets_that_are_lost_together_is_told_once(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    claim = store.claim("w1")
    assert claim is not None
    for bucket in (0, 1):
        assert store.record(claim, done(bucket), ran_s=1.0)
    lost = store.lose(task_id, [done(0), done(1)], Why(problem="2 are gone"))
    assert (lost.state, lost.problem, lost.buckets_done) == (OfflineState.FAILED, "2 are gone", 0)
    assert store.buckets(task_id) == {}
    assert [each.what for each in store.events(task_id)].count("failed") == 1


def test_who_lost_a_task_gathers_nothing_for_it(store: TaskStore) -> None:
    store.submit(new())
    claim = store.claim("w1")
    assert claim is not None
    store.cancel(claim.task.task_id)
    assert not store.plan(claim, CombinedBy.ENGINE, "", has_work=True)
    assert not store.gather(claim, 0, Totals(), ran_s=0.0)
    assert store.gathered(claim.task.task_id) == {}


def test_a_task_of_before_there_were_plans_is_as_it_was(store: TaskStore) -> None:
    task_id = store.submit(new()).task_id
    with cast(SqlTaskStore, store)._database.transaction() as connection:
        connection.execute(PLANS.delete())
    assert store.task(task_id).new == new()
    claim = store.claim("w1")
    assert claim is not None
    assert store.plan(claim, CombinedBy.NUMPY, "a head finishes the shares", has_work=False)
    assert store.task(task_id).combined_why == "a head finishes the shares"
    assert store.events(task_id)[-1].detail == "numpy: a head finishes the shares"


def test_the_same_key_with_other_ranks_is_refused(store: TaskStore) -> None:
    store.submit(new(key="daily", ranking=Ranking(0)))
    with pytest.raises(FieldError, match="ranking") as refused:
        store.submit(new(key="daily"))
    assert "ranks" in refused.value.problem


def test_an_overview_counts_states_and_tells_since_when_tasks_wait_also_while_they_are_tried_again(
    store: TaskStore, clock: Clock
) -> None:
    assert store.overview() == TaskOverview()
    before = datetime.now(UTC)
    waits = store.submit(new())
    away = Why(problem="party lab is away, or not ready", party="lab")
    for _ in range(3):
        claim = store.claim("w-1")
        assert claim is not None
        assert store.settle(claim, OfflineState.WAITING, away, wait_s=1.0)
        clock.now += 2.0
    began = next(each.at for each in store.events(waits.task_id) if each.what == "waiting")
    store.cancel(store.submit(replace(new(), idempotency_key="other")).task_id)

    seen = store.overview()
    assert seen.states == {("credit", OfflineState.WAITING): 1, ("credit", OfflineState.CANCELLED): 1}
    assert before <= began <= datetime.now(UTC)
    expected = TaskWaiting(task_id=waits.task_id, model_id="credit", party="lab", problem=away.problem, since=began)
    assert seen.waiting == (expected,)

    claim = store.claim("w-1")
    assert claim is not None
    assert store.overview().waiting == (replace(expected, party="", problem=""),)
    assert store.record(claim, done(0), ran_s=1.0)
    assert store.overview().waiting == ()


def settled(store: TaskStore, state: OfflineState = OfflineState.DONE, **changes: object) -> str:
    """Return a task that has ended, with two buckets."""
    task_id = store.submit(new(**changes)).task_id  # type: ignore[arg-type]
    claim = store.claim("w1")
    assert claim is not None
    assert claim.task.task_id == task_id
    for bucket in (0, 1):
        assert store.record(claim, done(bucket, ids=5 + bucket), ran_s=1.0)
    assert store.settle(claim, state)
    return task_id


def without_one(record: BucketDone) -> BucketDone:
    counts = {SampleStatus.OK: record.totals.ids - 2, SampleStatus.STALE: 1, SampleStatus.ID_INVALID: 1}
    totals = replace(record.totals, statuses=counts, histograms=((1, 1), (3, 3)))
    return replace(record, totals=totals, results_sha256="d" * 64)


def test_a_bucket_that_is_written_anew_may_have_either_digest_until_it_is(store: TaskStore, reopen: Reopen) -> None:
    task_id, after = settled(store), without_one(done(0))
    assert store.digests(task_id, 0) == {"b" * 64}
    assert store.digests(task_id, 7) == set()
    assert store.rerecord(task_id, done(0), after, "b" * 64)
    assert reopen().digests(task_id, 0) == {"b" * 64, "d" * 64}
    assert store.buckets(task_id) == {0: after, 1: done(1, ids=6)}
    task = store.task(task_id)
    assert (task.state, task.buckets_done, task.totals.ids) == (OfflineState.DONE, 2, 11)
    assert task.totals.statuses == {SampleStatus.OK: 8, SampleStatus.STALE: 2, SampleStatus.ID_INVALID: 1}
    assert task.totals.histograms == ((2, 3), (6, 7))
    assert task.totals.parties == settled_totals().parties
    # killed, and begun again: the rows are still those of before
    assert store.rerecord(task_id, after, after, "b" * 64)
    assert store.digests(task_id, 0) == {"b" * 64, "d" * 64}
    assert store.rewriting() == [(task_id, 0)]
    store.rewritten(task_id, 0)
    assert store.rewriting() == []
    assert store.digests(task_id, 0) == {"d" * 64}
    assert store.task(task_id).totals == task.totals
    assert [each.what for each in store.events(task_id)].count("a person was erased") == 2


def settled_totals() -> Totals:
    return add_totals(done(0).totals, done(1, ids=6).totals)


def test_a_bucket_of_a_task_that_may_go_on_or_that_has_changed_is_not_written_anew(store: TaskStore) -> None:
    failed = settled(store, OfflineState.FAILED)
    other = replace(done(0), results_sha256="e" * 64)
    assert not store.rerecord(failed, done(0), without_one(done(0)), "b" * 64)
    ended = settled(store)
    assert not store.rerecord(ended, other, without_one(other), "e" * 64)
    assert not store.rerecord(ended, replace(done(0), finished_at=NOW + timedelta(1)), without_one(done(0)), "b" * 64)
    assert not store.rerecord("none-of-that-name", done(0), without_one(done(0)), "b" * 64)
    for task_id in (failed, ended):
        assert (store.digests(task_id, 0), store.task(task_id).totals) == ({"b" * 64}, settled_totals())
    store.withdraw(datetime.now(UTC) + timedelta(days=1))
    assert not store.rerecord(ended, done(0), without_one(done(0)), "b" * 64)


def test_a_list_is_withdrawn_unless_a_task_needs_it(store: TaskStore) -> None:
    upload = Upload(
        upload_id="1",
        population=new().population,
        n_buckets=2,
        rows=13,
        ids=10,
        duplicates=2,
        invalid=1,
        uploaded_by="client desk",
        uploaded_at=NOW,
    )
    store.add_upload(upload)
    failed = settled(store, OfflineState.FAILED)
    assert [each.task_id for each in store.about("bank", "upload-1")] == [failed]
    assert store.about("bank", "upload-2") == store.about("shop", "upload-1") == []
    assert (store.withdraw_upload("1"), store.upload("1")) == (False, upload)
    store.retry(failed)
    store.cancel(failed)
    queued = store.submit(new(key="daily"), upload_id="1")
    assert not store.withdraw_upload("1")
    store.cancel(queued.task_id)
    assert (store.withdraw_upload("1"), store.upload("1")) == (True, None)
    assert store.withdraw_upload("1")
    with pytest.raises(FieldError, match="no upload 1 of client desk") as refused:
        store.submit(new(), upload_id="1")
    assert refused.value.place == "upload_id"
    assert store.submit(new(key="daily"), upload_id="1").task_id == queued.task_id

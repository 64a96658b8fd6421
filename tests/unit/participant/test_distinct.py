"""The limit of distinct sample ids: before an answer leaves, whichever way the question came; the oracle is a set."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import (
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    ManifestMismatchError,
    MaskingRefusedError,
    ModelNotFoundError,
    PartyTimeoutError,
)
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.populations import BucketQuery, PopulationRows, digest_of, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import Mode, SampleStatus, Share, build_share
from fedpredict.observe.scoring import DistinctReading
from fedpredict.participant import distinct
from fedpredict.participant.answers import Answers
from fedpredict.participant.distinct import FREE, DistinctLimit
from fedpredict.participant.masking import Masking
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.scoring.local_party import INLINE_SAMPLES
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.state.distinct_digests import CallerDay, NewIds
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.wire import codec
from fedpredict.wire.bucket_codec import fill_bucket_query
from fedpredict.wire.link import Instance
from fedpredict.wire.masked_codec import RoundRef, fill_masked_bucket_query, fill_masked_query
from fedpredict.wire.v1 import masking_pb2, participant_pb2

BANK, SHOP = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "shop")
LIMIT = 10
POPULATION = in_order(SampleIds.of([f"person-{number}".encode() for number in range(8)]))


class Scorer:
    """Knows ids that begin with u, and every model but "old"; notes what it was asked."""

    party = "lab"

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.meanwhile: asyncio.Event | None = None
        self.error: Exception | None = None

    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        self.asked.append(list(query.sample_ids))
        if self.meanwhile is not None:
            await self.meanwhile.wait()
        if self.error is not None:
            raise self.error
        if query.further:
            queries = split_by_model(query)
            refused = ManifestMismatchError("an old one")
            return join_replies(
                queries, [refused if each.model_id == "old" else answer(each.sample_ids) for each in queries]
            )
        if query.model_id == "old":
            raise ManifestMismatchError("an old one")
        return answer(query.sample_ids)


def answer(sample_ids: Sequence[bytes]) -> PartyReply:
    known = np.where([each.startswith(b"u") for each in sample_ids], SampleStatus.OK, SampleStatus.NOT_FOUND)
    status = np.where(valid_sample_ids(sample_ids), known, SampleStatus.ID_INVALID).astype(np.uint8)
    return PartyReply(share=build_share(np.ones((len(status), 1)), status), oldest_event_time=None, elapsed_s=0.0)


class Part:
    """Answers buckets, but those of model "late"."""

    party = "lab"

    async def answer(self, query: BucketQuery, ids: SampleIds, left_s: float) -> PartyReply:
        if query.model_id == "late":
            await asyncio.sleep(60.0)
        return answer(ids)


class Populations:
    """Has one."""

    def ids(self, owner: str, rows: PopulationRows, bucket: int, n_buckets: int) -> tuple[SampleIds, str]:
        part = POPULATION.cut(rows.first, rows.first + rows.rows)
        return part, digest_of(part)


class Counts(DistinctIds):
    """Notes each transaction, and waits or fails as it is told."""

    def __init__(self, folder: Path) -> None:
        self.time = datetime(2026, 11, 27, 12, tzinfo=UTC)
        super().__init__(folder, now=lambda: self.time)
        self.n_looks = 0
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    @override
    def look(self, who: CallerDay, sample_ids: SampleIds, limit: int, ids_sha256: str = "") -> NewIds | None:
        self.n_looks += 1
        return super().look(who, sample_ids, limit, ids_sha256)

    @override
    def count(self, who: CallerDay, questions: Sequence[NewIds]) -> list[DistinctIdsUsedUpError | None]:
        self.batches.append(len(questions))
        assert self.gate.wait(30.0)
        return super().count(who, questions)


class World:
    """A participant whose caller "bank" has a limit, and whose caller "shop" has none."""

    def __init__(self, folder: Path) -> None:
        self.scorer, self.counts = Scorer(), Counts(folder)
        callers = {
            "bank": CallerSettings(models=("m", "n", "old", "late"), distinct_ids_per_day=LIMIT),
            "shop": CallerSettings(models=("*",)),
        }
        self.policy = CallerPolicy(callers)
        self.limit = DistinctLimit(self.counts, lambda: self.policy.distinct_ids)
        self.answers = Answers(cast("Any", self.scorer), self.policy, None, Instance(), distinct=self.limit)
        self.offline = OfflineAnswers(
            cast("Any", Part()), self.policy, cast("Any", Populations()), buckets_at_once=1, distinct=self.limit
        )

    @property
    def used(self) -> int:
        return self.counts.used(CallerDay("bank", self.counts.today()))

    async def ask(self, *ids: bytes, caller: Identity = BANK, model: str = "m") -> bytes:
        """Return the statuses of an answer."""
        return await self._answer(query(model, ids), caller)

    async def ask_several(self, *parts: tuple[str, Sequence[bytes]]) -> participant_pb2.ScoreReply:
        (model, first), *others = parts
        asked = query(model, [each for _, ids in parts for each in ids])
        asked.further = tuple(ModelRef(name, "5c" * 32, "5d" * 32) for name, _ in others)
        asked.model_rows = asked.segments = tuple(len(ids) for _, ids in parts)
        assert len(first) == asked.model_rows[0]
        return await self.answers.score(codec.query_to_wire(asked, 30_000), BANK, 30.0)

    async def _answer(self, asked: ScoreQuery, caller: Identity) -> bytes:
        told = await self.answers.score(codec.query_to_wire(asked, 30_000), caller, 30.0)
        return codec.reply_from_wire(told, asked, 1).share.status.tobytes()

    async def bucket(
        self, rows: SampleIds | PopulationRows, *, caller: Identity = BANK, model: str = "m", deadline_s: float = 30.0
    ) -> participant_pb2.BucketReply:
        request, into = participant_pb2.BucketRequest(), participant_pb2.BucketReply()
        fill_bucket_query(request, bucket_query(model, rows))
        await self.offline.score_bucket(request, caller, deadline_s, into)
        return into


def query(model: str, ids: Sequence[bytes]) -> ScoreQuery:
    return ScoreQuery(
        request_id="r",
        model_id=model,
        manifest_sha256="5c" * 32,
        params_sha256="5d" * 32,
        mode=Mode.NEARLINE,
        sample_ids=ids,
    )


def bucket_query(model: str, rows: SampleIds | PopulationRows) -> BucketQuery:
    return BucketQuery(
        request_id="r",
        task_id="t",
        model_id=model,
        manifest_sha256="5c" * 32,
        params_sha256="5d" * 32,
        mode=Mode.NEARLINE,
        bucket=0,
        n_buckets=1,
        rows=rows,
    )


def rows(first: int, n: int) -> PopulationRows:
    return PopulationRows(population="all", version=1, bucket_sha256=digest_of(POPULATION), first=first, rows=n)


def named(prefix: str, n: int) -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(n)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "distinct")
    yield made
    made.limit.close()
    made.counts.close()


async def test_ids_count_once_whatever_their_status_and_what_names_nobody_does_not(world: World) -> None:
    status = await world.ask(b"u1", b"who", b"u1", b"", b"a\nb")
    assert list(status) == [SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.OK, *[SampleStatus.ID_INVALID] * 2]
    assert world.used == 2
    await world.ask(b"who", b"u1", model="n")
    assert world.used == 2


async def test_what_would_pass_the_limit_is_refused_whole_before_anything_is_scored(world: World) -> None:
    await world.ask(*named("u", LIMIT - 1))
    asked = len(world.scorer.asked)
    with pytest.raises(DistinctIdsUsedUpError) as raised:
        await world.ask(b"u0", b"x", b"y")
    assert raised.value.until == "2026-11-28T00:00:00Z"
    assert len(world.scorer.asked) == asked
    assert world.used == LIMIT - 1
    await world.ask(b"u0", b"x")
    for ids in ([b"z"], [b"u0", b"z"]):
        with pytest.raises(DistinctIdsUsedUpError):
            await world.ask(*ids)
    await world.ask(*named("u", LIMIT - 1), b"x")
    await world.ask(b"z", caller=SHOP)
    assert world.used == LIMIT


async def test_repeated_ids_are_answered_without_the_storage_and_without_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distinct, "MOST_SEEN", 4)
    ids = named("u", 6)
    for each in ids:
        await world.ask(each)
    looks = world.counts.n_looks
    asked = world.answers.score(codec.query_to_wire(query("m", ids[2:]), 30_000), BANK, 30.0)
    with pytest.raises(StopIteration):  # it is answered in one turn of the event loop
        asked.send(None)
    assert (looks, world.counts.n_looks) == (6, 6)
    # more are remembered for a while, and what was forgotten is found in the storage
    for each in named("v", 4):
        await world.ask(each)
    for each in ids:
        await world.ask(each)
    assert world.counts.n_looks > 10
    assert world.used == 10
    assert sum(world.counts.batches) == 10


async def test_many_ids_at_once_are_remembered_in_a_thread(world: World) -> None:
    world.policy.distinct_ids = {"bank": INLINE_SAMPLES + 2}
    ids = SampleIds.of(named("u", INLINE_SAMPLES + 1))
    await (await world.limit.check("bank", ids)).count()
    assert world.used == len(ids)
    assert await world.limit.check("bank", ids) is FREE
    assert await world.limit.check("bank", ids.cut(5, 9)) is FREE
    assert world.counts.n_looks == 1
    with pytest.raises(DistinctIdsUsedUpError):
        await world.limit.check("bank", [*ids, b"v1", b"v2"])


async def test_questions_that_were_not_answered_do_not_count(world: World) -> None:
    world.scorer.error = ManifestMismatchError("an old one")
    with pytest.raises(ManifestMismatchError):
        await world.ask(*named("u", 5))
    world.scorer.error = None
    with pytest.raises(ModelNotFoundError):
        await world.ask(*named("u", 5), model="unknown")
    with pytest.raises(ModelNotFoundError):
        await world.ask(*named("u", 5), caller=Identity(IdentityKind.CLIENT, "bank"))
    assert world.used == 0
    assert list(await world.ask(*named("v", LIMIT))) == [SampleStatus.NOT_FOUND] * LIMIT


async def test_of_several_models_those_count_that_are_answered(world: World) -> None:
    told = await world.ask_several(("m", named("u", 2)), ("secret", named("s", 50)), ("old", named("o", 3)))
    assert len(told.failures) == 2
    assert world.used == 2
    told = await world.ask_several(("m", named("u", 3)), ("old", named("o", 3)))
    assert len(told.failures) == 1
    assert world.used == 3
    await world.ask_several(("m", named("u", 3)), ("n", [*named("v", 2), b"u0"]))
    assert world.used == 5
    with pytest.raises(DistinctIdsUsedUpError):
        await world.ask_several(("m", named("w", 3)), ("n", named("x", 3)))
    assert world.used == 5
    # for a model that gets nothing, nothing is asked for
    told = await world.ask_several(("secret", named("s", 50)), ("secret-2", named("t", 40)))
    assert len(told.failures) == 2
    assert world.used == 5


async def test_an_answer_that_another_question_left_no_room_for_does_not_leave(world: World) -> None:
    world.scorer.meanwhile = asyncio.Event()
    slow = [asyncio.create_task(world.ask(*named(each, 6))) for each in "ab"]
    while len(world.scorer.asked) < 2:
        await asyncio.sleep(0.01)
    world.scorer.meanwhile.set()
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["DistinctIdsUsedUpError", "bytes"]
    assert world.used == 6


async def test_questions_that_come_while_a_transaction_is_under_way_share_the_next(world: World) -> None:
    world.counts.gate.clear()
    first = asyncio.create_task(world.ask(b"first"))
    while not world.counts.batches:
        await asyncio.sleep(0.01)
    others = [asyncio.create_task(world.ask(f"u{number}".encode())) for number in range(12)]
    while len(world.scorer.asked) < 13:
        await asyncio.sleep(0.01)
    others[0].cancel()
    assert not first.done()
    world.counts.gate.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert world.counts.batches == [1, 12]
    refused = [each for each in outcomes if isinstance(each, DistinctIdsUsedUpError)]
    assert len(refused) == 3
    assert sum(isinstance(each, bytes) for each in outcomes) == LIMIT - 1  # what was counted for who left stays so
    assert world.used == LIMIT


async def test_buckets_of_populations_lists_and_online_questions_are_one_set(world: World) -> None:
    await world.ask(POPULATION[0], b"u1")
    told = await world.bucket(rows(0, 5))
    assert len(told.status) == 5
    assert world.used == 6
    await world.bucket(SampleIds.of(POPULATION[2:8]))
    assert world.used == 9
    with pytest.raises(DistinctIdsUsedUpError):
        await world.bucket(SampleIds.of([*POPULATION, b"v1", b"v2"]))
    with pytest.raises(DistinctIdsUsedUpError):
        await world.ask(b"v1", b"v2")
    assert world.used == 9
    await world.bucket(rows(0, 8))
    await world.ask(*POPULATION, b"u1", b"v1")
    assert world.used == LIMIT
    assert len((await world.bucket(SampleIds.of(named("w", 50)), caller=SHOP)).status) == 50


async def test_a_bucket_that_is_not_answered_does_not_count(world: World) -> None:
    with pytest.raises(PartyTimeoutError):
        await world.bucket(rows(0, 8), model="late", deadline_s=0.3)
    with pytest.raises(ModelNotFoundError):
        await world.bucket(rows(0, 8), model="unknown")
    assert world.used == 0


class FailingMasking(Masking):
    """Fails to mask, as with too many numbers at once, or masks with nothing."""

    fails = True

    @override
    def admit(self, caller: Any, model: Any, place: RoundRef | None) -> Any:
        return None if place is None else object()

    @override
    def masked(self, query: ScoreQuery, reply: PartyReply, sessions: Any, rounds: Any) -> PartyReply:
        if self.fails:
            raise MaskingRefusedError("too many words", problem="too many numbers")
        words = np.zeros(reply.share.values.shape, dtype=np.uint64)
        covered = Share(np.empty((len(words), 0)), reply.share.status)
        masks = MaskedWords(words, np.zeros(1, dtype=np.uint64))
        return PartyReply(share=covered, oldest_event_time=None, elapsed_s=0.0, masked=masks)

    @override
    def masked_bucket(  # type: ignore[override]  # it is static there
        self, query: BucketQuery, ids: SampleIds, reply: PartyReply, session: Any, place: RoundRef
    ) -> PartyReply:
        return self.masked(cast("Any", query), reply, (session,), (place,))


async def test_ids_of_a_share_that_could_not_be_masked_do_not_count(world: World) -> None:
    masking = FailingMasking("lab", {}, world.policy, None, cast("Any", None))
    place, ids = RoundRef(bytes(32), 1), named("u", 3)
    answers = Answers(cast("Any", world.scorer), world.policy, None, Instance(), distinct=world.limit, masking=masking)
    offline = OfflineAnswers(
        cast("Any", Part()),
        world.policy,
        cast("Any", Populations()),
        buckets_at_once=1,
        distinct=world.limit,
        masking=masking,
    )

    async def ask() -> None:
        request, into = masking_pb2.MaskedScoreRequest(), participant_pb2.ScoreReply()
        fill_masked_query(request, query("m", ids), [place])
        await answers.fill_masked_score(request, BANK, 30.0, into)

    async def bucket() -> None:
        request, into = masking_pb2.MaskedBucketRequest(), participant_pb2.BucketReply()
        fill_masked_bucket_query(request, bucket_query("m", rows(0, 5)), place)
        await offline.masked_bucket(request, BANK, 30.0, into)

    for call in (ask, bucket):
        with pytest.raises(MaskingRefusedError):
            await call()
    assert world.used == 0
    masking.fails = False
    await ask()
    assert world.used == 3
    await bucket()
    assert world.used == 3 + 5


async def test_a_question_from_before_midnight_counts_on_its_own_day(world: World) -> None:
    await world.ask(*named("u", LIMIT - 1))
    world.scorer.meanwhile = asyncio.Event()
    slow = asyncio.create_task(world.ask(b"late"))
    while len(world.scorer.asked) < 2:
        await asyncio.sleep(0.01)
    world.counts.time += timedelta(hours=12)
    await world.limit.check(BANK.name, [b"late"])
    world.scorer.meanwhile.set()
    await slow
    assert world.counts.used(CallerDay("bank", date(2026, 11, 27))) == LIMIT
    assert world.used == 0
    await world.ask(*named("x", LIMIT))
    assert world.used == LIMIT
    with pytest.raises(DistinctIdsUsedUpError, match="2026-11-28"):
        await world.ask(b"u1")


async def test_nothing_is_answered_that_cannot_be_counted_and_others_are_not_concerned(world: World) -> None:
    await world.ask(b"u1")
    world.counts.close()
    (database,) = world.counts._folder.rglob("bank.db")
    content = database.read_bytes()
    database.write_bytes(b"no database" * 1_000)
    for call in (world.ask(b"u2"), world.bucket(rows(0, 3)), world.ask_several(("m", [b"u1"]), ("n", [b"u3"]))):
        with pytest.raises(DistinctIdsUnavailableError, match=r"bank\.db"):
            await call
    assert len(world.scorer.asked) == 1
    await world.ask(b"u2", caller=SHOP)
    database.write_bytes(content)
    await world.ask(b"u2")
    assert world.used == 2


async def test_a_failure_between_the_score_and_the_answer_is_the_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DistinctIds, who: CallerDay, questions: Sequence[NewIds]) -> list[None]:
        raise DistinctIdsUnavailableError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Counts, "count", fail)
        for call in (world.ask(b"u2"), world.bucket(rows(0, 3))):
            with pytest.raises(DistinctIdsUnavailableError, match="the disk is full"):
                await call
    await world.ask(b"u2")
    assert world.used == 1


async def test_a_limit_without_a_place_to_count_refuses(world: World) -> None:
    answers = Answers(cast("Any", world.scorer), world.policy, None, Instance())
    request = codec.query_to_wire(query("m", [b"u1"]), 30_000)
    with pytest.raises(DistinctIdsUnavailableError, match="counts nowhere"):
        await answers.score(request, BANK, 30.0)
    await answers.score(request, SHOP, 30.0)


async def test_what_is_used_is_told_and_damage_hides_nobody_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ask(*named("u", 3))
    assert world.limit.readings() == []
    world.limit.refresh()
    assert world.limit.readings() == [DistinctReading("bank", 3, LIMIT)]
    world.policy.distinct_ids = {"bank": 5, "club": 7}
    world.limit.refresh()
    assert world.limit.readings() == [DistinctReading("bank", 3, 5), DistinctReading("club", 0, 7)]
    world.counts.close()
    (database,) = world.counts._folder.rglob("bank.db")
    content = database.read_bytes()
    database.write_bytes(b"no database" * 1_000)
    caplog.set_level("INFO")
    for _ in range(3):
        world.limit.refresh()
    assert world.limit.readings() == [DistinctReading("club", 0, 7)]
    database.write_bytes(content)
    world.limit.refresh()
    assert world.limit.readings() == [DistinctReading("bank", 3, 5), DistinctReading("club", 0, 7)]
    assert [each.message for each in caplog.records] == ["distinct_ids.unavailable", "distinct_ids.recovered"]
    world.counts.time += timedelta(days=2)
    assert list(world.limit._seen) == ["bank"]
    world.limit.refresh()
    assert world.limit._seen == {}
    assert list(world.counts._folder.glob("2026-*")) == []

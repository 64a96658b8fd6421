"""Every call to a participant that has an audit log is in it, also what was refused, with nothing unchecked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest

from fedpredict.errors import AuditUnavailableError, FedPredictError, PartyTimeoutError, PopulationRefusedError
from fedpredict.model.populations import BucketQuery, PopulationRows, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.model.standing import BucketIds, PopulationNotice, PopulationStanding, PopulationState
from fedpredict.participant.answers import Answers
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_peers import PeerCheckpoints
from fedpredict.security.audit_waiting import Then
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.wire.bucket_codec import fill_bucket_query
from fedpredict.wire.link import Instance
from fedpredict.wire.population_codec import fill_bucket_ids, fill_notice
from fedpredict.wire.v1 import participant_pb2
from tests.audit_calls import answered_call

BANK, SHOP = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "shop")
IDS = SampleIds.of([b"u1", b"u2", b"u3"])
RULE = CallerSettings(models=("*",), modes=(Mode.NEARLINE, Mode.REALTIME))


class Kept:
    """An audit log that keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []
        self.is_broken = False
        self.holds_answers = False
        self.thens: list[Then] = []

    @property
    def peers(self) -> PeerCheckpoints:
        raise NotImplementedError

    def count_refused(self, caller: str) -> None:
        raise NotImplementedError

    def when_safe(self, then: Then) -> None:
        self.thens.append(then)

    def check(self) -> None:
        if self.is_broken:
            raise AuditUnavailableError("the disk is full")

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call)

    def add_answer(self, text: bytes, request_id: str, sample_ids: SampleIds) -> None:
        self.calls.append(answered_call(text, request_id, sample_ids))


class Part:
    """Answers a bucket, or never."""

    party = "lab"
    hangs = False

    async def answer(self, query: BucketQuery, ids: SampleIds, left_s: float) -> PartyReply:
        if self.hangs:
            await asyncio.sleep(60.0)
        status = np.array([SampleStatus.OK, SampleStatus.OK, SampleStatus.NOT_FOUND], dtype=np.uint8)
        return PartyReply(share=build_share(np.ones((3, 1)), status), oldest_event_time=None, elapsed_s=0.0)


class Populations:
    """Knows one, and takes what it is told."""

    refuses = False

    def ids(self, owner: str, rows: PopulationRows, bucket: int, n_buckets: int) -> tuple[SampleIds, str]:
        return IDS, digest_of(IDS)

    def notice(self, owner: str, notice: PopulationNotice) -> PopulationStanding:
        return PopulationStanding(state=PopulationState.RECEIVING, missing=(0,), accepted_version=0)

    def put(self, owner: str, put: BucketIds, check_rows: Callable[[int], object]) -> None:
        check_rows(len(put.content) if isinstance(put.content, SampleIds) else 0)
        if self.refuses:
            raise PopulationRefusedError("no", population=put.population, problem="no")


class World:
    """A participant's answers, and their log."""

    def __init__(self) -> None:
        self.log, self.part, self.populations = Kept(), Part(), Populations()
        policy, audit = CallerPolicy({"bank": RULE}), CallAudit(self.log)
        self.offline = OfflineAnswers(self.part, policy, cast("Any", self.populations), buckets_at_once=1, audit=audit)
        self.answers = Answers(cast("Any", None), policy, None, Instance(), audit=audit)

    async def logged(self, call: Awaitable[object]) -> AuditedCall:
        with contextlib.suppress(FedPredictError):
            await call
        (logged,) = self.log.calls
        self.log.calls.clear()
        return logged

    def bucket(
        self,
        rows: SampleIds | PopulationRows = IDS,
        caller: Identity = BANK,
        deadline_s: float = 30.0,
        mode: Mode = Mode.NEARLINE,
    ) -> Awaitable[None]:
        request = participant_pb2.BucketRequest()
        query = BucketQuery(
            request_id="r-1",
            task_id="t-1",
            model_id="m",
            manifest_sha256="5c" * 32,
            params_sha256="5d" * 32,
            mode=mode,
            bucket=0,
            n_buckets=1,
            rows=rows,
            ids_sha256=digest_of(IDS),
        )
        fill_bucket_query(request, query)
        return self.offline.score_bucket(request, caller, deadline_s, participant_pb2.BucketReply())

    def told(self, caller: Identity = BANK) -> Awaitable[object]:
        request = participant_pb2.PopulationRequest()
        notice = PopulationNotice(request_id="r-2", population="all", version=4, n_ids=3, digests=("5c" * 32,))
        fill_notice(request, notice)
        return self.offline.population(request, caller)

    def put(self, caller: Identity = BANK) -> Awaitable[object]:
        request = participant_pb2.PopulationBucket()
        put = BucketIds(request_id="r-3", population="all", version=4, bucket=0, sha256=digest_of(IDS), content=IDS)
        fill_bucket_ids(request, put)
        return self.offline.put_bucket(request, caller)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_bucket_is_logged_with_its_ids_and_digest_also_when_it_was_refused_or_late(world: World) -> None:
    done = await world.logged(world.bucket())
    assert (done.outcome, done.rows, done.ids_sha256) == ("ok", 3, digest_of(IDS))
    assert (list(done.sample_ids or ()), done.status is not None) == (list(IDS), True)
    refused = await world.logged(world.bucket(caller=SHOP))
    assert (refused.outcome, refused.caller, refused.rows) == ("ModelNotFoundError", "party shop", 3)
    assert (refused.sample_ids, refused.ids_sha256) == (None, "")
    not_permitted = await world.logged(world.bucket(mode=Mode.OFFLINE))
    assert (not_permitted.outcome, not_permitted.ids_sha256) == ("NotPermittedError", digest_of(IDS))
    world.part.hangs = True
    rows = PopulationRows(population="all", version=4, bucket_sha256="5c" * 32, first=0, rows=3)
    late = await world.logged(world.bucket(rows, deadline_s=0.05))
    assert (late.outcome, late.population) == (PartyTimeoutError.__name__, "all version 4")
    assert late.ids_sha256 == digest_of(IDS)


async def test_who_has_no_rule_has_nothing_hashed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[SampleIds] = []

    def note(ids: SampleIds) -> str:
        hashed.append(ids)
        return digest_of(ids)

    monkeypatch.setattr("fedpredict.participant.offline.digest_of", note)
    assert (await world.logged(world.bucket(caller=SHOP))).outcome == "ModelNotFoundError"
    assert hashed == []
    assert (await world.logged(world.bucket())).outcome == "ok"
    assert hashed == [IDS]


async def test_a_cancelled_bucket_is_logged(world: World) -> None:
    world.part.hangs = True
    task = asyncio.ensure_future(world.bucket())
    while not world.offline._turns.locked():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (logged,) = world.log.calls
    assert (logged.outcome, logged.ids_sha256) == ("CancelledError", digest_of(IDS))


async def test_populations_that_are_told_of_and_sent_are_logged(world: World) -> None:
    told = await world.logged(world.told())
    assert (told.what, told.outcome, told.population, told.rows) == ("RegisterPopulation", "ok", "all version 4", 3)
    assert (await world.logged(world.told(SHOP))).outcome == "PopulationRefusedError"
    put = await world.logged(world.put())
    assert (put.what, put.outcome, put.population, put.rows) == ("PutPopulationBucket", "ok", "all version 4", 3)
    assert put.ids_sha256 == digest_of(IDS)
    world.populations.refuses = True
    assert (await world.logged(world.put())).outcome == "PopulationRefusedError"


async def test_what_does_not_parse_is_logged_without_a_word_of_it(world: World) -> None:
    offline, answers = world.offline, world.answers
    long = "x" * 100_000
    calls = {
        "ScoreBucket": offline.score_bucket(
            participant_pb2.BucketRequest(request_id=long, model_id=long), BANK, 1.0, participant_pb2.BucketReply()
        ),
        "RegisterPopulation": offline.population(participant_pb2.PopulationRequest(request_id=long), BANK),
        "PutPopulationBucket": offline.put_bucket(participant_pb2.PopulationBucket(request_id=long), BANK),
        "DescribeModel": answers.describe_model(
            participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r", model_id=long), SHOP, 1.0
        ),
    }
    for what, call in calls.items():
        logged = await world.logged(call)
        assert (logged.what, logged.model_id) == (what, "")
        assert len(logged.request_id) <= 1
        assert logged.outcome != "ok"


async def test_nothing_is_taken_while_the_log_cannot_be_written_and_no_ids_wait(world: World) -> None:
    world.log.is_broken = True
    for call in (world.bucket(), world.told(), world.put()):
        logged = await world.logged(call)
        assert (logged.outcome, logged.sample_ids, logged.ids_sha256) == ("AuditUnavailableError", None, "")


async def test_no_answer_leaves_before_its_line_is_safe_where_each_is_flushed(world: World) -> None:
    world.log.holds_answers = True
    thens = world.log.thens = []
    for call, refused in ((world.bucket(), False), (world.told(), False), (world.put(), True)):
        waiting = asyncio.ensure_future(call)
        while not thens:
            await asyncio.sleep(0.001)
        assert (len(world.log.calls), waiting.done()) == (1, False)
        thens.pop()(AuditUnavailableError("the disk is full") if refused else None)
        if refused:
            with pytest.raises(AuditUnavailableError):
                await waiting
        await asyncio.wait({waiting})
        world.log.calls.clear()

"""A participant's answers are held to its callers' rules, on calls and buckets alike; lines repeat the purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from fedpredict.errors import (
    FedPredictError,
    FeedNotFoundError,
    ModelNotFoundError,
    NotPermittedError,
    OutOfHoursError,
    ProtocolError,
    RateLimitedError,
    TooManySamplesError,
)
from fedpredict.model.populations import BucketQuery, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.model.standing import BucketDelta, BucketIds
from fedpredict.participant.answers import Answers
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.links import LinkServer
from fedpredict.participant.offline import OfflineAnswers
from fedpredict.participant.policy import CallerPolicy, SenderPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.scoring.realtime_settings import EventSettings
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.policy import Changes, Clocks
from fedpredict.security.rates import Rates
from fedpredict.wire import codec
from fedpredict.wire.bucket_codec import fill_bucket_query
from fedpredict.wire.link import Instance
from fedpredict.wire.population_codec import fill_bucket_ids
from fedpredict.wire.v1 import link_pb2, participant_pb2
from tests.audit_calls import answered_call

BANK = Identity(IdentityKind.PARTY, "bank")
NOON, MIDNIGHT = 43_200.0, 0.0


class Ones:
    """A party whose shares are ones; it says what it was asked for."""

    party = "lab"

    def __init__(self) -> None:
        self.asked: list[ScoreQuery | BucketQuery] = []

    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        self.asked.append(query)
        return self._reply(len(query.sample_ids), len(query.segments))

    async def answer(self, query: BucketQuery, ids: SampleIds, left_s: float) -> PartyReply:
        self.asked.append(query)
        return self._reply(len(ids), 0)

    def _reply(self, n: int, n_segments: int) -> PartyReply:
        share = build_share(np.ones((n, 1)), np.full(n, SampleStatus.OK, dtype=np.uint8))
        times = np.zeros(n_segments, dtype=np.int64) if n_segments else None
        return PartyReply(share=share, oldest_event_time=None, elapsed_s=0.0, segment_event_times=times)


class Kept:
    """An audit log that keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []

    holds_answers = False

    def check(self) -> None:
        pass

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call)

    def add_answer(self, text: bytes, request_id: str, sample_ids: SampleIds) -> None:
        self.calls.append(answered_call(text, request_id, sample_ids))


class Taken:
    """Takes buckets of populations, and notes of how many ids."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, int]] = []

    def put(self, owner: str, put: BucketIds, check_rows: Callable[[int], object]) -> None:
        content = put.content
        self.puts.append((owner, len(content if isinstance(content, SampleIds) else content.added)))


class World:
    """A participant's answers under a rule for bank."""

    def __init__(self, **keys: object) -> None:
        self.now_s, self.now_ns = NOON, 10**15
        self.log, self.part, self.taken = Kept(), Ones(), Taken()
        clocks = Clocks(now_s=lambda: self.now_s, monotonic_ns=lambda: self.now_ns)
        rule = CallerSettings.model_validate({"models": ["credit", "fraud"], **keys})
        self.policy = CallerPolicy({"bank": rule}, max_rows=100, clocks=clocks)
        audit = CallAudit(cast("Any", self.log), self.policy.purpose_of)
        part = cast("Any", self.part)
        self.offline = OfflineAnswers(part, self.policy, cast("Any", self.taken), buckets_at_once=1, audit=audit)
        self.answers = Answers(part, self.policy, None, Instance(), offline=self.offline, audit=audit)
        self.links = LinkServer(self.answers)

    async def score(self, *models: str, mode: Mode = Mode.NEARLINE, rows: int = 1) -> participant_pb2.ScoreReply:
        first, *others = models or ("credit",)
        query = ScoreQuery(
            request_id="r-1",
            model_id=first,
            manifest_sha256="5c" * 32,
            params_sha256="5d" * 32,
            mode=mode,
            sample_ids=[b"u%d" % number for number in range(rows * (1 + len(others)))],
            segments=(rows,) * (1 + len(others)) if others else (),
            further=tuple(ModelRef(each, "5c" * 32, "5d" * 32) for each in others),
            model_rows=(rows,) * (1 + len(others)) if others else (),
        )
        return await self.answers.score(codec.query_to_wire(query, 0), BANK, 30.0)

    async def bucket(self, mode: Mode = Mode.NEARLINE, rows: int = 1) -> None:
        ids = SampleIds.of([b"u%d" % number for number in range(rows)])
        request = participant_pb2.BucketRequest()
        query = BucketQuery(
            request_id="r-1",
            task_id="t-1",
            model_id="credit",
            manifest_sha256="5c" * 32,
            params_sha256="5d" * 32,
            mode=mode,
            bucket=0,
            n_buckets=1,
            rows=ids,
            ids_sha256=digest_of(ids),
        )
        fill_bucket_query(request, query)
        frame = link_pb2.Frame(id=1, score_bucket=request)
        await self.offline.answer(frame, BANK, 30.0)


async def test_a_rate_counts_calls_whatever_they_ask_for_and_a_round_of_several_models_once() -> None:
    world = World(calls_per_s=1, burst=3)
    await world.score("credit", "fraud", rows=2)
    await world.bucket()
    with pytest.raises(ModelNotFoundError):  # trying out names is no way around it
        await world.score("churn")

    for refused in (world.score(), world.bucket(), world.score("churn"), world.score("credit", "churn")):
        with pytest.raises(RateLimitedError) as raised:
            await refused
        assert raised.value.retry_after_ms == 1000

    assert len(world.part.asked) == 2
    world.now_ns += 10**9
    await world.score()


async def test_a_model_of_a_round_that_is_not_the_callers_takes_no_others_share_away() -> None:
    world = World()

    reply = await world.score("credit", "churn", "fraud")

    assert list(reply.status) == [SampleStatus.OK, SampleStatus.REFUSED, SampleStatus.OK]
    assert [each.failure.text for each in reply.failures] == ["no such model"]
    assert [(each.model_id, each.outcome) for each in world.log.calls] == [
        ("credit", "ok"),
        ("churn", "ModelNotFoundError"),
        ("fraud", "ok"),
    ]


async def test_hours_hold_for_every_kind_of_call() -> None:
    world = World(hours="08:00-18:00", time_zone="UTC")
    await world.score()
    await world.bucket()
    world.now_s = MIDNIGHT

    for refused in (world.score(), world.score("credit", "fraud"), world.bucket()):
        with pytest.raises(OutOfHoursError):
            await refused


async def test_modes_hold_for_every_kind_of_call() -> None:
    world = World(modes=["offline"])
    await world.score(mode=Mode.OFFLINE)
    await world.bucket(Mode.OFFLINE)

    for refused in (world.score(), world.score("credit", "fraud"), world.bucket()):
        with pytest.raises(NotPermittedError, match="mode nearline"):
            await refused
    with pytest.raises(ModelNotFoundError):  # who may not ask learns nothing else
        await world.score("churn")


async def test_rows_hold_for_a_round_as_a_whole_and_for_buckets() -> None:
    world = World(max_rows=10, max_offline_rows=20)
    await world.score("credit", "fraud", rows=5)
    await world.bucket(rows=20)

    for refused in (world.score(rows=11), world.score("credit", "fraud", rows=6), world.bucket(rows=21)):
        with pytest.raises(TooManySamplesError):
            await refused


async def test_rows_hold_for_buckets_of_populations_that_are_put() -> None:
    world = World(max_offline_rows=2)
    for rows in (SampleIds.of([b"u1", b"u2"]), SampleIds.of([b"u1", b"u2", b"u3"])):
        for content in (rows, BucketDelta("5c" * 32, rows, SampleIds.of([]))):
            put = BucketIds(
                request_id="r-1", population="p", version=1, bucket=0, sha256=digest_of(rows), content=content
            )
            request = participant_pb2.PopulationBucket()
            fill_bucket_ids(request, put)
            if len(rows) > 2:
                with pytest.raises(TooManySamplesError):
                    await world.offline.put_bucket(request, BANK)
            else:
                await world.offline.put_bucket(request, BANK)

    assert world.taken.puts == [("bank", 2), ("bank", 2)]


async def test_lines_of_the_log_repeat_the_purpose_also_of_what_was_refused() -> None:
    world = World(purpose="credit applications", modes=["nearline"])

    await world.score("credit", "churn")
    await world.bucket()
    for refused in (world.score(mode=Mode.REALTIME), world.score("churn")):
        with pytest.raises(FedPredictError):
            await refused

    assert [each.purpose for each in world.log.calls] == ["credit applications"] * 5


def test_senders_of_events_have_a_rate_and_hours_each_and_change_at_once() -> None:
    now_ns, now_s = [10**15], [NOON]
    clocks = Clocks(now_s=lambda: now_s[0], monotonic_ns=lambda: now_ns[0])
    limits = {"calls_per_s": 1, "burst": 1, "hours": "08:00-18:00", "time_zone": "UTC"}
    settings = EventSettings.model_validate({"senders": ["feeder", "other"], "limits": limits})
    senders = SenderPolicy(settings, Rates(), clocks)
    feeder, other = Identity(IdentityKind.CLIENT, "feeder"), Identity(IdentityKind.CLIENT, "other")
    senders.admit(feeder)
    senders.admit(other)

    with pytest.raises(RateLimitedError):
        senders.admit(feeder)
    now_s[0] = MIDNIGHT
    with pytest.raises(OutOfHoursError):
        senders.admit(other)
    with pytest.raises(FeedNotFoundError):
        senders.admit(Identity(IdentityKind.PARTY, "feeder"))

    changed = senders.replace(EventSettings.model_validate({"senders": ["feeder"]}))

    assert changed == Changes(removed=(other.uri,), changed=("events.limits",))
    senders.admit(feeder)
    with pytest.raises(FeedNotFoundError):
        senders.admit(other)


async def test_who_has_no_rule_leaves_lines_without_ids() -> None:
    ids = SampleIds.of([b"u%d" % number for number in range(50)])
    query = ScoreQuery(
        request_id="r-1",
        model_id="credit",
        manifest_sha256="5c" * 32,
        params_sha256="5d" * 32,
        mode=Mode.NEARLINE,
        sample_ids=ids,
    )
    shop = Identity(IdentityKind.PARTY, "shop")
    for caller, error in ((shop, ModelNotFoundError), (BANK, NotPermittedError)):
        world = World(modes=["offline"])
        with pytest.raises(error):
            await world.answers.score(codec.query_to_wire(query, 0), caller, 30.0)
        (call,) = world.log.calls
        assert (call.rows, call.outcome) == (50, error.__name__)
        assert (call.sample_ids is None) == (caller is shop)


async def test_what_is_no_call_counts_as_one_and_keeps_to_hours() -> None:
    frames = [
        link_pb2.Frame(score=participant_pb2.ScoreRequest()),
        link_pb2.Frame(score_bucket=participant_pb2.BucketRequest()),
        link_pb2.Frame(population=participant_pb2.PopulationRequest()),
        link_pb2.Frame(population_bucket=participant_pb2.PopulationBucket()),
    ]

    async def ask(world: World, frame: link_pb2.Frame) -> None:
        if frame.HasField("score"):
            await world.answers.score(frame.score, BANK, 30.0)
        else:
            await world.offline.answer(frame, BANK, 30.0)

    for frame in frames:
        world = World(calls_per_s=1, burst=2, hours="08:00-18:00", time_zone="UTC")
        for _ in range(2):
            with pytest.raises(ProtocolError):
                await ask(world, frame)
        with pytest.raises(RateLimitedError):
            await ask(world, frame)
        world.now_s = MIDNIGHT
        with pytest.raises(OutOfHoursError):
            await ask(world, frame)
        outcomes = [call.outcome for call in world.log.calls]
        assert outcomes == ["ProtocolError", "ProtocolError", "RateLimitedError", "OutOfHoursError"]

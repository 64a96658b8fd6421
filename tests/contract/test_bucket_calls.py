"""What holds of calls for buckets of offline tasks, whichever carrier links the two sides and whoever dials."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import (
    EmptyRequestError,
    ManifestMismatchError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    PopulationRefusedError,
    ProtocolError,
    TooManySamplesError,
)
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.model.populations import MAX_BUCKET_ROWS, BucketQuery, PopulationRows, digest_of, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.model.standing import (
    BucketDelta,
    BucketIds,
    PopulationNotice,
    PopulationStanding,
    PopulationState,
    delta_of,
)
from fedpredict.participant.acceptance import accept
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.settings import CallerSettings, PopulationSettings
from fedpredict.scoring.buckets import LocalBuckets, StoreBuckets
from fedpredict.tables.populations import read_bucket
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.bucket_codec import (
    bucket_answer_from_wire,
    bucket_query_from_wire,
    fill_bucket_query,
    fill_bucket_reply,
)
from fedpredict.wire.population_codec import fill_notice, notice_from_wire, standing_from_wire, standing_to_wire
from fedpredict.wire.v1 import participant_pb2
from tests.contract.link_rig import DEADLINE_S, DIGEST, Certificates, Rig, ScriptedScorer, Way, eventually

WAYS = [
    pytest.param(Way(carrier, dials), id=f"{carrier}-{dials}-dials")
    for carrier in ("socket", "grpc")
    for dials in ("initiator", "participant")
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=WAYS)
async def rig(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Rig]:
    async with Rig(request.param, certificates) as rig:
        yield rig


class LengthScorer(ScriptedScorer):
    """The share of a sample is its id as a number and half of it; of an id that is none there is no share."""

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        await super().score(replace_ids(query, [b"1"]), deadline_s=deadline_s)
        numbers = np.array([float(each) if each.isdigit() else np.nan for each in query.sample_ids])
        status = np.where(np.isnan(numbers), np.uint8(SampleStatus.NOT_FOUND), np.uint8(SampleStatus.OK))
        share = build_share(np.column_stack([numbers, numbers / 2.0]), status)
        return PartyReply(share=share, oldest_event_time=17, elapsed_s=0.25)


def replace_ids(query: ScoreQuery, sample_ids: list[bytes]) -> ScoreQuery:
    return ScoreQuery(
        request_id=query.request_id,
        model_id=query.model_id,
        manifest_sha256=query.manifest_sha256,
        params_sha256=query.params_sha256,
        mode=query.mode,
        sample_ids=sample_ids,
    )


def bucket_of(*sample_ids: bytes, model_id: str = "m", mode: Mode = Mode.NEARLINE) -> BucketQuery:
    ids = SampleIds.of(sample_ids)
    return BucketQuery(
        request_id="r-1",
        task_id="t-1",
        model_id=model_id,
        manifest_sha256="5c" * 32,
        params_sha256=DIGEST,
        mode=mode,
        bucket=3,
        n_buckets=8,
        rows=ids,
        ids_sha256=plain_digest(*sample_ids),
    )


def plain_digest(*sample_ids: bytes) -> str:
    """Return the digest as the protocol's text defines it."""
    ends = list(itertools.accumulate(map(len, sample_ids), initial=0))
    return hashlib.sha256(struct.pack(f"<Q{len(ends)}I", len(sample_ids), *ends) + b"".join(sample_ids)).hexdigest()


async def test_a_buckets_share_is_the_partys_bit_for_bit(rig: Rig) -> None:
    scorer = LengthScorer()
    remote = await rig.linked(scorer)

    answer = await remote.score_bucket(bucket_of(b"7", b"nobody", b"10"), deadline_s=DEADLINE_S)

    np.testing.assert_array_equal(answer.share.values, [[7.0, 3.5], [np.nan, np.nan], [10.0, 5.0]])
    assert answer.share.status.tolist() == [SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.OK]
    assert answer.ids_sha256 == plain_digest(b"7", b"nobody", b"10")
    assert (answer.oldest_event_time, answer.elapsed_s) == (17, 0.25)
    assert 0.0 < scorer.deadlines_s[0] <= DEADLINE_S


async def test_a_bucket_of_many_rows_travels_in_one_call(rig: Rig) -> None:
    remote = await rig.linked(LengthScorer())
    ids = [b"%d" % number for number in range(200_000)]

    answer = await remote.score_bucket(bucket_of(*ids), deadline_s=DEADLINE_S)

    np.testing.assert_array_equal(answer.share.values[:, 0], np.arange(200_000.0))


async def test_a_lost_link_is_no_lost_bucket(rig: Rig) -> None:
    held = asyncio.Event()
    scorer = LengthScorer(held=held)
    remote = await rig.linked(scorer)
    asked = asyncio.create_task(remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)

    for places in rig.places.values():
        for balancer in places:
            balancer.cut()
    await eventually(lambda: scorer.begun == 2)
    held.set()

    assert (await asked).share.values.tolist() == [[7.0, 3.5]]


async def test_others_than_those_who_may_ask_see_no_such_model(rig: Rig) -> None:
    scorer = LengthScorer()
    remote = await rig.initiator("shop")
    await rig.participant(scorer)
    await rig.wait_linked(remote)

    with pytest.raises(PartyRefusedError, match="no such model"):
        await remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)

    assert scorer.begun == 0


async def test_a_party_without_offline_tasks_is_named_before_anything_is_sent(rig: Rig) -> None:
    rig.offers_offline = False
    remote = await rig.linked(LengthScorer())

    with pytest.raises(PartyRefusedError, match="lab: it does not offer offline tasks"):
        await remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)

    assert remote.pool.carriers  # the link is as it was


async def test_what_ends_a_bucket_comes_back_by_name(rig: Rig) -> None:
    scorer = LengthScorer(raises=ManifestMismatchError("secret"))
    remote = await rig.linked(scorer)

    with pytest.raises(ManifestMismatchError, match="not the version that is served"):
        await remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)
    with pytest.raises(PartyRefusedError, match="mode realtime is not served here"):
        await remote.score_bucket(bucket_of(b"7", mode=Mode.REALTIME), deadline_s=DEADLINE_S)
    with pytest.raises(PartyRefusedError, match="names no sample id"):
        await remote.score_bucket(bucket_of(), deadline_s=DEADLINE_S)


async def test_buckets_beyond_the_limit_wait_within_their_deadlines(rig: Rig) -> None:
    held = asyncio.Event()
    scorer = LengthScorer(held=held)
    remote = await rig.linked(scorer)
    under_way = [asyncio.create_task(remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)) for _ in range(2)]
    await eventually(lambda: scorer.begun == 2)

    with pytest.raises(PartyTimeoutError):
        await remote.score_bucket(bucket_of(b"8"), deadline_s=0.2)
    await asyncio.sleep(1.0)  # the party counts from when it heard of it: there, too, its time is over now
    waits = asyncio.create_task(remote.score_bucket(bucket_of(b"9"), deadline_s=DEADLINE_S))
    held.set()

    assert (await waits).share.values.tolist() == [[9.0, 4.5]]
    assert scorer.begun == 3
    await asyncio.gather(*under_way)


def bucket_ids(version: int, number: int, ids: SampleIds | BucketDelta, digest: str) -> BucketIds:
    return BucketIds(request_id="r-1", population="people", version=version, bucket=number, sha256=digest, content=ids)


async def test_a_population_is_told_sent_accepted_and_scored_without_its_ids(rig: Rig, tmp_path: Path) -> None:
    warehouse = LocalWarehouse(tmp_path)
    callers = {"bank": CallerSettings(models=("*",))}
    rig.populations = StandingPopulations(warehouse, PopulationSettings(), callers, poll_s=0.001)
    remote = await rig.linked(LengthScorer())
    ids = in_order(SampleIds.of([b"7", b"10", b"nobody"]))
    notice = PopulationNotice(request_id="r-1", population="people", version=1, n_ids=3, digests=(plain_digest(*ids),))
    look = PopulationNotice(request_id="r-2", population="people", version=1)
    query = bucket_of(b"x")
    rows = PopulationRows(population="people", version=1, bucket_sha256=plain_digest(*ids), first=0, rows=3)
    query = replace(query, bucket=0, n_buckets=1, rows=rows, ids_sha256=plain_digest(*ids))

    assert (await remote.notice_population(look, deadline_s=DEADLINE_S)).state is None
    told = await remote.notice_population(notice, deadline_s=DEADLINE_S)
    assert (told.state, told.missing) == (PopulationState.RECEIVING, (0,))
    await remote.put_bucket(bucket_ids(1, 0, ids, plain_digest(*ids)), deadline_s=DEADLINE_S)
    assert (await remote.notice_population(notice, deadline_s=DEADLINE_S)).state is PopulationState.PROPOSED
    with pytest.raises(PopulationRefusedError, match="its operator has not accepted it"):
        await remote.score_bucket(query, deadline_s=DEADLINE_S)
    accept(warehouse, "bank", "people", 1, "ada", keep_versions=3)
    answer = await remote.score_bucket(query, deadline_s=DEADLINE_S)

    expected = [float(each) if each.isdigit() else np.nan for each in ids]
    np.testing.assert_array_equal(answer.share.values[:, 0], expected)
    part = replace(query, rows=replace(rows, first=1, rows=2), ids_sha256=plain_digest(*ids[1:]))
    answer = await remote.score_bucket(part, deadline_s=DEADLINE_S)
    np.testing.assert_array_equal(answer.share.values[:, 0], expected[1:])


async def test_a_delta_travels_and_what_is_refused_says_why(rig: Rig, tmp_path: Path) -> None:
    warehouse = LocalWarehouse(tmp_path)
    callers = {"bank": CallerSettings(models=("*",), accept_populations=True)}
    rig.populations = StandingPopulations(warehouse, PopulationSettings(), callers, poll_s=0.001)
    remote = await rig.linked(LengthScorer())
    first, second = in_order(SampleIds.of([b"7", b"10"])), in_order(SampleIds.of([b"7", b"11"]))
    digests = plain_digest(*first), plain_digest(*second)

    for version, content in ((1, first), (2, delta_of(digests[0], first, second))):
        digest = digests[version - 1]
        notice = PopulationNotice(request_id="r-1", population="people", version=version, n_ids=2, digests=(digest,))
        await remote.notice_population(notice, deadline_s=DEADLINE_S)
        await remote.put_bucket(bucket_ids(version, 0, content, digest), deadline_s=DEADLINE_S)
        told = await remote.notice_population(notice, deadline_s=DEADLINE_S)
        assert (told.state, told.accepted_version) == (PopulationState.ACCEPTED, version)

    assert list(read_bucket(warehouse, "bank", "people", 0, digests[1])) == list(second)
    with pytest.raises(PopulationRefusedError, match="people: bucket 0 with that digest is none of version 3"):
        await remote.put_bucket(bucket_ids(3, 0, first, digests[0]), deadline_s=DEADLINE_S)


async def test_who_is_not_listed_may_name_no_population(rig: Rig) -> None:
    remote = await rig.initiator("shop")
    await rig.participant(LengthScorer())
    await rig.wait_linked(remote)
    notice = PopulationNotice(request_id="r-1", population="people", version=1, n_ids=1, digests=("00" * 32,))

    with pytest.raises(PopulationRefusedError, match="no populations are taken here"):
        await remote.notice_population(notice, deadline_s=DEADLINE_S)
    with pytest.raises(PopulationRefusedError):
        await remote.put_bucket(bucket_ids(1, 0, SampleIds.of([b"u1"]), "00" * 32), deadline_s=DEADLINE_S)


async def unlinked(rig: Rig, scorer: ScriptedScorer) -> RemoteParty:
    """Return the initiator's view of a participant to which it has no link, and dials none."""
    await rig.participant(scorer)
    remote = Dialler("bank", rig.tls("bank")).dial("lab", rig.balancer.address)
    rig.stack.push_async_callback(remote.close)
    return remote


async def test_without_a_link_a_bucket_is_a_call_of_grpcs_own(certificates: Certificates) -> None:
    async with Rig(Way("grpc", "initiator"), certificates) as rig:
        remote = await unlinked(rig, LengthScorer())

        answer = await remote.score_bucket(bucket_of(b"7", b"x"), deadline_s=DEADLINE_S)

        np.testing.assert_array_equal(answer.share.values, [[7.0, 3.5], [np.nan, np.nan]])
        look = PopulationNotice(request_id="r-2", population="people", version=1)
        with pytest.raises(PopulationRefusedError, match="no populations are taken here"):
            await remote.notice_population(replace(look, n_ids=1, digests=("00" * 32,)), deadline_s=DEADLINE_S)
        await rig.workers[0].stop()
        with pytest.raises(PartyUnavailableError):
            await remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)


async def test_without_a_link_a_party_that_offers_no_offline_tasks_is_named(certificates: Certificates) -> None:
    async with Rig(Way("grpc", "initiator"), certificates) as rig:
        rig.offers_offline = False
        remote = await unlinked(rig, LengthScorer())

        with pytest.raises(PartyRefusedError, match="does not offer offline tasks"):
            await remote.score_bucket(bucket_of(b"7"), deadline_s=DEADLINE_S)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol_version": 2}, "protocol version 2"),
        ({"version": 0}, "version 0"),
        ({"population": "a b"}, "is not a population"),
        ({"bucket_sha256s": bytes(33)}, "33 bytes of digests"),
        ({"bucket_sha256s": bytes(96)}, "3 buckets"),
        ({"look": True}, "a question after a version with digests"),
    ],
)
def test_word_of_a_version_that_breaks_the_protocol_is_refused(change: dict[str, object], told: str) -> None:
    message = participant_pb2.PopulationRequest()
    notice = PopulationNotice(request_id="r-1", population="people", version=1, n_ids=3, digests=("ab" * 32,))
    fill_notice(message, notice)
    assert notice_from_wire(message) == notice
    for name, value in change.items():
        setattr(message, name, value)

    with pytest.raises(ProtocolError, match=told):
        notice_from_wire(message)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"request_id": "r-2"}, "another request"),
        ({"missing": bytes(3)}, "not a row of uint32"),
        ({"missing": struct.pack("<2I", 1, 0)}, "ascending"),
        ({"missing": struct.pack("<I", 2)}, "buckets of the version"),
        ({"state": 9}, "unknown state"),
    ],
)
def test_what_is_no_answer_about_a_version_is_refused(change: dict[str, object], told: str) -> None:
    notice = PopulationNotice(request_id="r-1", population="p", version=1, n_ids=3, digests=("ab" * 32, "cd" * 32))
    standing = PopulationStanding(state=PopulationState.RECEIVING, missing=(0, 1), accepted_version=7)
    message = standing_to_wire("r-1", standing)
    assert standing_from_wire(message, notice) == standing
    for name, value in change.items():
        setattr(message, name, value)

    with pytest.raises(ProtocolError, match=told):
        standing_from_wire(message, notice)


async def test_the_own_part_answers_a_bucket_as_another_party_does() -> None:
    local = LocalBuckets(StoreBuckets(LengthScorer()))

    answer = await local.score_bucket(bucket_of(b"7", b"x"), deadline_s=DEADLINE_S)

    np.testing.assert_array_equal(answer.share.values, [[7.0, 3.5], [np.nan, np.nan]])
    assert local.party == "lab"
    with pytest.raises(ProtocolError, match="digest"):
        await local.score_bucket(replace(bucket_of(b"7"), ids_sha256="00" * 32), deadline_s=DEADLINE_S)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"request_id": "r-2"}, "another request"),
        ({"manifest_sha256": bytes(32)}, "another manifest"),
        ({"ids_sha256": bytes(32)}, "digest 000000000000"),
        ({"ids_sha256": b"short"}, "5 bytes"),
        ({"rows": 3}, "3 rows for 2"),
        ({"status": b"\x01"}, "1 SampleStatus bytes for 2"),
        ({"status": b"\x01\x63"}, "unknown SampleStatus"),
        ({"status": b"\x01\x02"}, "NaN everywhere else"),
        ({"elapsed_s": -1.0}, "time span"),
        ({"oldest_event_time_us": 2**62}, "beyond the years"),
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_refused(change: dict[str, object], told: str) -> None:
    query = bucket_of(b"7", b"8")
    reply = participant_pb2.BucketReply(
        request_id="r-1",
        manifest_sha256=bytes.fromhex("5c" * 32),
        ids_sha256=bytes.fromhex(digest_of(SampleIds.of([b"7", b"8"]))),
        rows=2,
        elapsed_s=0.5,
    )
    reply.values.rows, reply.values.columns, reply.values.values = 2, 1, struct.pack("<2d", 7.0, 8.0)
    assert bucket_answer_from_wire(reply, query).share.values.tolist() == [[7.0], [8.0]]
    for name, value in change.items():
        setattr(reply, name, value)

    with pytest.raises(ProtocolError, match=told):
        bucket_answer_from_wire(reply, query)


@pytest.mark.parametrize("sources", [["a\nb"], [""], ["x" * 101], ["a", "b", "c"]])
def test_what_a_share_comes_from_is_taken_in_few_plain_words(sources: list[str]) -> None:
    query = bucket_of(b"7")
    share = build_share(np.array([[7.0]]), np.array([SampleStatus.OK], np.uint8))
    told = PartyReply(share=share, oldest_event_time=None, elapsed_s=0.5, sources=("day 2026-03-01, scored again: 2",))
    reply = participant_pb2.BucketReply()
    fill_bucket_reply(reply, query, query.ids_sha256, told)
    assert bucket_answer_from_wire(reply, query).sources == told.sources
    reply.sources[:] = sources

    with pytest.raises(ProtocolError, match="told in other words"):
        bucket_answer_from_wire(reply, query)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"protocol_version": 9}, ProtocolError),
        ({"task_id": "a task"}, ProtocolError),
        ({"n_buckets": 3}, ProtocolError),
        ({"bucket": 8}, ProtocolError),
        ({"mode": 77}, ProtocolError),
        ({"sample_ids": None}, ProtocolError),
        ({"population": ("p", 0, bytes(32), 0, 1)}, ProtocolError),
        ({"population": ("../p", 1, bytes(32), 0, 1)}, ProtocolError),
        ({"population": ("p", 1, bytes(31), 0, 1)}, ProtocolError),
        ({"population": ("p", 1, bytes(32), 0, 0)}, EmptyRequestError),
        ({"population": ("p", 1, bytes(32), 0, MAX_BUCKET_ROWS + 1)}, TooManySamplesError),
    ],
)
def test_a_question_that_breaks_the_protocol_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    message = participant_pb2.BucketRequest()
    fill_bucket_query(message, bucket_of(b"7"))
    assert bucket_query_from_wire(message).rows == [b"7"]
    for name, value in change.items():
        if value is None:
            message.ClearField("sample_ids")
        elif isinstance(value, tuple):
            names = ("population", "version", "bucket_sha256", "first", "rows")
            message.population.CopyFrom(participant_pb2.PopulationRows(**dict(zip(names, value, strict=True))))
        else:
            setattr(message, name, value)

    with pytest.raises(error):
        bucket_query_from_wire(message)

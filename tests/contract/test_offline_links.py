"""Calls of offline tasks have links of their own: online questions never wait behind a bucket, whichever the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import PartyTimeoutError, ProtocolError
from fedpredict.initiator import offline_links
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.model.populations import BucketAnswer, BucketQuery, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, build_share
from fedpredict.participant import answers
from fedpredict.participant.links import LinkServer
from tests.contract.link_rig import DEADLINE_S, DIGEST, Certificates, Rig, ScriptedScorer, Way, eventually, query_of

ROWS = 262_144
FEW_BYTES = 512 * 1024
"""What is led on of each connection: a fraction of a bucket, and more than any number of online questions."""

WAYS = [
    pytest.param(Way(carrier, dials), id=f"{carrier}-{dials}-dials")
    for carrier in ("socket", "grpc")
    for dials in ("initiator", "participant")
]


class PlaceScorer(ScriptedScorer):
    """The share of a bucket's sample is its place and half of it; online questions are answered as ever."""

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        if len(query.sample_ids) < ROWS:
            return await super().score(query, deadline_s=deadline_s)
        places = np.arange(float(len(query.sample_ids)))
        share = build_share(np.column_stack([places, places / 2.0]), np.ones(len(places), dtype=np.uint8))
        return PartyReply(share=share, oldest_event_time=17, elapsed_s=0.25)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=WAYS)
async def rig(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Rig]:
    async with Rig(request.param, certificates) as rig:
        yield rig


@pytest.fixture(scope="module")
def whole() -> BucketQuery:
    """Return a question for a whole bucket: three megabytes there, four back."""
    ids = SampleIds.of([b"%06d" % place for place in range(ROWS)])
    return BucketQuery(
        request_id="r-1",
        task_id="t-1",
        model_id="m",
        manifest_sha256="5c" * 32,
        params_sha256=DIGEST,
        mode=Mode.NEARLINE,
        bucket=0,
        n_buckets=1,
        rows=ids,
        ids_sha256=digest_of(ids),
    )


def few(*sample_ids: bytes) -> BucketQuery:
    ids = SampleIds.of(list(sample_ids))
    return BucketQuery(
        request_id="r-2",
        task_id="t-1",
        model_id="m",
        manifest_sha256="5c" * 32,
        params_sha256=DIGEST,
        mode=Mode.NEARLINE,
        bucket=0,
        n_buckets=1,
        rows=ids,
        ids_sha256=digest_of(ids),
    )


async def ask_online(remote: RemoteParty, n_questions: int = 10) -> None:
    for number in range(n_questions):
        reply = await remote.score(query_of(b"%d" % number), deadline_s=DEADLINE_S)
        assert reply.share.values.tolist() == [[float(number)]]


async def held_once(rig: Rig, call: asyncio.Task[BucketAnswer], remote: RemoteParty) -> None:
    """Stop the bucket on its way, have online questions answered meanwhile, and lead it on."""
    await eventually(lambda: any(balancer.n_held for balancer in rig.balancers))
    await ask_online(remote)
    assert not call.done()


async def check_overtaking(rig: Rig, remote: RemoteParty, whole: BucketQuery) -> None:
    for number in range(2):
        rig.hold(FEW_BYTES)
        call = asyncio.create_task(remote.score_bucket(replace(whole, request_id=f"b-{number}"), deadline_s=60.0))

        await held_once(rig, call, remote)  # its question is on the way
        rig.release()
        rig.hold(FEW_BYTES)
        await held_once(rig, call, remote)  # the rest of it, or its answer
        rig.release()

        share = (await call).share
        np.testing.assert_array_equal(share.values[:, 0], np.arange(float(ROWS)))


async def test_online_questions_are_answered_while_a_bucket_is_on_its_way(rig: Rig, whole: BucketQuery) -> None:
    remote = await rig.linked(PlaceScorer())
    assert rig.workers[0].links.n_links == 1  # none for offline tasks before one is needed
    assert remote.offline_carriers == {}

    await check_overtaking(rig, remote, whole)

    assert rig.workers[0].links.n_links == 2
    assert remote.carriers == remote.offline_carriers == {rig.way.carrier: 1}


async def test_without_links_a_bucket_has_a_connection_of_its_own(
    certificates: Certificates, whole: BucketQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SCORE_STREAM", "nothing_that_is_known")
    async with Rig(Way("grpc", "initiator"), certificates) as rig:
        await rig.participant(PlaceScorer())
        remote = await rig.initiator()
        await ask_online(remote)

        await check_overtaking(rig, remote, whole)

        assert remote.carriers == remote.offline_carriers == {"unary": 1}
        assert remote.offline.pool.carriers == {}


async def test_every_worker_gets_buckets_over_a_link_of_its_own(rig: Rig) -> None:
    scorers = [ScriptedScorer(), ScriptedScorer()]
    remote = await rig.linked(*scorers)

    async def both_are_linked() -> None:
        while remote.offline.pool.linked_workers() != {0, 1}:
            await remote.score_bucket(few(b"7"), deadline_s=DEADLINE_S)

    await asyncio.wait_for(both_are_linked(), 30.0)
    for _ in range(4):
        await remote.score_bucket(few(b"7"), deadline_s=DEADLINE_S)

    assert all(scorer.begun for scorer in scorers)
    assert len(remote.pool.linked_workers()) == 2


async def test_links_that_are_idle_are_left_and_opened_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_links, "IDLE_S", 0.05)
    remote = await rig.linked(ScriptedScorer())

    for _ in range(2):
        answer = await remote.score_bucket(few(b"7"), deadline_s=DEADLINE_S)
        assert answer.share.values.tolist() == [[7.0]]
        await eventually(lambda: rig.workers[0].links.n_links == 1)

    assert not remote.offline.is_open
    assert (remote.offline_carriers, remote.offline.pool.reconnects) == ({}, 0)
    assert remote.pool.carriers == {rig.way.carrier: 1}  # those of online questions stay


async def test_a_link_that_breaks_is_made_again_and_no_bucket_is_lost(rig: Rig) -> None:
    scorer = ScriptedScorer(held=asyncio.Event())
    remote = await rig.linked(scorer)
    call = asyncio.create_task(remote.score_bucket(few(b"7"), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)

    for balancer in rig.balancers:
        balancer.cut()
    assert scorer.held is not None
    scorer.held.set()

    assert (await call).share.values.tolist() == [[7.0]]
    assert scorer.begun == 2


@pytest.mark.parametrize("carrier", ["socket", "grpc"])
async def test_an_older_participant_that_dials_is_asked_for_one_bucket_at_a_time_over_the_link_there_is(
    certificates: Certificates, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkServer, "offers_offline", False)  # such a one does not know the capability
    async with Rig(Way(carrier, "participant"), certificates) as rig:
        scorer = ScriptedScorer(held=asyncio.Event())
        remote = await rig.linked(scorer)
        first, second = (
            asyncio.create_task(remote.score_bucket(few(b"%d" % each), deadline_s=DEADLINE_S)) for each in (1, 2)
        )
        await eventually(lambda: scorer.begun == 1)

        with pytest.raises(PartyTimeoutError):
            await remote.score_bucket(few(b"3"), deadline_s=0.05)
        assert scorer.begun == 1
        assert scorer.held is not None
        scorer.held.set()

        assert [(await each).share.values.tolist() for each in (first, second)] == [[[1.0]], [[2.0]]]
        assert rig.workers[0].links.n_links == 1


@pytest.mark.parametrize("carrier", ["socket", "grpc"])
async def test_a_participant_that_dials_keeps_to_one_link_where_the_initiator_asks_for_none(
    certificates: Certificates, carrier: str
) -> None:
    async with Rig(Way(carrier, "participant"), certificates) as rig:
        remote = await rig.linked(ScriptedScorer())

        await remote.who.call_out(next(iter(remote.pool.inviting().values())), DEADLINE_S)
        await ask_online(remote)

        assert rig.workers[0].links.n_links == 1


async def test_a_link_that_comes_when_no_task_needs_it_any_more_is_closed(certificates: Certificates) -> None:
    async with Rig(Way("socket", "participant"), certificates) as rig:
        remote = await rig.linked(ScriptedScorer())
        n_led = rig.n_led

        await remote.who.call_out(remote.pool.inviting()[0], DEADLINE_S, wants_offline_link=True)
        await eventually(lambda: rig.n_led > n_led)
        await eventually(lambda: rig.workers[0].links.n_links == 1)

        assert remote.offline.pool.carriers == {}
        await ask_online(remote)


async def test_a_worker_that_cannot_be_invited_does_not_keep_the_others_from_being(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever asking ends in, it is asked again, and the line says when it is known that no link will come."""
    asked: list[object] = []
    errors = [RuntimeError("a defect"), ProtocolError("not a hello"), None]

    class Acquaintance:
        party = "lab"

        async def call_out(self, link: object, deadline_s: float, *, wants_offline_link: bool) -> None:
            asked.append(link)
            if (error := errors[len(asked) - 1]) is not None:
                raise error

    class Pool:
        changed = asyncio.Event()

        def inviting(self) -> dict[int, str]:
            return {0: "first", 1: "second", 2: "third"}

        def linked_workers(self) -> set[int]:
            return set() if len(asked) < 3 else {0, 1, 2}

    inviter = offline_links.Inviter(cast(Any, Acquaintance()), cast(Any, Pool()), cast(Any, Pool()))
    running = asyncio.create_task(inviter.run())
    async with asyncio.timeout(DEADLINE_S):
        while len(asked) < 3:
            await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert asked == ["first", "second", "third"]
    assert [each.exc_info is not None for each in caplog.records if each.message == "link.failed"] == [True]

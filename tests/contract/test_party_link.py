"""What holds between an initiator and a participant, whichever carrier links them and whoever dials."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from functools import partial

import numpy as np
import pytest

from fedpredict.errors import (
    FedPredictError,
    ManifestMismatchError,
    ModelNotFoundError,
    ModelNotReadyError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    ProtocolError,
    TooManySamplesError,
    UnauthenticatedError,
)
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.model.scorer import NO_EVENT_TIME, ScoreQuery
from fedpredict.model.share import SampleStatus
from fedpredict.participant import answers
from fedpredict.wire import codec
from fedpredict.wire.channel import Compression
from fedpredict.wire.link import MAX_TASKS, Instance
from fedpredict.wire.v1 import participant_pb2
from tests.contract.link_rig import (
    DEADLINE_S,
    DIGEST,
    Certificates,
    Rig,
    ScriptedScorer,
    Way,
    answer_to,
    eventually,
    gather_outcomes,
    query_of,
    several,
)

WAYS = [
    pytest.param(Way(carrier, dials), id=f"{carrier}-{dials}-dials")
    for carrier in ("socket", "grpc")
    for dials in ("initiator", "participant")
]
MANY = tuple(b"%d" % number for number in range(2_000))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=WAYS)
async def rig(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Rig]:
    async with Rig(request.param, certificates) as rig:
        yield rig


@pytest.fixture
def scorer() -> ScriptedScorer:
    return ScriptedScorer()


@pytest.mark.parametrize("sample_ids", [(b"7",), (b"7", b"nobody", b"7", b""), MANY], ids=["one", "few", "many"])
async def test_the_share_is_the_partys_bit_for_bit(
    rig: Rig, scorer: ScriptedScorer, sample_ids: tuple[bytes, ...]
) -> None:
    remote = await rig.linked(scorer)
    query = query_of(*sample_ids)
    expected = answer_to(query)

    reply = await remote.score(query, deadline_s=DEADLINE_S)

    assert reply.share.values.tobytes() == expected.share.values.tobytes()
    assert reply.share.status.tolist() == expected.share.status.tolist()
    assert reply.elapsed_s == 0.25
    assert 0.0 < scorer.deadlines_s[0] <= DEADLINE_S


async def test_several_models_are_answered_in_one_call(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)

    reply = await remote.score(
        several(("m", [b"7"]), ("m-100", [b"8", b"nobody"]), ("m-200", [b"7"])), deadline_s=DEADLINE_S
    )

    assert scorer.begun == 1
    np.testing.assert_array_equal(reply.share.values[:, 0], [7.0, 108.0, np.nan, 207.0])
    assert reply.share.status.tolist() == [SampleStatus.OK, SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.OK]
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == [1, 1, 2, 1]
    assert not reply.failures


async def test_a_model_without_a_share_takes_no_other_models_share(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)

    reply = await remote.score(several(("m", [b"7"]), ("bad", [b"8", b"9"]), ("m-1", [b"7"])), deadline_s=DEADLINE_S)

    np.testing.assert_array_equal(reply.share.values[:, 0], [7.0, np.nan, np.nan, 8.0])
    refused = SampleStatus.REFUSED
    assert reply.share.status.tolist() == [SampleStatus.OK, refused, refused, SampleStatus.OK]
    assert list(reply.failures) == [1]
    assert isinstance(reply.failures[1], ManifestMismatchError)


async def test_a_model_that_the_caller_may_not_ask_for_takes_no_other_models_share(
    rig: Rig, scorer: ScriptedScorer
) -> None:
    shop = await rig.initiator("shop")
    await rig.participant(scorer)
    await rig.wait_linked(shop)

    reply = await shop.score(several(("m", [b"7"]), ("other", [b"8"])), deadline_s=DEADLINE_S)

    np.testing.assert_array_equal(reply.share.values[:, 0], [np.nan, 8.0])
    assert list(reply.failures) == [0]
    assert isinstance(reply.failures[0], PartyRefusedError)


async def test_where_no_model_has_a_share_every_one_says_why(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)

    reply = await remote.score(several(("bad", [b"7"]), ("bad", [b"8"])), deadline_s=DEADLINE_S)

    assert reply.share.status.tolist() == [SampleStatus.REFUSED] * 2
    assert sorted(reply.failures) == [0, 1]


async def test_a_participant_that_takes_one_model_at_a_time_is_asked_so(
    rig: Rig, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SEVERAL_MODELS", "of another time")
    remote = await rig.linked(scorer)

    reply = await remote.score(several(("m", [b"7", b"8"]), ("bad", [b"9"]), ("m-1", [b"7"])), deadline_s=DEADLINE_S)

    assert scorer.begun == 3
    np.testing.assert_array_equal(reply.share.values[:, 0], [7.0, 8.0, np.nan, 8.0])
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == [1, 2, NO_EVENT_TIME, 1]
    assert isinstance(reply.failures[1], ManifestMismatchError)


async def test_a_part_is_described(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)

    part = await remote.describe("m", deadline_s=DEADLINE_S)

    assert (part.party, part.model_id, part.params_sha256) == ("lab", "m", DIGEST)


async def test_messages_of_megabytes_pass(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    sample_ids = tuple(b"%0100d" % number for number in range(80_000))

    replies = await gather_outcomes(
        [remote.score(query_of(*sample_ids), deadline_s=60.0), remote.score(query_of(b"5"), deadline_s=60.0)]
    )

    assert [reply.share.n_samples for reply in replies if not isinstance(reply, BaseException)] == [80_000, 1]


async def test_a_message_beyond_the_limit_is_refused_and_the_link_stays(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    sample_ids = tuple(b"%0250d" % number for number in range(80_000))

    with pytest.raises(PartyRefusedError, match="a message holds at most"):
        await remote.score(query_of(*sample_ids), deadline_s=DEADLINE_S)

    assert (await remote.score(query_of(b"5"), deadline_s=DEADLINE_S)).share.values.tolist() == [[5.0]]


async def test_answers_overtake_each_other(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()
    slow = asyncio.ensure_future(remote.score(query_of(b"1"), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)
    held, scorer.held = scorer.held, None

    quick = await remote.score(query_of(b"2"), deadline_s=DEADLINE_S)

    assert not slow.done()
    held.set()
    assert [quick.share.values.item(), (await slow).share.values.item()] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (partial(ManifestMismatchError, "x"), ManifestMismatchError),
        (partial(ModelNotFoundError, "x"), PartyRefusedError),
        (partial(TooManySamplesError, "x", limit=3), PartyRefusedError),
        (partial(ProtocolError, "x"), PartyRefusedError),
        (partial(UnauthenticatedError, "x"), PartyRefusedError),
        (partial(ModelNotReadyError, "x"), PartyUnavailableError),
        (partial(PartyTimeoutError, "x", party="lab"), PartyTimeoutError),
        (partial(ZeroDivisionError, "secret"), PartyUnavailableError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value.func.__name__,
)
async def test_an_error_comes_back_by_name_and_in_public_words(
    rig: Rig, scorer: ScriptedScorer, raised: Callable[[], BaseException], expected: type[FedPredictError]
) -> None:
    remote = await rig.linked(scorer)
    scorer.raises = raised()

    for sample_ids in ((b"1",), MANY):
        with pytest.raises(expected) as caught:
            await remote.score(query_of(*sample_ids), deadline_s=DEADLINE_S)
        assert type(caught.value) is expected
        assert "secret" not in str(caught.value)
        assert "party lab" in str(caught.value)


async def test_an_unknown_model_is_told_when_it_is_described(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.raises = ModelNotFoundError("x")

    with pytest.raises(ModelNotFoundError, match="no such model"):
        await remote.describe("m", deadline_s=DEADLINE_S)


async def test_a_deadline_that_passes_ends_the_call_at_both_ends(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()

    with pytest.raises(PartyTimeoutError):
        await remote.score(query_of(b"1"), deadline_s=0.2)

    await asyncio.wait_for(scorer.left.wait(), 10.0)
    scorer.held = None
    assert (await remote.score(query_of(b"2"), deadline_s=DEADLINE_S)).share.values.item() == 2.0


async def test_no_time_left_asks_nobody(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)

    with pytest.raises(PartyTimeoutError):
        await remote.score(query_of(b"1"), deadline_s=0.0)

    assert scorer.begun == 0


async def test_a_call_that_is_cancelled_is_cancelled_at_the_party(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()
    asking = asyncio.ensure_future(remote.score(query_of(b"1"), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)

    asking.cancel()

    await asyncio.wait_for(scorer.left.wait(), 10.0)
    scorer.held = None
    assert (await remote.score(query_of(b"2"), deadline_s=DEADLINE_S)).share.values.item() == 2.0


async def test_a_participant_that_drains_answers_what_is_under_way(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()
    asking = asyncio.ensure_future(remote.score(query_of(b"1"), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)

    stopping = asyncio.create_task(rig.workers[0].stop(10.0))
    await eventually(lambda: remote.pool.carriers == {})
    scorer.held.set()

    assert (await asking).share.values.item() == 1.0
    await stopping
    assert rig.workers[0].links.n_links == 0


async def test_a_call_that_outlasts_the_drain_is_told_that_the_party_is_away(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()
    asking = asyncio.ensure_future(remote.score(query_of(b"1"), deadline_s=2.0))
    await eventually(lambda: scorer.begun == 1)

    await rig.workers[0].stop(0.1)

    with pytest.raises((PartyUnavailableError, PartyTimeoutError)):
        await asking


async def keep_asking(remote: RemoteParty, until: asyncio.Event) -> list[float]:
    """Ask one call after the other; return the shares. Fails with the first call that fails."""
    shares: list[float] = []
    while not until.is_set():
        reply = await remote.score(query_of(b"%d" % len(shares)), deadline_s=30.0)
        shares.append(reply.share.values.item())
    return shares


async def test_a_restart_fails_no_request(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    done = asyncio.Event()
    asking = [asyncio.create_task(keep_asking(remote, done)) for _ in range(16)]
    await eventually(lambda: scorer.begun > 100)

    second = ScriptedScorer()
    await rig.restart(rig.workers[0], second)
    await eventually(lambda: second.begun > 100)
    done.set()

    for shares in await asyncio.gather(*asking):
        assert shares == [float(number) for number in range(len(shares))]


async def test_connections_that_break_fail_no_request(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    done = asyncio.Event()
    asking = [asyncio.create_task(keep_asking(remote, done)) for _ in range(16)]
    await eventually(lambda: scorer.begun > 100)

    rig.balancer.cut()
    rig.link_balancer.cut()
    begun = scorer.begun
    await eventually(lambda: scorer.begun > begun + 100)
    done.set()

    for shares in await asyncio.gather(*asking):
        assert shares == [float(number) for number in range(len(shares))]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice silence in a second, not in ten."""
    monkeypatch.setattr("fedpredict.initiator.links.QUIET_S", 0.25)
    monkeypatch.setattr("fedpredict.initiator.links.PROBE_S", 1.0)
    monkeypatch.setattr("fedpredict.participant.links.SILENT_S", 1.5)
    for module in ("initiator.linking", "initiator.attach", "participant.attach"):
        monkeypatch.setattr(f"fedpredict.{module}.HANDSHAKE_S", 2.0)


async def answers_again(remote: RemoteParty) -> None:
    """Return when the party is asked with success, as every caller with a deadline of its own asks it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(PartyTimeoutError, PartyUnavailableError):
                reply = await remote.score(query_of(b"7"), deadline_s=0.5)
                assert reply.share.values.item() == 7.0
                return
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("soon")
async def test_a_path_that_is_lost_without_a_word_is_noticed_by_the_calls_on_it_and_taken_anew_when_it_is_back(
    rig: Rig, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.links.QUIET_S", 3600.0)  # the calls alone tell
    remote = await rig.linked(scorer)
    assert (await remote.score(query_of(b"7"), deadline_s=DEADLINE_S)).share.values.item() == 7.0
    rig.fall_silent()
    calls = [asyncio.ensure_future(remote.score(query_of(b"7"), deadline_s=0.3)) for _ in range(50)]

    async with asyncio.timeout(DEADLINE_S):
        outcomes = await gather_outcomes(calls)
    assert {type(outcome) for outcome in outcomes} == {PartyTimeoutError}
    await eventually(lambda: not remote.pool.carriers)
    # while it is away, calls end as well
    with pytest.raises((PartyTimeoutError, PartyUnavailableError)) as raised:
        await remote.score(query_of(b"7"), deadline_s=0.3)
    assert raised.value.party == "lab"
    rig.speak()
    await answers_again(remote)
    await rig.wait_linked(remote)
    await answers_again(remote)


@pytest.mark.usefixtures("soon")
async def test_a_path_that_is_lost_without_a_word_is_noticed_at_both_ends_also_without_calls(
    rig: Rig, scorer: ScriptedScorer
) -> None:
    remote = await rig.linked(scorer)
    rig.fall_silent()

    await eventually(lambda: not remote.pool.carriers)
    await eventually(lambda: rig.workers[0].links.n_links == 0)
    rig.speak()
    await rig.wait_linked(remote)
    await answers_again(remote)


@pytest.mark.usefixtures("soon")
async def test_a_link_without_calls_stays_as_long_as_somebody_is_there(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    (link,) = remote.pool._usable
    heard = link.carrier.heard

    # hellos go there and back, for longer than a participant waits for them
    await eventually(lambda: link.carrier.heard > heard + 3)

    assert (remote.pool._usable, link.closed_because, remote.reconnects) == ([link], "", 0)
    assert rig.workers[0].links.n_links == 1


@pytest.mark.usefixtures("soon")
async def test_a_party_that_is_slow_but_there_keeps_its_link(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    (link,) = remote.pool._usable
    scorer.held = asyncio.Event()
    # so many that it stops reading, and cannot even answer a hello
    slow = [asyncio.ensure_future(remote.score(query_of(b"7"), deadline_s=30.0)) for _ in range(MAX_TASKS + 10)]
    await eventually(lambda: scorer.begun >= MAX_TASKS)
    for _ in range(5):
        with pytest.raises(PartyTimeoutError):
            await remote.score(query_of(b"7"), deadline_s=0.5)
    scorer.held.set()

    assert {reply.share.values.item() for reply in await asyncio.gather(*slow)} == {7.0}
    assert (remote.pool._usable, link.closed_because, remote.reconnects) == ([link], "", 0)


async def test_a_party_that_comes_back_unready_is_asked_again_within_the_deadline(
    rig: Rig, scorer: ScriptedScorer
) -> None:
    remote = await rig.linked(scorer)
    second = ScriptedScorer(raises=ModelNotReadyError("the warehouse is being read"))
    await rig.restart(rig.workers[0], second)
    asking = asyncio.ensure_future(remote.score(query_of(b"3"), deadline_s=DEADLINE_S))
    await eventually(lambda: second.begun > 1)

    second.raises = None

    assert (await asking).share.values.item() == 3.0


async def test_a_party_that_comes_back_with_no_model_ready_is_asked_again_for_all_of_them(
    rig: Rig, scorer: ScriptedScorer
) -> None:
    remote = await rig.linked(scorer)
    second = ScriptedScorer(lacks=ModelNotReadyError("the warehouse is being read"))
    await rig.restart(rig.workers[0], second)
    await rig.wait_linked(remote)
    asking = asyncio.ensure_future(remote.score(several(("m", [b"3"]), ("m-1", [b"3"])), deadline_s=DEADLINE_S))
    await eventually(lambda: second.begun > 1 or asking.done())

    second.lacks = None

    reply = await asking
    assert not reply.failures
    assert reply.share.values.tolist() == [[3.0], [4.0]]


async def test_calls_for_many_models_wait_for_a_party_that_restarts_each_as_one_call(
    rig: Rig, scorer: ScriptedScorer
) -> None:
    remote = await rig.linked(scorer)
    await rig.workers.pop().stop(0.0)
    await eventually(lambda: remote.pool.carriers == {})
    query = several(*[(f"m-{number}", [b"3"]) for number in range(100)])
    asking = [asyncio.ensure_future(remote.score(query, deadline_s=DEADLINE_S)) for _ in range(20)]

    second = ScriptedScorer()
    await rig.participant(second)

    for reply in await asyncio.gather(*asking):
        assert not reply.failures
        assert reply.share.values[:, 0].tolist() == [3.0 + number for number in range(100)]
    assert second.begun == 20


async def test_a_call_for_several_models_is_asked_anew_one_by_one_where_a_party_comes_back_older(
    rig: Rig, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = codec.query_from_wire

    def read_one(message: participant_pb2.ScoreRequest) -> ScoreQuery:
        codec.check_protocol_version(message.protocol_version)
        return read(message)

    scorer.held = asyncio.Event()
    remote = await rig.linked(scorer)
    asking = asyncio.ensure_future(remote.score(several(("m", [b"3"]), ("m-1", [b"3"])), deadline_s=DEADLINE_S))
    await eventually(lambda: scorer.begun == 1)
    monkeypatch.setattr(answers, "SEVERAL_MODELS", "of another time")
    monkeypatch.setattr(codec, "query_from_wire", read_one)
    await rig.workers.pop().stop(0.0)

    older = ScriptedScorer()
    await rig.participant(older)

    assert (await asking).share.values.tolist() == [[3.0], [4.0]]
    assert older.begun == 2


async def test_a_participant_works_on_so_many_calls_at_once_and_no_more(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer)
    scorer.held = asyncio.Event()
    calls = [
        asyncio.ensure_future(remote.score(query_of(b"%d" % number), deadline_s=60.0))
        for number in range(3 * MAX_TASKS)
    ]
    await eventually(lambda: scorer.begun >= MAX_TASKS)
    begun = scorer.begun
    scorer.held.set()

    replies = await asyncio.gather(*calls)

    assert begun <= MAX_TASKS + 1
    assert [reply.share.values.item() for reply in replies] == list(range(3 * MAX_TASKS))


async def test_two_callers_have_each_their_own_rights(rig: Rig, scorer: ScriptedScorer) -> None:
    bank, shop = await rig.initiator(), await rig.initiator("shop")
    await rig.participant(scorer)
    for remote in (bank, shop):
        await rig.wait_linked(remote)

    reply = await bank.score(query_of(b"1"), deadline_s=DEADLINE_S)
    with pytest.raises(PartyRefusedError, match="no such model"):
        await shop.score(query_of(b"1"), deadline_s=DEADLINE_S)
    with pytest.raises(ModelNotFoundError):
        await shop.describe("m", deadline_s=DEADLINE_S)
    other = await shop.score(query_of(b"1", model_id="other"), deadline_s=DEADLINE_S)

    assert reply.share.values.item() == other.share.values.item() == 1.0


async def test_every_worker_is_found_and_used(rig: Rig) -> None:
    if rig.way.dials == "initiator":
        scorers = [ScriptedScorer() for _ in range(3)]
        remote = await rig.linked(*scorers)
        for number in range(30):
            await remote.score(query_of(b"%d" % number), deadline_s=DEADLINE_S)
        assert remote.pool.workers(rig.way.carrier) == {0, 1, 2}
        assert [scorer.begun for scorer in scorers] == [10, 10, 10]
        return
    scorer = ScriptedScorer()
    remotes = [await rig.initiator(me=Instance(worker=number, workers=3)) for number in range(3)]
    await rig.participant(scorer)
    for remote in remotes:
        await rig.wait_linked(remote)
        await remote.score(query_of(b"1"), deadline_s=DEADLINE_S)
    assert scorer.begun == 3


async def test_a_worker_that_has_read_nothing_yet_is_not_linked(rig: Rig, scorer: ScriptedScorer) -> None:
    read = asyncio.Event()

    async def settled() -> None:
        await read.wait()

    rig.settled = settled
    linking = asyncio.create_task(rig.linked(scorer))
    await eventually(lambda: bool(rig.workers) and rig.workers[0].links.n_links > 0)
    assert not linking.done()

    read.set()

    assert (await linking).pool.carriers == {rig.way.carrier: 1}


async def test_a_worker_that_comes_back_unready_fails_no_request(rig: Rig, scorer: ScriptedScorer) -> None:
    remote = await rig.linked(scorer, ScriptedScorer())
    await rig.workers[0].stop()
    del rig.workers[0]
    unready = ScriptedScorer(raises=ModelNotReadyError("the warehouse is being read"))
    await rig.participant(unready, number=0, n_workers=2)
    await rig.wait_linked(remote, 2)

    replies = await gather_outcomes(
        [remote.score(query_of(b"%d" % number), deadline_s=DEADLINE_S) for number in range(20)]
    )

    assert unready.begun > 0
    assert [reply.share.values.item() for reply in replies if not isinstance(reply, BaseException)] == list(range(20))


async def test_a_worker_that_starts_later_is_found_soon(rig: Rig, scorer: ScriptedScorer) -> None:
    later = ScriptedScorer()
    if rig.way.dials == "initiator":
        await rig.participant(scorer, n_workers=2)
        remote = await rig.initiator()
        await rig.wait_linked(remote)
        await rig.wait_searched()
        await rig.participant(later, number=1, n_workers=2)
        await rig.wait_linked(remote, 2)
        return
    first = await rig.initiator(me=Instance(worker=0, workers=2))
    await rig.participant(scorer)
    await rig.wait_linked(first)
    await rig.wait_searched()
    second = await rig.initiator(me=Instance(worker=1, workers=2))
    await rig.wait_linked(second)


async def test_nothing_is_left_behind(rig: Rig, scorer: ScriptedScorer) -> None:
    """Connections and tasks that were forgotten would warn when they are collected, and warnings are errors."""
    remote = await rig.linked(scorer)
    await remote.score(query_of(b"1"), deadline_s=DEADLINE_S)

    await remote.close()
    await eventually(lambda: rig.workers[0].links.n_links == 0)
    await rig.stack.aclose()
    del remote
    gc.collect()
    await asyncio.sleep(0)


@pytest.mark.parametrize("way", [Way("socket", dials, Compression.GZIP) for dials in ("initiator", "participant")])
@pytest.mark.parametrize("n_samples", [1, 3_000])
async def test_compressed_links_carry_the_same(certificates: Certificates, way: Way, n_samples: int) -> None:
    async with Rig(way, certificates) as rig:
        remote = await rig.linked(ScriptedScorer())
        query = query_of(*(b"%d" % number for number in range(n_samples)))
        reply = await remote.score(query, deadline_s=DEADLINE_S)
        np.testing.assert_array_equal(reply.share.values, answer_to(query).share.values)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.DEFLATE])
@pytest.mark.parametrize("dials", ["initiator", "participant"])
async def test_compressed_streams_carry_the_same(
    certificates: Certificates, dials: str, compression: Compression
) -> None:
    async with Rig(Way("grpc", dials, compression), certificates) as rig:
        remote = await rig.linked(ScriptedScorer())
        reply = await remote.score(query_of(*MANY), deadline_s=DEADLINE_S)
        np.testing.assert_array_equal(reply.share.values, answer_to(query_of(*MANY)).share.values)


@pytest.mark.parametrize("carrier", ["socket", "grpc"])
@pytest.mark.parametrize("dials", ["initiator", "participant"])
async def test_without_tls_callers_are_who_they_state(certificates: Certificates, carrier: str, dials: str) -> None:
    async with Rig(Way(carrier, dials, insecure=True), certificates) as rig:
        remote = await rig.linked(ScriptedScorer())
        assert (await remote.score(query_of(b"4"), deadline_s=DEADLINE_S)).share.status.tolist() == [SampleStatus.OK]


@pytest.mark.parametrize("carrier", ["socket", "grpc"])
@pytest.mark.parametrize("dials", ["initiator", "participant"])
async def test_a_hello_of_another_party_is_refused(
    certificates: Certificates, carrier: str, dials: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig(Way(carrier, dials, insecure=True), certificates) as rig:
        await rig.participant(ScriptedScorer(name="mallory"))
        caplog.set_level("DEBUG", "fedpredict")
        remote = await rig.initiator()
        await eventually(lambda: "party 'mallory' answers" in told(caplog))
        with pytest.raises((PartyRefusedError, PartyUnavailableError)):
            await remote.score(query_of(b"1"), deadline_s=DEADLINE_S)
        assert remote.pool.carriers == {}


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {getattr(record, 'reason', '')}" for record in caplog.records)


async def test_a_link_that_comes_while_a_participant_drains_does_not_hold_up_its_stop(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="fedpredict")
    async with Rig(Way("grpc", "initiator"), certificates) as rig:
        (worker,) = await rig.participant(ScriptedScorer())
        await worker.links.drain(30.0)  # nobody is linked yet
        await rig.initiator()
        await eventually(lambda: "link.opened" in caplog.text)

        async with asyncio.timeout(15.0):
            await worker.server.stop(60.0)
        assert worker.links.n_links == 0

"""The answering end of a link: inline and in tasks, failures, back-pressure, and peers that break the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from fedpredict.errors import ModelNotFoundError, TooManySamplesError
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.link import MAX_BYTES, MAX_TASKS
from fedpredict.wire.link_answerer import LinkAnswerer
from fedpredict.wire.status import error_from_failure
from fedpredict.wire.v1 import link_pb2, participant_pb2
from tests.unit.wire.link_support import Hand

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


class Answering:
    """An answering end that does as the test says."""

    def __init__(self, *, small: bool) -> None:
        self.hand = Hand()
        self.what: Callable[[link_pb2.Frame], Awaitable[link_pb2.Frame]] = reply
        self.closed: list[str] = []
        self.link = LinkAnswerer(
            self.hand, self._answer, is_small=lambda *_: small, closed=lambda _, reason: self.closed.append(reason)
        )

    async def _answer(self, frame: link_pb2.Frame) -> link_pb2.Frame:
        return await self.what(frame)

    async def answered(self, count: int = 1) -> list[link_pb2.Frame]:
        """Return the answers once there are so many."""
        async with asyncio.timeout(10.0):
            while len(self.hand.sent) < count:
                await asyncio.sleep(0)
        return self.hand.take()


@pytest.fixture(params=[True, False], ids=["inline", "in a task"])
async def answering(request: pytest.FixtureRequest) -> Answering:
    return Answering(small=request.param)


async def reply(frame: link_pb2.Frame) -> link_pb2.Frame:
    return link_pb2.Frame(scored=participant_pb2.ScoreReply(request_id=frame.score.request_id))


def score(call_id: int, request_id: str = "r") -> bytes:
    request = participant_pb2.ScoreRequest(request_id=request_id)
    return link_pb2.Frame(id=call_id, score=request).SerializeToString()


def cancel(call_id: int) -> bytes:
    return link_pb2.Frame(id=call_id, cancel=link_pb2.Cancel()).SerializeToString()


async def test_a_small_call_is_answered_in_the_same_turn() -> None:
    answering = Answering(small=True)
    answering.link.received(score(5, "r-5"))
    (frame,) = answering.hand.take()
    assert (frame.id, frame.scored.request_id) == (5, "r-5")


async def test_calls_are_answered_by_id(answering: Answering) -> None:
    gates = {call_id: asyncio.Event() for call_id in (1, 2, 3)}

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        await gates[frame.id].wait()
        return await reply(frame)

    answering.what = wait
    for call_id in gates:
        answering.link.received(score(call_id, f"r-{call_id}"))
    for call_id in (2, 3, 1):
        gates[call_id].set()
        (frame,) = await answering.answered()
        assert (frame.id, frame.scored.request_id) == (call_id, f"r-{call_id}")
    assert answering.link.calls == 0


async def test_a_call_that_waits_several_times_is_answered(answering: Answering) -> None:
    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        return await reply(frame)

    answering.what = wait
    answering.link.received(score(1))
    (frame,) = await answering.answered()
    assert frame.HasField("scored")


async def test_a_failure_says_what_a_trailer_would(answering: Answering) -> None:
    async def fail(frame: link_pb2.Frame) -> link_pb2.Frame:
        raise TooManySamplesError("4096 ids from lab", limit=1000)

    answering.what = fail
    answering.link.received(score(1))
    (frame,) = await answering.answered()
    error = error_from_failure(frame.failure)
    assert isinstance(error, TooManySamplesError)
    assert (str(error), error.limit) == ("too many sample ids in one call; the limit is 1000", 1000)


async def test_a_failure_after_waiting_comes_as_well(answering: Answering) -> None:
    async def fail(frame: link_pb2.Frame) -> link_pb2.Frame:
        await asyncio.sleep(0)
        raise ModelNotFoundError("secret")

    answering.what = fail
    answering.link.received(score(1))
    (frame,) = await answering.answered()
    assert isinstance(error_from_failure(frame.failure), ModelNotFoundError)
    assert "secret" not in str(frame)


async def test_an_unexpected_error_is_internal_and_no_more(
    answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(frame: link_pb2.Frame) -> link_pb2.Frame:
        raise ZeroDivisionError("u-4711 has weight 3")

    answering.what = fail
    answering.link.received(score(1))
    (frame,) = await answering.answered()
    assert (frame.failure.code, frame.failure.text) == (13, "internal error")
    assert not frame.failure.HasField("detail")
    assert "call.failed" in caplog.messages


async def test_a_cancelled_call_ends_and_is_not_answered(answering: Answering) -> None:
    left = asyncio.Event()

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return await reply(frame)

    answering.what = wait
    answering.link.received(score(1))
    await asyncio.sleep(0)

    answering.link.received(cancel(1))

    await asyncio.wait_for(left.wait(), 10.0)
    await asyncio.sleep(0)
    answering.link.received(cancel(1))
    answering.link.received(cancel(99))
    assert (answering.hand.sent, answering.link.calls, answering.closed) == ([], 0, [])


async def test_what_a_call_notes_in_its_context_stays_with_it(answering: Answering) -> None:
    seen = []

    async def note(frame: link_pb2.Frame) -> link_pb2.Frame:
        seen.append(WHO.get())
        WHO.set(str(frame.id))
        return await reply(frame)

    answering.what = note
    for call_id in (1, 2):
        answering.link.received(score(call_id))
        await answering.answered()
    assert seen == ["nobody", "nobody"]
    assert WHO.get() == "nobody"


async def test_reading_stops_at_the_limit_and_goes_on_at_half_of_it(answering: Answering) -> None:
    gates = [asyncio.Event() for _ in range(MAX_TASKS)]

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        await gates[frame.id - 1].wait()
        return await reply(frame)

    answering.what = wait
    for call_id in range(1, MAX_TASKS + 1):
        assert answering.hand.reading
        answering.link.received(score(call_id))
    assert not answering.hand.reading

    for gate in gates[: MAX_TASKS // 2]:
        gate.set()
    await answering.answered(MAX_TASKS // 2)
    assert not answering.hand.reading
    gates[-1].set()
    await answering.answered()
    assert answering.hand.reading


def bucket(call_id: int, n_bytes: int = 0) -> bytes:
    frame = link_pb2.Frame(id=call_id)
    frame.score_bucket.sample_ids.data = bytes(n_bytes)
    return frame.SerializeToString()


async def test_of_buckets_some_are_worked_on_at_a_time_and_others_wait_in_order(answering: Answering) -> None:
    begun, release = [], asyncio.Event()

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        if frame.HasField("score"):
            return link_pb2.Frame(scored=participant_pb2.ScoreReply())
        begun.append(frame.id)
        await release.wait()
        return link_pb2.Frame(scored_bucket=participant_pb2.BucketReply())

    answering.what = wait
    for call_id in range(1, 8):
        answering.link.received(bucket(call_id))
    answering.link.received(cancel(6))
    answering.link.received(score(100))
    assert [frame.id for frame in await answering.answered()] == [100]  # an online question waits for none of them
    await asyncio.sleep(0)
    assert begun == [1, 2, 3, 4]
    assert answering.link.calls == 6

    release.set()

    assert [frame.id for frame in await answering.answered(6)] == [1, 2, 3, 4, 5, 7]
    assert answering.link.calls == 0


async def test_no_bucket_is_begun_while_the_peer_reads_too_slowly(answering: Answering) -> None:
    begun = []

    async def note(frame: link_pb2.Frame) -> link_pb2.Frame:
        begun.append(frame.id)
        return link_pb2.Frame(scored_bucket=participant_pb2.BucketReply())

    answering.what = note
    answering.link.pause_sending()
    answering.link.received(bucket(1))
    answering.link.received(bucket(2))
    await asyncio.sleep(0)
    assert begun == []

    answering.link.resume_sending()

    assert [frame.id for frame in await answering.answered(2)] == [1, 2]


async def test_reading_stops_at_so_many_bytes_of_calls_and_goes_on_at_half_of_them(answering: Answering) -> None:
    release = asyncio.Semaphore(0)

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        await release.acquire()
        return link_pb2.Frame(scored_bucket=participant_pb2.BucketReply())

    answering.what = wait
    eighth = MAX_BYTES // 8
    for call_id in range(1, 8):
        answering.link.received(bucket(call_id, eighth))
    assert answering.hand.reading

    answering.link.received(bucket(8, eighth))
    assert not answering.hand.reading

    for _ in range(4):
        release.release()
    await answering.answered(4)
    assert not answering.hand.reading  # each frame is a few bytes more than an eighth
    release.release()
    await answering.answered()
    assert answering.hand.reading


async def test_a_peer_that_reads_too_slowly_is_not_read_from(answering: Answering) -> None:
    answering.link.pause_sending()
    assert not answering.hand.reading
    answering.link.resume_sending()
    assert answering.hand.reading


async def test_an_answer_too_large_for_a_message_is_a_failure(answering: Answering) -> None:
    async def much(frame: link_pb2.Frame) -> link_pb2.Frame:
        return link_pb2.Frame(scored=participant_pb2.ScoreReply(status=bytes(MAX_MESSAGE_BYTES)))

    answering.what = much
    answering.link.received(score(1))
    (frame,) = await answering.answered()
    assert (frame.id, frame.failure.code) == (1, 8)


BROKEN = {
    "bytes that are no frame": b"\xff\xff\xff",
    "an answer": link_pb2.Frame(id=2, scored=participant_pb2.ScoreReply()).SerializeToString(),
    "a call without an id": score(0),
    "a call whose id is under way": score(1),
    "a frame without a body": link_pb2.Frame(id=3).SerializeToString(),
    "a drain": link_pb2.Frame(drain=link_pb2.Drain()).SerializeToString(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_a_peer_that_breaks_the_protocol_loses_the_link_and_its_calls_end(
    answering: Answering, data: bytes
) -> None:
    left = asyncio.Event()

    async def wait(frame: link_pb2.Frame) -> link_pb2.Frame:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return await reply(frame)

    answering.what = wait
    answering.link.received(score(1))
    await asyncio.sleep(0)

    answering.link.received(data)

    assert answering.closed == [answering.hand.closed_because]
    assert answering.closed[0]
    await asyncio.wait_for(left.wait(), 10.0)
    assert answering.hand.sent == []


async def test_a_drain_waits_for_the_caller_to_close(answering: Answering) -> None:
    draining = asyncio.create_task(answering.link.drain(30.0))
    (frame,) = await answering.answered()
    assert (frame.id, frame.WhichOneof("body")) == (0, "drain")
    answering.link.received(score(9))  # it crossed our word on the way
    (crossed,) = await answering.answered()
    assert crossed.id == 9
    assert not draining.done()

    answering.hand.ended.set()
    answering.link.closed("the caller closed")

    await draining


async def test_a_drain_ends_when_its_time_is_over(answering: Answering) -> None:
    await answering.link.drain(0.01)
    assert answering.closed == ["drained"]

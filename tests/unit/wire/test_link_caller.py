"""The caller's end of a link: correlation, flow control, deadlines, and peers that break the protocol."""

from __future__ import annotations

import asyncio

import pytest

from fedpredict.errors import PartyBusyError, PartyRefusedError, PartyTimeoutError, PartyUnavailableError
from fedpredict.wire.channel import MAX_MESSAGE_BYTES
from fedpredict.wire.link import MAX_BYTES, MAX_TASKS, SLOW_BYTES_PER_S
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.v1 import link_pb2, participant_pb2
from tests.unit.wire.link_support import Hand, score_call, scored


class Linked:
    """A caller's end on a carrier in the test's hands."""

    def __init__(self, max_calls: int = 4) -> None:
        self.hand = Hand()
        self.changes: list[str] = []
        self.link = LinkCaller("lab", self.hand, changed=self._note, max_calls=max_calls)

    def _note(self, link: LinkCaller) -> None:
        self.changes.append(link.closed_because or "drains")


@pytest.fixture
async def linked() -> Linked:
    return Linked()


def sent_ids(linked: Linked) -> list[int]:
    return [frame.id for frame in linked.hand.take()]


async def test_an_answer_finds_its_call_in_any_order(linked: Linked) -> None:
    calls = [score_call() for _ in range(3)]
    for call in calls:
        linked.link.start(call)
    ids = sent_ids(linked)
    assert len(set(ids)) == 3
    assert 0 not in ids

    for call_id in reversed(ids):
        linked.link.received(scored(call_id))

    assert [call.result().id for call in calls] == ids
    assert linked.link.load == 0


async def test_the_remaining_time_travels_and_is_never_none(linked: Linked) -> None:
    linked.link.start(score_call(deadline_s=30.0))
    linked.link.start(score_call(deadline_s=0.0004))
    first, second = (frame.remaining_ms for frame in linked.hand.take())
    assert 29_000 < first <= 30_000
    assert second == 1


async def test_calls_beyond_the_limit_wait_in_order(linked: Linked) -> None:
    calls = [score_call(model_id=str(number)) for number in range(6)]
    for call in calls:
        linked.link.start(call)
    first = linked.hand.take()
    assert [frame.score.model_id for frame in first] == ["0", "1", "2", "3"]

    linked.link.received(scored(first[2].id))
    linked.link.received(scored(first[0].id))

    assert [frame.score.model_id for frame in linked.hand.take()] == ["4", "5"]


async def test_a_call_that_may_not_even_wait_is_refused_as_busy(linked: Linked) -> None:
    for _ in range(8):
        linked.link.start(score_call())
    call = score_call()
    linked.link.start(call)
    with pytest.raises(PartyBusyError) as raised:
        await call
    assert raised.value.party == "lab"


async def test_calls_of_many_bytes_wait_for_room() -> None:
    linked = Linked(max_calls=1000)
    size = MAX_MESSAGE_BYTES - 1024
    calls = [score_call(size=size) for _ in range(6)]
    for call in calls:
        linked.link.start(call)
    sent = linked.hand.take()
    assert (len(sent) - 1) * size < MAX_BYTES <= len(sent) * size

    linked.link.received(scored(sent[0].id))

    assert len(linked.hand.take()) == 1


async def test_a_carrier_that_is_full_makes_calls_wait(linked: Linked) -> None:
    linked.link.pause_sending()
    call = score_call()
    linked.link.start(call)
    assert linked.hand.take() == []

    linked.link.resume_sending()

    (frame,) = linked.hand.take()
    linked.link.received(scored(frame.id))
    assert call.done()


async def test_a_call_too_large_for_a_message_is_refused_and_not_sent(linked: Linked) -> None:
    call = score_call(size=MAX_MESSAGE_BYTES)
    linked.link.start(call)
    with pytest.raises(PartyRefusedError, match="a message holds at most"):
        await call
    assert (linked.hand.take(), linked.link.load) == ([], 0)


async def test_deadlines_end_calls_that_are_sent_and_calls_that_wait(linked: Linked) -> None:
    late = [score_call(deadline_s=seconds) for seconds in (0.05, 0.03, 0.08, 30.0, 0.01)]
    for call in late:
        linked.link.start(call)
    ids = sent_ids(linked)
    assert len(ids) == 4

    for call in (late[0], late[1], late[2], late[4]):
        with pytest.raises(PartyTimeoutError):
            await call

    assert not late[3].done()
    cancelled = [frame.id for frame in linked.hand.take() if frame.HasField("cancel")]
    assert sorted(cancelled) == sorted(ids[:3])
    assert linked.link.load == 1


async def test_a_late_answer_to_a_call_given_up_is_dropped(linked: Linked) -> None:
    given_up, other = score_call(), score_call()
    linked.link.start(given_up)
    linked.link.start(other)
    first, second = sent_ids(linked)

    given_up.cancel()
    linked.link.received(scored(first))
    linked.link.received(scored(second))

    (cancel,) = linked.hand.take()
    assert (cancel.id, cancel.WhichOneof("body")) == (first, "cancel")
    assert other.result().id == second
    assert linked.link.usable


async def test_a_waiting_call_that_is_cancelled_is_never_sent(linked: Linked) -> None:
    calls = [score_call() for _ in range(5)]
    for call in calls:
        linked.link.start(call)
    first, *_ = sent_ids(linked)

    calls[4].cancel()
    linked.link.received(scored(first))

    assert linked.hand.take() == []
    assert linked.link.load == 3


async def test_giving_up_a_call_that_came_from_another_link_leaves_the_others_alone(linked: Linked) -> None:
    lost = score_call()
    Linked().link.start(lost)
    calls = [score_call() for _ in range(4)]
    for call in (*calls, lost):
        linked.link.start(call)
    ids = sent_ids(linked)
    assert lost.call_id in ids

    lost.cancel()

    for call_id in ids:
        linked.link.received(scored(call_id))
    assert [call.result().id for call in calls] == ids
    assert (linked.link.load, linked.link.usable) == (0, True)


BROKEN = {
    "bytes that are no frame": b"\xff\xff\xff",
    "an answer to a call never made": scored(77),
    "an answer that came already": scored(1),
    "an answer of another kind": link_pb2.Frame(id=2, hello_reply=participant_pb2.HelloReply()).SerializeToString(),
    "a frame without a body": link_pb2.Frame(id=2).SerializeToString(),
    "a call": link_pb2.Frame(id=2, score=participant_pb2.ScoreRequest()).SerializeToString(),
    "a drain of one call": link_pb2.Frame(id=7, drain=link_pb2.Drain()).SerializeToString(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_a_peer_that_breaks_the_protocol_loses_the_link_and_every_call_is_told(
    linked: Linked, data: bytes
) -> None:
    calls = [score_call() for _ in range(6)]
    for call in calls:
        linked.link.start(call)
    linked.link.received(scored(1))

    linked.link.received(data)

    assert not linked.link.usable
    assert linked.hand.closed_because
    for call in calls[1:]:
        with pytest.raises(PartyUnavailableError):
            await call
    assert linked.link.load == 0
    assert linked.changes == [linked.hand.closed_because]


async def test_a_call_whose_answer_nobody_can_read_ends_and_the_defect_is_not_hidden(linked: Linked) -> None:
    def answered(_: object, __: object) -> None:
        raise KeyError("a defect")

    call = score_call()
    call.answered = answered
    linked.link.start(call)

    with pytest.raises(KeyError):
        linked.link.received(scored(sent_ids(linked)[0]))

    with pytest.raises(PartyRefusedError, match="cannot be read"):
        await call


async def test_a_link_that_drains_takes_no_call_and_closes_after_the_last_answer(linked: Linked) -> None:
    calls = [score_call() for _ in range(5)]
    for call in calls:
        linked.link.start(call)
    ids = sent_ids(linked)

    linked.link.received(link_pb2.Frame(drain=link_pb2.Drain()).SerializeToString())

    assert not linked.link.usable
    assert linked.changes == ["drains"]
    with pytest.raises(PartyUnavailableError):  # it waited, and is free to go elsewhere
        await calls[4]
    for call_id in ids[:3]:
        linked.link.received(scored(call_id))
        assert not linked.hand.closed_because
    linked.link.received(scored(ids[3]))
    assert linked.hand.closed_because == "drained"
    assert all(call.done() for call in calls)


async def test_a_call_on_a_link_that_is_gone_is_lost(linked: Linked) -> None:
    linked.link.closed("the cable")
    call = score_call()
    linked.link.start(call)
    with pytest.raises(PartyUnavailableError, match="the cable"):
        await call


async def test_ids_are_not_used_twice_when_they_come_round(linked: Linked) -> None:
    standing = score_call()
    linked.link.start(standing)
    (first,) = sent_ids(linked)
    linked.link._last_id = 0xFFFFFFFE

    for _ in range(2):
        linked.link.start(score_call())

    assert sent_ids(linked) == [0xFFFFFFFF, first + 1]


async def test_one_timer_serves_calls_of_one_deadline(linked: Linked) -> None:
    loop = asyncio.get_running_loop()
    linked.link.start(score_call(deadline_s=5.0))
    timer = linked.link._deadlines._timer
    linked.link.start(score_call(deadline_s=6.0))
    assert linked.link._deadlines._timer is timer
    linked.link.start(score_call(deadline_s=4.0))
    now = linked.link._deadlines._timer
    assert now is not None
    assert now is not timer
    assert now.when() < loop.time() + 4.5


@pytest.mark.parametrize("heard", [False, True])
async def test_a_call_whose_time_is_over_without_a_sound_since_it_was_sent_makes_the_link_suspect(
    linked: Linked, heard: bool
) -> None:
    suspects: list[LinkCaller] = []
    linked.link.suspected = suspects.append
    linked.hand.heard = 7
    call = score_call(deadline_s=0.01)
    linked.link.start(call)
    linked.hand.heard += heard  # not its answer: anything

    with pytest.raises(PartyTimeoutError):
        await call

    assert suspects == ([] if heard else [linked.link])


async def test_a_peer_may_be_silent_while_much_is_sent_to_it(linked: Linked) -> None:
    now = asyncio.get_running_loop().time()
    linked.link.start(score_call(size=10 * SLOW_BYTES_PER_S))

    assert now + 10.0 <= linked.link.heard_by() < now + 12.0


async def test_a_peer_with_many_calls_may_be_silent_until_the_first_of_those_that_it_has_read_is_over() -> None:
    linked = Linked(max_calls=2 * MAX_TASKS)
    now = asyncio.get_running_loop().time()
    for _ in range(MAX_TASKS // 2 - 1):
        linked.link.start(score_call(deadline_s=30.0))
    few = linked.link.heard_by()
    for _ in range(MAX_TASKS):
        linked.link.start(score_call(deadline_s=20.0))
    many = linked.link.heard_by()
    linked.link.start(score_call(deadline_s=5.0))  # it stands behind those

    assert few < now + 5.0
    assert now + 20.0 <= many <= linked.link.heard_by() < now + 25.0

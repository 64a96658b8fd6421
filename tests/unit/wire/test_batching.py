"""Several messages in one: what is joined as bytes is what protobuf itself makes of a message with further ones."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from fedpredict.wire.batching import MAX_BATCH, MAX_BATCH_BYTES, take_batch
from fedpredict.wire.v1 import initiator_pb2


def answer(number: int, size: int) -> initiator_pb2.PredictAnswer:
    return initiator_pb2.PredictAnswer(id=number, reply=initiator_pb2.PredictReply(status=b"\x01" * size))


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12))
def test_messages_joined_as_bytes_are_read_as_the_first_with_the_others_in_it(sizes: list[int]) -> None:
    answers = [answer(number + 1, size) for number, size in enumerate(sizes)]

    joined = initiator_pb2.PredictAnswer.FromString(take_batch(deque(each.SerializeToString() for each in answers)))

    expected = initiator_pb2.PredictAnswer()
    expected.CopyFrom(answers[0])
    expected.more.extend(answers[1:])
    assert joined == expected


def test_a_batch_has_limits_and_the_rest_stays_in_the_queue() -> None:
    many = deque([answer(1, 0).SerializeToString()] * (MAX_BATCH + 5))
    large = deque([answer(1, MAX_BATCH_BYTES).SerializeToString()] * 2)

    first = initiator_pb2.PredictAnswer.FromString(take_batch(many))
    alone = initiator_pb2.PredictAnswer.FromString(take_batch(large))

    assert (len(first.more) + 1, len(many)) == (MAX_BATCH, 5)
    assert (len(alone.more), len(large)) == (0, 1)

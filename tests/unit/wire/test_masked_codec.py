"""Messages of masked sums: what goes over the wire comes back, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedpredict.errors import ProtocolError
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.wire import codec
from fedpredict.wire.masked_codec import (
    RoundRef,
    fill_masked_query,
    fill_masked_reply,
    masked_reply_from_wire,
    rounds_from_wire,
)
from fedpredict.wire.v1 import masking_pb2, participant_pb2

QUERY = ScoreQuery(
    request_id="r-1",
    model_id="m",
    manifest_sha256="ab" * 32,
    params_sha256="cd" * 32,
    mode=Mode.NEARLINE,
    sample_ids=(b"u1", b"u2"),
    segments=(1, 1),
    further=(ModelRef("n", "ef" * 32, "01" * 32),),
    model_rows=(1, 1),
)
ROUNDS = (RoundRef(bytes(range(32)), 7), RoundRef(bytes(32), 2**63 - 1))
WORDS = np.array([[2**64 - 1, 1], [0, 0]], np.uint64)
STATUS = np.array([SampleStatus.OK, SampleStatus.NOT_FOUND], np.uint8)


def reply() -> PartyReply:
    return PartyReply(
        share=Share(np.empty((2, 0)), STATUS),
        oldest_event_time=5,
        elapsed_s=0.5,
        segment_event_times=np.array([5, 6]),
        masked=MaskedWords(WORDS, np.array([3, 2**64 - 3], np.uint64)),
    )


def message() -> participant_pb2.ScoreReply:
    filled = participant_pb2.ScoreReply()
    fill_masked_reply(filled, QUERY, reply())
    return participant_pb2.ScoreReply.FromString(filled.SerializeToString())


def test_a_question_comes_back_with_its_rounds() -> None:
    filled = masking_pb2.MaskedScoreRequest()
    fill_masked_query(filled, QUERY, ROUNDS)
    query = codec.query_from_wire(filled.score)
    assert (query.models[1].model_id, query.model_rows) == ("n", (1, 1))
    found = rounds_from_wire(filled, query)
    assert [(each.session_id, each.round_number) for each in found] == [
        (each.session_id, each.round_number) for each in ROUNDS
    ]


def test_a_question_with_other_rounds_than_models_is_refused() -> None:
    filled = masking_pb2.MaskedScoreRequest()
    fill_masked_query(filled, QUERY, ROUNDS[:1])
    with pytest.raises(ProtocolError, match="rounds of 1 sessions for 2 models"):
        rounds_from_wire(filled, QUERY)
    filled.rounds.add(session_id=b"short", round=1)
    with pytest.raises(ProtocolError, match="session id of 5 bytes"):
        rounds_from_wire(filled, QUERY)


def test_a_masked_answer_comes_back_and_holds_no_number() -> None:
    sent = message()
    assert not sent.HasField("values")
    assert sent.masked.words == b"\xff" * 8 + b"\1" + bytes(7 + 16)
    found = masked_reply_from_wire(sent, QUERY)
    assert found.share.values.shape == (2, 0)
    assert found.share.status.tolist() == STATUS.tolist()
    assert found.masked is not None
    assert found.masked.words.tolist() == WORDS.tolist()
    assert found.masked.checks.tolist() == [3, 2**64 - 3]
    assert (found.oldest_event_time, found.elapsed_s) == (5, 0.5)


def test_a_masked_answer_is_no_answer_to_a_bare_question_nor_the_reverse() -> None:
    with pytest.raises(ProtocolError, match="no share of float64 values"):
        codec.reply_from_wire(message(), QUERY, 0)
    bare = participant_pb2.ScoreReply()
    codec.fill_reply(bare, QUERY, reply())
    with pytest.raises(ProtocolError, match="no masked share"):
        masked_reply_from_wire(bare, QUERY)


Change = Callable[[participant_pb2.ScoreReply], None]


def short_words(sent: participant_pb2.ScoreReply) -> None:
    sent.masked.words = sent.masked.words[:-1]


def other_rows(sent: participant_pb2.ScoreReply) -> None:
    sent.masked.rows, sent.masked.columns = 4, 1


def one_check(sent: participant_pb2.ScoreReply) -> None:
    sent.masked.checks = bytes(8)


def huge(sent: participant_pb2.ScoreReply) -> None:
    sent.masked.rows = sent.masked.columns = 2**32 - 1


def other_request(sent: participant_pb2.ScoreReply) -> None:
    sent.request_id = "r-2"


@pytest.mark.parametrize("change", [short_words, other_rows, one_check, huge, other_request])
def test_an_answer_that_does_not_fit_is_refused(change: Change) -> None:
    sent = message()
    change(sent)
    with pytest.raises(ProtocolError):
        masked_reply_from_wire(sent, QUERY)


def test_an_answer_with_numbers_beside_the_words_is_never_written() -> None:
    bare = reply()
    bare.share = Share(np.array([[1.0], [np.nan]]), STATUS)
    with pytest.raises(ValueError, match="holds nothing else"):
        fill_masked_reply(participant_pb2.ScoreReply(), QUERY, bare)

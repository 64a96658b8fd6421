"""Messages of masked sums <-> model values; as `codec`, it trusts nothing that a peer sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.errors import ProtocolError
from fedpredict.model.fixed_point import MaskedWords, Words
from fedpredict.model.populations import BucketAnswer, BucketQuery
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.wire import codec
from fedpredict.wire.bucket_codec import bucket_answer_from_wire, fill_bucket_query, fill_bucket_reply
from fedpredict.wire.v1 import common_pb2, masking_pb2, participant_pb2

SESSION_ID_BYTES = 32
MAX_PARTIES = 100
_U8 = np.dtype("<u8")


# not frozen, as `ScoreQuery`: one is made for every model of every round
@dataclass(slots=True, eq=False)
class RoundRef:
    """The place of a question in a session.

    Attributes:
        session_id: 32 bytes.
        round_number: Higher than every one before it in the session.
    """

    session_id: bytes
    round_number: int


def fill_masked_query(message: masking_pb2.MaskedScoreRequest, query: ScoreQuery, rounds: Sequence[RoundRef]) -> None:
    """Write a sub-task for masked shares into an empty message, in place.

    Args:
        message: Empty.
        query: The sub-task.
        rounds: One for each of its models.
    """
    codec.fill_query(message.score, query)
    for each in rounds:
        message.rounds.add(session_id=each.session_id, round=each.round_number)


def fill_masked_bucket_query(message: masking_pb2.MaskedBucketRequest, query: BucketQuery, place: RoundRef) -> None:
    """Write a question for the masked share of rows of a bucket into an empty message, in place."""
    fill_bucket_query(message.bucket, query)
    message.round.session_id = place.session_id
    message.round.round = place.round_number


def round_from_wire(message: masking_pb2.MaskRound) -> RoundRef:
    """Return the place of a question in a session; raise `ProtocolError`."""
    return RoundRef(session_id_from_wire(message.session_id), message.round)


def rounds_from_wire(message: masking_pb2.MaskedScoreRequest, query: ScoreQuery) -> tuple[RoundRef, ...]:
    """Return the places of a sub-task in the sessions of its models; raise `ProtocolError`."""
    rounds = tuple(map(round_from_wire, message.rounds))
    if len(rounds) != len(query.further) + 1:
        raise ProtocolError(f"rounds of {len(rounds)} sessions for {len(query.further) + 1} models")
    return rounds


def session_id_from_wire(value: bytes) -> bytes:
    """Return a session's id; raise `ProtocolError` where it has another length."""
    if len(value) != SESSION_ID_BYTES:
        raise ProtocolError(f"a session id of {len(value)} bytes; {SESSION_ID_BYTES} are needed")
    return value


def fill_masked_reply(message: participant_pb2.ScoreReply, query: ScoreQuery, reply: PartyReply) -> None:
    """Write a party's masked share into an empty message; the reply's `share` has no numbers."""
    codec.fill_reply(message, query, reply)
    _fill_words(message.masked, reply)


def fill_masked_bucket_reply(
    message: participant_pb2.BucketReply, query: BucketQuery, ids_sha256: str, reply: PartyReply
) -> None:
    """Write a party's masked share of a bucket into an empty message, as `fill_bucket_reply` does a bare one."""
    fill_bucket_reply(message, query, ids_sha256, reply)
    _fill_words(message.masked, reply)


def masked_reply_from_wire(message: participant_pb2.ScoreReply, query: ScoreQuery) -> PartyReply:
    """Return a party's masked share, checked against what was asked; the message is used up.

    Raises:
        ProtocolError: As `reply_from_wire`, or the share is not masked.
    """
    if not message.HasField("masked"):
        raise ProtocolError("the reply holds no masked share")
    n_samples = len(query.sample_ids)
    masked = _masked_from_wire(message.masked, n_samples, len(query.further) + 1)
    # everything else is as in any other reply, whose share has no numbers
    message.values.rows = n_samples
    reply = codec.reply_from_wire(message, query, 0)
    reply.masked = masked
    return reply


def masked_bucket_from_wire(message: participant_pb2.BucketReply, query: BucketQuery) -> BucketAnswer:
    """Return a party's masked share of a bucket, checked against what was asked; the message is used up.

    Raises:
        ProtocolError: As `bucket_answer_from_wire`, or the share is not masked.
    """
    if not message.HasField("masked"):
        raise ProtocolError("the reply holds no masked share")
    masked = _masked_from_wire(message.masked, query.n_rows, 1)
    message.values.rows = query.n_rows
    answer = bucket_answer_from_wire(message, query)
    answer.masked = masked
    return answer


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parties of a session; raise `ProtocolError` unless they are sorted, each once, and few enough."""
    if not 2 <= len(names) <= MAX_PARTIES or list(names) != sorted(set(names)):
        raise ProtocolError(f"a masked sum of {len(names)} parties, or of parties that are not sorted")
    return tuple(names)


def _fill_words(message: common_pb2.MaskedWords, reply: PartyReply) -> None:
    if reply.masked is None or reply.share.n_scores:
        raise ValueError("a masked answer is masked, and holds nothing else")
    message.rows, message.columns = reply.masked.words.shape
    message.words = _bytes_of(reply.masked.words)
    message.checks = _bytes_of(reply.masked.checks)


def _masked_from_wire(message: common_pb2.MaskedWords, n_samples: int, n_models: int) -> MaskedWords:
    words = _words_from_wire(message.words, message.rows * message.columns).reshape(message.rows, message.columns)
    if len(words) != n_samples:
        raise ProtocolError(f"masked words of {len(words)} samples for {n_samples}")
    return MaskedWords(words, _words_from_wire(message.checks, n_models))


def _bytes_of(words: Words) -> bytes:
    return words.astype(_U8, copy=False).tobytes()


def _words_from_wire(data: bytes, n_words: int) -> Words:
    if len(data) != 8 * n_words:
        raise ProtocolError(f"{len(data)} bytes for {n_words} masked words")
    return np.frombuffer(data, dtype=_U8).astype(np.uint64, copy=False)

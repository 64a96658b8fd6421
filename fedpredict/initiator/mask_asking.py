"""What a party is asked in a round of a masked sum: shares of a request's samples, or of rows of a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fedpredict.initiator.greeting import Acquaintance
from fedpredict.model.populations import BucketAnswer, BucketQuery
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.wire.masked_codec import RoundRef, fill_masked_bucket_query, fill_masked_query
from fedpredict.wire.v1 import link_pb2

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Asked(Generic[_T]):
    """A question for a masked share.

    Attributes:
        who: The party.
        fill: Writes the question into an empty frame, with its place in the sessions of its models.
        read: Returns the answer, checked against the question; raises `PartyRefusedError`.
    """

    who: Acquaintance
    fill: Callable[[link_pb2.Frame, Sequence[RoundRef]], None]
    read: Callable[[link_pb2.Frame], _T]


def asked_share(who: Acquaintance, query: ScoreQuery) -> Asked[PartyReply]:
    """Return the question for a party's masked share."""

    def fill(frame: link_pb2.Frame, rounds: Sequence[RoundRef]) -> None:
        fill_masked_query(frame.masked_score, query, rounds)

    return Asked(who, fill, lambda frame: who.masked_share(query, frame.scored))


def asked_bucket(who: Acquaintance, query: BucketQuery) -> Asked[BucketAnswer]:
    """Return the question for a party's masked share of rows of a bucket."""

    def fill(frame: link_pb2.Frame, rounds: Sequence[RoundRef]) -> None:
        fill_masked_bucket_query(frame.masked_bucket, query, rounds[0])

    return Asked(who, fill, lambda frame: who.masked_bucket(query, frame.scored_bucket))


def failed(error: BaseException) -> asyncio.Future[Any]:
    """Return a future that has failed."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def pass_on(call: asyncio.Future[_T], to: asyncio.Future[_T]) -> None:
    """Let `to` end as `call` does, and cancel `call` where nobody waits for `to` any more."""

    def ended(_: asyncio.Future[_T]) -> None:
        if to.done():
            return
        if call.cancelled():
            to.cancel()
        elif (error := call.exception()) is not None:
            to.set_exception(error)
        else:
            to.set_result(call.result())

    def given_up(_: asyncio.Future[_T]) -> None:
        if to.cancelled():
            call.cancel()

    call.add_done_callback(ended)
    to.add_done_callback(given_up)

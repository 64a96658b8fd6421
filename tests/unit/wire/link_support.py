"""A carrier that a test holds in its hands, and calls for it."""

from __future__ import annotations

import asyncio
from typing import Any

from typing_extensions import override

from fedpredict.wire.link import Carrier
from fedpredict.wire.link_caller import LinkCall, fail_lost
from fedpredict.wire.v1 import link_pb2, participant_pb2


class Hand(Carrier):
    """Keeps what was sent."""

    name = "hand"

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.sent: list[link_pb2.Frame] = []
        self.closed_because = ""
        self.reading = True

    @override
    def send(self, data: bytes) -> None:
        self.sent.append(link_pb2.Frame.FromString(data))

    @override
    def pause_reading(self) -> None:
        self.reading = False

    @override
    def resume_reading(self) -> None:
        self.reading = True

    @override
    def close(self, reason: str) -> None:
        self.closed_because = self.closed_because or reason
        self.ended.set()

    def take(self) -> list[link_pb2.Frame]:
        """Return what was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


def score_call(deadline_s: float = 30.0, model_id: str = "m", size: int = 0) -> LinkCall[link_pb2.Frame]:
    """Return a call whose result is the frame that answers it."""

    def answered(call: LinkCall[link_pb2.Frame], frame: link_pb2.Frame) -> None:
        call.set_result(frame)

    def lost(call: LinkCall[Any], reason: str) -> None:
        fail_lost(call, reason, "lab")

    request = participant_pb2.ScoreRequest(model_id=model_id, segments=bytes(size))
    ends = asyncio.get_running_loop().time() + deadline_s
    return LinkCall(link_pb2.Frame(score=request), ends, answered, lost)


def scored(call_id: int) -> bytes:
    """Return the answer to a call."""
    return link_pb2.Frame(id=call_id, scored=participant_pb2.ScoreReply(request_id="r")).SerializeToString()

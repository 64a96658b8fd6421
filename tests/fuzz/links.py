"""Target: what an initiator takes from a party on a standing link, with calls of every kind under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np

from fedpredict.errors import FedPredictError
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.model.populations import digest_of
from fedpredict.model.scorer import ModelRef
from fedpredict.model.standing import PopulationStanding
from fedpredict.wire import bucket_codec, codec, masked_codec, population_codec
from fedpredict.wire.description import description_to_wire
from fedpredict.wire.link import Instance
from fedpredict.wire.link_caller import LinkCall, LinkCaller, fail_lost
from fedpredict.wire.masked_codec import RoundRef
from fedpredict.wire.socket_carrier import Preface, SocketCarrier
from fedpredict.wire.v1 import common_pb2, link_pb2, masking_pb2, participant_pb2
from tests.fuzz.engine import Target
from tests.fuzz.messages import BUCKET as ANY_BUCKET
from tests.fuzz.messages import IDS, NOTICE, QUERY, Errors, Transport, _reply
from tests.integration.federation import describe
from tests.integration.spoiling import spoiled

PREFACE = Preface().to_bytes()
SEVERAL = replace(QUERY, further=(ModelRef("n", "5c" * 32, "ab" * 32),), model_rows=(1, 1))
BUCKET = replace(ANY_BUCKET, ids_sha256=digest_of(IDS))
ROUND = RoundRef(bytes(32), 1)


class Asking:
    """An initiator that has asked a party everything there is, over one link, and waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._remote: RemoteParty = Dialler("bank", None).expect("lab")
        self.transport = Transport()
        self.carrier = SocketCarrier(lambda _: self.link, Preface())
        self.link = LinkCaller("lab", self.carrier, changed=self._remote.pool.link_changed)
        self.carrier.connection_made(self.transport)
        self.carrier._take(PREFACE)
        self._remote.pool.add(self.link, Instance(takes_several=True, takes_buckets=True))
        self.calls: list[asyncio.Future[object]] = []

    async def ask(self) -> None:
        """Ask, in an order that gives each call its number."""
        who, remote = self._remote.who, self._remote
        described = who.describe("m")
        described.request_id = QUERY.request_id
        bucket, notice = link_pb2.Frame(), link_pb2.Frame()
        bucket_codec.fill_bucket_query(bucket.score_bucket, BUCKET)
        population_codec.fill_notice(notice.population, NOTICE)
        masked, masked_bucket = link_pb2.Frame(), link_pb2.Frame()
        masked_codec.fill_masked_query(masked.masked_score, QUERY, [ROUND])
        masked_codec.fill_masked_bucket_query(masked_bucket.masked_bucket, BUCKET, ROUND)
        key = link_pb2.Frame(mask_key=masking_pb2.MaskKeyRequest(protocol_version=1))
        asks: list[Callable[[], Awaitable[object]]] = [
            lambda: self._asked(link_pb2.Frame(hello=who.hello()), lambda _: None),
            lambda: self._asked(
                link_pb2.Frame(describe=described), lambda frame: who.description(described, frame.described)
            ),
            lambda: remote.score(QUERY, deadline_s=30.0),
            lambda: remote.score(SEVERAL, deadline_s=30.0),
            lambda: self._asked(bucket, lambda frame: who.bucket(BUCKET, frame.scored_bucket)),
            lambda: self._asked(notice, lambda frame: who.standing(NOTICE, frame.population_told)),
            lambda: self._asked(masked, lambda frame: who.masked_share(QUERY, frame.scored)),
            lambda: self._asked(masked_bucket, lambda frame: who.masked_bucket(BUCKET, frame.scored_bucket)),
            lambda: self._asked(key, lambda frame: frame.mask_key_told.key.party),
        ]
        for ask in asks:
            self.calls.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(0)

    async def _asked(self, frame: link_pb2.Frame, read: Callable[[link_pb2.Frame], object]) -> object:
        who = self._remote.who

        def answered(call: LinkCall[link_pb2.Frame], answer: link_pb2.Frame) -> None:
            if answer.HasField("failure"):
                call.fail(who.no_share(answer.failure))
            else:
                call.set_result(answer)

        call = LinkCall(
            frame, self._loop.time() + 30.0, answered, lambda call, reason: fail_lost(call, reason, who.party)
        )
        self.link.start(call)
        return read(await call)

    async def end(self) -> None:
        """Lose the link; fail where a call goes on waiting, or ends in anything but an answer or an error of ours."""
        self.carrier.close("over")
        self.carrier.connection_lost(None)
        await self._remote.close()
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*self.calls, return_exceptions=True)
        for each in outcomes:
            if isinstance(each, BaseException) and not isinstance(each, FedPredictError | asyncio.CancelledError):
                raise each


def replies() -> Target:
    """Bytes of a party on a link, behind its preface: lengths and frames."""
    loop, errors = asyncio.new_event_loop(), Errors()
    logging.getLogger("fedpredict").addHandler(errors)
    logging.getLogger("fedpredict").propagate = False

    async def feed(data: bytes) -> None:
        asking = Asking()
        await asking.ask()
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]):
            if piece and not asking.transport.closed:
                asking.carrier._take(piece)
            await asyncio.sleep(0)
        await asking.end()
        errors.check()

    whole = [each for frame in _good() for _, each in [("", frame.SerializeToString()), *spoiled(frame)]]
    packed = [len(each).to_bytes(4, "big") + each for each in whole if len(each) < 10_000]
    together = b"".join(len(each).to_bytes(4, "big") + each for each in (f.SerializeToString() for f in _good()[:-1]))
    words = [b"RateLimitedError", b"retry_after_ms", b"9" * 400, b"PopulationRefusedError", b"\xff\xff\xff\xff"]
    return Target([*packed, together], lambda data: loop.run_until_complete(feed(data)), words)


def _good() -> list[link_pb2.Frame]:
    """Return an answer to each of the calls, by their numbers, and failures."""
    reply = _reply(None)
    scored = link_pb2.Frame(id=3)
    codec.fill_reply(scored.scored, QUERY, _reply(np.array([1, 1], dtype=np.int64)))
    several = link_pb2.Frame(id=4)
    codec.fill_reply(several.scored, SEVERAL, _reply(np.array([1, 1], dtype=np.int64)))
    bucket = link_pb2.Frame(id=5)
    bucket_codec.fill_bucket_reply(bucket.scored_bucket, BUCKET, BUCKET.ids_sha256, reply)
    told = population_codec.standing_to_wire(NOTICE.request_id, PopulationStanding(state=None, missing=(0,)))
    masked = link_pb2.Frame(id=7, scored=scored.scored)
    masked.scored.ClearField("values")
    masked.scored.masked.rows, masked.scored.masked.columns = 2, 1
    masked.scored.masked.words, masked.scored.masked.checks = bytes(16), bytes(8)
    masked_bucket = link_pb2.Frame(id=8, scored_bucket=bucket.scored_bucket)
    masked_bucket.scored_bucket.values.columns, masked_bucket.scored_bucket.values.values = 0, b""
    masked_bucket.scored_bucket.masked.CopyFrom(masked.scored.masked)
    taken = masking_pb2.MaskKeyReply(key=masking_pb2.MaskKey(party="lab"))
    limited = common_pb2.ErrorDetail(error="RateLimitedError", fields={"retry_after_ms": "9" * 400})
    refused = common_pb2.ErrorDetail(error="PopulationRefusedError", fields={"population": "p", "problem": "no"})
    return [
        link_pb2.Frame(id=1, hello_reply=participant_pb2.HelloReply(protocol_version=1, party="lab", workers=1)),
        link_pb2.Frame(id=2, described=description_to_wire(QUERY.request_id, describe("lab"))),
        scored,
        several,
        bucket,
        link_pb2.Frame(id=6, population_told=told),
        masked,
        masked_bucket,
        link_pb2.Frame(id=9, mask_key_told=taken),
        link_pb2.Frame(drain=link_pb2.Drain()),
        link_pb2.Frame(id=3, failure=common_pb2.Failure(code=8, text="no", detail=limited)),
        link_pb2.Frame(id=6, failure=common_pb2.Failure(code=9, text="no", detail=refused)),
    ]

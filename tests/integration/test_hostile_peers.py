"""Peers that are who they say, and then say what no peer should: on links that either side dialled, over each carrier.

What is expected of whoever listens to them: that link ends, or the answer is refused; no sample has a wrong number,
other links carry on, and what a peer can make grow has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fedpredict.errors import PartyRefusedError
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.prediction import Prediction
from fedpredict.model.share import SampleStatus
from fedpredict.participant.links import LinkServer
from fedpredict.participant.server import ParticipantServer
from fedpredict.security.hello import ATTACH
from fedpredict.security.live import LiveTls
from fedpredict.wire import handlers
from fedpredict.wire.channel import MAX_MESSAGE_BYTES, server_options
from fedpredict.wire.link import NONCE_METADATA, Carrier
from fedpredict.wire.link_answerer import LinkAnswerer
from fedpredict.wire.socket_carrier import Preface, SocketCarrier
from fedpredict.wire.v1 import common_pb2, link_pb2, participant_pb2
from tests.integration.daemons import World
from tests.integration.federation import Certificates, eventually
from tests.integration.test_certificate_changes import Changing
from tests.integration.test_every_rpc import Daemons, score

OVER = ("socket", "grpc")
RIGHT = [-8.0, -16.0]
"""What the laboratory and the shop come to, for both samples."""
UNKNOWN_BODY = b"\x9a\x06\x00"
"""A field 99 of no length, which no release of the protocol has."""


class Raw(bytes):
    """Bytes for the connection itself, behind no length; whoever sends them closes it."""


Edit = Callable[[link_pb2.Frame], Sequence[bytes]]
"""A frame that a peer sends -> what it sends instead."""


def honest(frame: link_pb2.Frame) -> Sequence[bytes]:
    return [frame.SerializeToString()]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


class Hostile:
    """What the shop's participant sends, changed on its way; all the rest of it is as it should be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.edit: Edit = honest
        self.n_sent: Counter[str | None] = Counter()
        """Frames, by what they are, whatever became of them."""
        answerer = LinkServer.answerer

        def answering(links: LinkServer, carrier: Carrier, *args: Any, **kwargs: Any) -> LinkAnswerer:
            if links._answers._scorer.party == "shop":
                send = carrier.send
                setattr(carrier, "send", lambda data: self._send(carrier, send, data))  # noqa: B010  mypy knows better
            return answerer(links, carrier, *args, **kwargs)

        monkeypatch.setattr(LinkServer, "answerer", answering)

    def _send(self, carrier: Carrier, send: Callable[[bytes], None], data: bytes) -> None:
        frame = link_pb2.Frame.FromString(data)
        self.n_sent[frame.WhichOneof("body")] += 1
        for each in self.edit(frame):
            if not isinstance(each, Raw):
                send(each)
            elif isinstance(carrier, SocketCarrier) and carrier._transport is not None:
                carrier._transport.write(each)
                carrier._transport.close()


def answers(change: Callable[[participant_pb2.ScoreReply], object]) -> Edit:
    """Change every share on its way."""

    def edit(frame: link_pb2.Frame) -> Sequence[bytes]:
        if frame.HasField("scored"):
            change(frame.scored)
        return [frame.SerializeToString()]

    return edit


def instead(make: Callable[[link_pb2.Frame], Sequence[bytes]]) -> Edit:
    """Send something else in the place of every share."""
    return lambda frame: make(frame) if frame.HasField("scored") else [frame.SerializeToString()]


def frame_of(frame: link_pb2.Frame, **body: Any) -> bytes:
    return link_pb2.Frame(id=frame.id, **body).SerializeToString()


def fails(code: int, text: str = "no", error: str = "", **fields: str) -> Edit:
    detail = common_pb2.ErrorDetail(error=error, fields=fields) if error else None
    failure = common_pb2.Failure(code=code, text=text, detail=detail)
    return instead(lambda frame: [frame_of(frame, failure=failure)])


def sets(**fields: Any) -> Edit:
    """Set fields of every share."""

    def change(reply: participant_pb2.ScoreReply) -> None:
        for name, value in fields.items():
            setattr(reply, name, value)

    return answers(change)


def shapes(**fields: Any) -> Edit:
    """Set fields of the matrix of every share."""

    def change(reply: participant_pb2.ScoreReply) -> None:
        for name, value in fields.items():
            setattr(reply.values, name, value)

    return answers(change)


def packed(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f8").tobytes()


ENDS: Mapping[str, Edit] = {
    "an unknown body": instead(lambda frame: [frame_of(frame) + UNKNOWN_BODY]),
    "no body": instead(lambda frame: [frame_of(frame)]),
    "a cancellation": instead(lambda frame: [frame_of(frame, cancel=link_pb2.Cancel())]),
    "a drain of one call": instead(lambda frame: [frame_of(frame, drain=link_pb2.Drain())]),
    "a call": instead(lambda frame: [frame_of(frame, score=participant_pb2.ScoreRequest())]),
    "an answer of another kind": instead(lambda frame: [frame_of(frame, hello_reply=participant_pb2.HelloReply())]),
    "an answer to a call never made": instead(
        lambda frame: [link_pb2.Frame(id=frame.id + 7, scored=frame.scored).SerializeToString()]
    ),
    "an answer to no call": instead(lambda frame: [link_pb2.Frame(scored=frame.scored).SerializeToString()]),
    "bytes that are no frame": instead(lambda _: [b"\xff\xff\xff"]),
}
"""What the protocol has no place for: the link ends, and the calls on it are told so."""

RAW: Mapping[str, Edit] = {
    "a length of 2 GB": instead(lambda _: [Raw(struct.pack(">I", 2**31 - 1) + b"x")]),
    "a length of 4 GB": instead(lambda _: [Raw(b"\xff\xff\xff\xffx")]),
    "a length just above the limit": instead(lambda _: [Raw(struct.pack(">I", MAX_MESSAGE_BYTES + 1))]),
    "half a frame": instead(lambda frame: [Raw(struct.pack(">I", 100) + frame.SerializeToString()[:20])]),
    "half a length": instead(lambda _: [Raw(b"\0\0")]),
    "a compressed frame that was not agreed": instead(lambda _: [Raw(struct.pack(">I", 1 << 31 | 3) + b"abc")]),
}
"""The same, of bytes that only a socket takes."""

REFUSED: Mapping[str, Edit] = {
    "an answer to another request": sets(request_id="other"),
    "an answer of another version": sets(manifest_sha256=bytes(32)),
    "a row too many": shapes(rows=3, values=packed(1, 2, 3)),
    "no columns": shapes(columns=0, values=b""),
    "two columns": shapes(columns=2, values=packed(1, 2, 3, 4)),
    "columns without end": shapes(columns=2**32 - 1),
    "rows and columns without end": shapes(rows=2**32 - 1, columns=2**32 - 1),
    "values that are cut off": shapes(values=packed(1, 2)[:-1]),
    "no values": answers(lambda reply: reply.ClearField("values")),
    "a status too few": sets(status=bytes([SampleStatus.OK])),
    "a status that is none": sets(status=b"\xc8\x01"),
    "a status of 0": sets(status=bytes(2)),
    "no number for what was scored": shapes(values=packed(np.nan, 1)),
    "an infinite number": shapes(values=packed(np.inf, 1)),
    "a number for somebody unknown": sets(status=bytes([SampleStatus.NOT_FOUND, SampleStatus.OK])),
    "an instant beyond the calendar": sets(oldest_event_time_us=2**62),
    "a time that is none": sets(elapsed_s=float("nan")),
    "a failure of a model that was not asked for": answers(
        lambda reply: reply.failures.add(place=7, failure=common_pb2.Failure(code=5))
    ),
    "a failure with a status that is none": fails(99),
    "a failure with a status beyond all": fails(2**32 - 1),
    "a failure that says OK": fails(0),
    "a failure that never ends": fails(9, "x" * 2**20),
    "a failure of an error that is none": fails(9, error="NoSuchError"),
    "a failure whose fields are none": fails(8, error="RateLimitedError", retry_after_ms="soon"),
    "a pause of ages": fails(8, error="RateLimitedError", retry_after_ms="9" * 400),
    "a pause of more digits than Python takes": fails(8, error="RateLimitedError", retry_after_ms="9" * 5000),
}
"""What can be understood and not be used: the link stays."""


@dataclass
class Scene:
    """The bank with two participants, one of which is hostile."""

    world: World
    bank: InitiatorServer
    lab: ParticipantServer
    shop: ParticipantServer
    hostile: Hostile
    caplog: pytest.LogCaptureFixture

    def told(self, event: str, party: str) -> list[Any]:
        """Return the lines of an event about a party since the last `clear`."""
        return [each for each in self.caplog.records if each.msg == event and getattr(each, "party", "") == party]

    async def all_right(self) -> None:
        """Return when the peer, which is honest again, is linked and both samples have their numbers."""
        self.hostile.edit = honest

        async def linked() -> bool:
            return self.shop.n_links == 1

        await eventually(linked)
        assert await self.world.predicted(self.bank) == RIGHT

    async def relinked(self, edit: Edit) -> None:
        """Have the peer, which is honest otherwise, linked anew."""
        self.caplog.clear()
        self.hostile.edit = edit
        self.cut()

        async def linked() -> bool:
            return bool(self.told("party.linked", "shop"))

        await eventually(linked)

    def cut(self) -> None:
        """End the peer's links, as a network does."""
        for link in tuple(self.shop._links._links):
            link.close("the test cuts it")

    async def asked(self, edit: Edit) -> Prediction:
        """Ask once while the peer sends what it should not."""
        await self.all_right()
        self.caplog.clear()
        self.hostile.edit = edit
        return await self.world.predict(self.bank)


@pytest.fixture(params=[(over, dials) for dials in ("participant", "initiator") for over in OVER], ids="-".join)
async def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Scene]:
    monkeypatch.setattr("fedpredict.initiator.pacing.MAX_HOLD_S", 0.01)
    monkeypatch.setattr("fedpredict.wire.link.Backoff.next_s", lambda _: 0.02)
    caplog.set_level("INFO", "fedpredict")
    caplog.set_level("DEBUG", "fedpredict.initiator.linking")  # at once, what is told of after some seconds
    over, dials = request.param
    world, hostile = World(tmp_path, certificates), Hostile(monkeypatch)
    async with world.stack:
        lab = await world.participant()
        listens = {"link_listen": "127.0.0.1:0"} if over == "socket" else {}
        if dials == "initiator":
            shop = await world.participant("shop", **listens)
            parties: dict[str, dict[str, object]] = {"lab": {"address": lab.address}, "shop": {"address": shop.address}}
            bank = await world.initiator(parties, deadline_s=1.0)
        else:
            parties = {"lab": {"address": lab.address}, "shop": {"connect": "in"}}
            bank = await world.initiator(parties, deadline_s=1.0, **listens)
            places = {"addresses": [bank.address], "link_addresses": [bank.link_address] if listens else []}
            shop = await world.participant("shop", connect="out", initiators={"bank": places})
        yield Scene(world, bank, lab, shop, hostile, caplog)


def wrong(prediction: Prediction) -> str:
    """Say what is wrong with numbers that were given while a peer was hostile; nothing where all is right."""
    for number, status, right in zip(prediction.predictions[:, 0], prediction.status, RIGHT, strict=True):
        if status == SampleStatus.OK and number != right:
            return f"{number} for {right}"
        if status != SampleStatus.OK and not np.isnan(number):
            return f"{number} for what is {SampleStatus(int(status)).name}"
    return ""


async def test_what_a_hostile_participant_answers_is_never_a_number_and_other_links_go_on(scene: Scene) -> None:
    is_socket = scene.shop.link_address != "" or scene.bank.link_address != ""
    cases = {**ENDS, **(RAW if is_socket else {}), **REFUSED}
    found = []
    for what, edit in cases.items():
        prediction = await scene.asked(edit)
        ended = bool(scene.told("party.unlinked", "shop"))
        if wrong(prediction) or SampleStatus.OK in prediction.status:
            found.append(f"{what}: {wrong(prediction) or 'was taken'}")
        if ended is (what in REFUSED):
            found.append(f"{what}: the link {'ended' if ended else 'stays'}")
        if scene.told("party.unlinked", "lab") or scene.lab.n_links != 1:
            found.append(f"{what}: the laboratory lost its link")
        found += [f"{what}: {each.msg} {each.exc_info}" for each in scene.caplog.records if each.levelname == "ERROR"]
        longest = max(len(str(vars(each))) for each in scene.caplog.records)
        if longest > 20_000:
            found.append(f"{what}: a line of {longest} characters in the log")

    await scene.all_right()
    assert found == []


async def test_an_answer_that_comes_twice_counts_once_and_ends_the_link(scene: Scene) -> None:
    prediction = await scene.asked(instead(lambda frame: [frame.SerializeToString()] * 2))

    assert wrong(prediction) == ""

    async def ended() -> bool:
        return bool(scene.told("party.unlinked", "shop"))

    await eventually(ended)
    assert scene.told("party.unlinked", "lab") == []
    await scene.all_right()


async def test_a_participant_that_takes_questions_and_says_nothing_is_named_in_time(scene: Scene) -> None:
    prediction = await scene.asked(instead(lambda _: []))

    assert set(prediction.status.tolist()) == {SampleStatus.PARTY_UNAVAILABLE}
    assert np.isnan(prediction.predictions).all()
    assert scene.told("party.unlinked", "lab") == []
    await scene.all_right()


def describes(**fields: Any) -> Edit:
    """Set fields of every description."""

    def edit(frame: link_pb2.Frame) -> Sequence[bytes]:
        if frame.HasField("described"):
            for name, value in fields.items():
                if isinstance(value, list):
                    getattr(frame.described, name).extend(value)
                else:
                    setattr(frame.described, name, value)
        return honest(frame)

    return edit


DESCRIBED: Mapping[str, Edit] = {
    "of another party": describes(party="lab"),
    "of another model": describes(model_id="other"),
    "of a model that is none": describes(model_id="../m"),
    "for another request": describes(request_id="other"),
    "with a digest that is none": describes(params_sha256=b"x"),
    "of a run without end": describes(training_run="x" * 2**20),
    "with classes without end": describes(classes=["x"] * 100_000),
    "of a kind that is none": describes(kind=99),
    "of a link that is none": describes(link="x" * 1000),
    "of scores without end": describes(n_scores=2**32 - 1),
}


async def test_a_description_that_cannot_be_changes_nothing_of_what_is_served(scene: Scene) -> None:
    await scene.all_right()
    found = []
    for what, edit in DESCRIBED.items():
        scene.caplog.clear()
        scene.hostile.edit = edit

        async def told(enough: int = scene.hostile.n_sent["described"] + 3) -> bool:
            return scene.hostile.n_sent["described"] >= enough

        await eventually(told)
        if (numbers := await scene.world.predicted(scene.bank)) != RIGHT:
            found.append(f"{what}: {numbers}")
        if scene.told("party.unlinked", "shop") or scene.told("party.unlinked", "lab"):
            found.append(f"{what}: a link ended")
        found += [f"{what}: {each.msg} {each.exc_info}" for each in scene.caplog.records if each.levelname == "ERROR"]

    assert found == []


class Hellos:
    """Replies to hellos, changed on their way; the first one is kept, to be shown again."""

    def __init__(self, change: Callable[[participant_pb2.HelloReply, participant_pb2.HelloReply], object]) -> None:
        self._change = change
        self._first: participant_pb2.HelloReply | None = None

    def keep(self, frame: link_pb2.Frame) -> Sequence[bytes]:
        if frame.HasField("hello_reply"):
            self._first = frame.hello_reply
        return honest(frame)

    def change(self, frame: link_pb2.Frame) -> Sequence[bytes]:
        if frame.HasField("hello_reply"):
            assert self._first is not None
            self._change(frame.hello_reply, self._first)
        return honest(frame)


def says(**fields: Any) -> Callable[[participant_pb2.HelloReply, participant_pb2.HelloReply], object]:
    def change(reply: participant_pb2.HelloReply, _: participant_pb2.HelloReply) -> None:
        for name, value in fields.items():
            setattr(reply, name, value)

    return change


def proves_as_before(reply: participant_pb2.HelloReply, first: participant_pb2.HelloReply) -> None:
    """Repeat the proof of another hello, which signs another nonce."""
    reply.certificate_chain, reply.signature = first.certificate_chain, first.signature


HELLOS: Mapping[str, tuple[Callable[[participant_pb2.HelloReply, participant_pb2.HelloReply], object], str]] = {
    "another party": (says(party="lab"), "party 'lab' answers"),
    "a party without end": (says(party="x" * 2**20), "party 'xxx"),
    "the proof of an earlier hello": (proves_as_before, "signature"),
    "no proof": (says(certificate_chain=b"", signature=b""), "certificate"),
    "a chain that is none": (says(certificate_chain=b"\xff" * 1000), "certificate"),
    "another protocol": (says(protocol_version=99), "protocol version 99"),
    "no protocol": (says(protocol_version=0), "protocol version 0"),
    "a worker that is none": (says(worker=1, workers=1), "worker 1 of 1"),
    "workers without end": (says(worker=0, workers=2**32 - 1), "worker 0 of 4294967295"),
    "a port that is none": (says(link_port=70_000), "port 70000"),
}


async def test_a_link_whose_hello_proves_nothing_or_cannot_be_is_not_used(scene: Scene) -> None:
    await scene.all_right()  # else the first link may be the one that is told of below, and its hello is not kept
    found = []
    for what, (change, reason) in HELLOS.items():
        hellos = Hellos(change)
        await scene.relinked(hellos.keep)
        scene.caplog.clear()
        scene.hostile.edit = hellos.change
        scene.cut()

        async def refused(reason: str = reason) -> bool:
            lines = [str(vars(each)) for each in scene.caplog.records]
            return any(reason in line for line in lines)

        try:
            await eventually(refused)
        except TimeoutError:
            found.append(f"{what}: nothing says {reason!r}")
        if scene.told("party.linked", "shop"):
            found.append(f"{what}: it was linked")
        found += [f"{what}: {each.msg} {each.exc_info}" for each in scene.caplog.records if each.levelname == "ERROR"]
        if (longest := max(len(str(vars(each))) for each in scene.caplog.records)) > 20_000:
            found.append(f"{what}: a line of {longest} characters in the log")
        if scene.told("party.unlinked", "lab"):
            found.append(f"{what}: the laboratory lost its link")

    await scene.all_right()
    assert found == []


@dataclass
class Hand:
    """A link that a participant dialled, with a test in the initiator's place."""

    send: Callable[[bytes], Awaitable[object]]
    receive: Callable[[], Awaitable[bytes | None]]
    nonce: bytes = b""
    """By which the participant asks whom it reached, over gRPC."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, frame: link_pb2.Frame | bytes) -> None:
        await self.send(frame if isinstance(frame, bytes) else frame.SerializeToString())

    async def hear(self) -> link_pb2.Frame | None:
        """Return what the participant says next; None where it ended the link."""
        async with asyncio.timeout(30):
            data = await self.receive()
        return None if data is None else link_pb2.Frame.FromString(data)

    async def ask(self, frame: link_pb2.Frame) -> str:
        """Return the kind of the answer to a call; empty where the link ended."""
        await self.say(frame)
        answer = await self.hear()
        return "" if answer is None else answer.WhichOneof("body") or ""


@dataclass
class ByHand:
    """An initiator that takes the links of participants, and has a test say what it says."""

    party: str
    certificates: Certificates
    dialled: asyncio.Queue[Hand] = field(default_factory=asyncio.Queue)
    n_open: int = 0
    most_open: int = 0

    @property
    def live(self) -> LiveTls:
        return LiveTls(self.certificates.of(self.party), serves=True)

    async def listen(self, over: str, stack: AsyncExitStack) -> dict[str, object]:
        """Listen, and return what a participant's settings say of it."""
        if over == "socket":
            context = self.live.listening_context()
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            return {"addresses": ["127.0.0.1:1"], "link_addresses": [f"127.0.0.1:{port}"]}
        grpc_server = grpc.aio.server(options=server_options())
        methods = {"Attach": handlers.stream(self._attach)}
        grpc_server.add_generic_rpc_handlers((handlers.service("fedpredict.wire.v1.InitiatorService", methods),))
        port = grpc_server.add_secure_port("127.0.0.1:0", self.live.server_credentials())
        await grpc_server.start()
        stack.push_async_callback(grpc_server.stop, None)
        return {"addresses": [f"127.0.0.1:{port}"]}

    async def greeted(self, link: Hand | None = None, **changes: Any) -> Hand:
        """Return the next link, or `link`, after a hello that was taken."""
        hand = await asyncio.wait_for(self.dialled.get(), 30) if link is None else link
        assert await hand.ask(self.hello(hand.nonce, **changes)) == "hello_reply"
        return hand

    def hello(self, asked: bytes = b"", **changes: Any) -> link_pb2.Frame:
        request = participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32, instance="1", workers=1)
        if asked:
            request.certificate_chain, request.signature = self.live.prove(ATTACH, self.party, "lab", nonce=asked)
        for name, value in changes.items():
            setattr(request, name, value)
        return link_pb2.Frame(id=1, hello=request)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data if isinstance(data, Raw) else struct.pack(">I", len(data)) + data)

        async def receive() -> bytes | None:
            try:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                return await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                hand.over.set()
                return None

        hand = Hand(send, receive)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await reader.readexactly(7) == Preface().to_bytes()
            writer.write(Preface().to_bytes())
            await self._serve(hand)
        writer.close()

    async def _attach(self, context: handlers.Context) -> None:
        async def receive() -> bytes | None:
            data = await context.read()
            if isinstance(data, bytes):
                return data
            hand.over.set()
            return None

        asked = [value for key, value in context.invocation_metadata() or () if key == NONCE_METADATA]
        hand = Hand(context.write, receive, next((each for each in asked if isinstance(each, bytes)), b""))
        await self._serve(hand)

    async def _serve(self, hand: Hand) -> None:
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        self.dialled.put_nowait(hand)
        try:
            await hand.over.wait()
        finally:
            self.n_open -= 1


@dataclass
class Answering:
    """A laboratory that dialled a hostile bank and an honest insurer."""

    world: World
    lab: ParticipantServer
    bank: ByHand
    insurer: Hand
    version: Any

    def question(self, number: int = 2) -> link_pb2.Frame:
        return link_pb2.Frame(id=number, score=score(self))  # type: ignore[arg-type]

    async def serves_others(self) -> bool:
        return await self.insurer.ask(self.question()) == "scored"


@pytest.fixture(params=OVER)
async def answering(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Answering]:
    monkeypatch.setattr("fedpredict.wire.link.Backoff.next_s", lambda _: 0.02)
    certificates = Changing(tmp_path / "certificates")
    world = World(tmp_path, certificates)
    async with world.stack:
        bank, insurer = ByHand("bank", certificates), ByHand("insurer", certificates)
        places = {each.party: await each.listen(request.param, world.stack) for each in (bank, insurer)}
        rules = {"bank": {"models": ["*"]}, "insurer": {"models": ["m"]}}
        lab = await world.participant(connect="out", initiators=places, callers=rules, drain_s=0.1)
        version = lab.loader.state.current["m"].description
        yield Answering(world, lab, bank, await insurer.greeted(), version)


def asks(number: int = 9, **body: Any) -> bytes:
    return link_pb2.Frame(id=number, **body).SerializeToString()


def behind_lengths(*frames: bytes) -> Raw:
    return Raw(b"".join(struct.pack(">I", len(each)) + each for each in frames))


_DESCRIBE = participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r-1", model_id="m")
NO_QUESTIONS: Mapping[str, bytes] = {
    "bytes that are no frame": b"\xff\xff\xff",
    "an unknown body": asks() + UNKNOWN_BODY,
    "no body": asks(),
    "an answer": asks(scored=participant_pb2.ScoreReply()),
    "an answer to a hello": asks(hello_reply=participant_pb2.HelloReply()),
    "a failure": asks(failure=common_pb2.Failure(code=5)),
    "a drain": asks(0, drain=link_pb2.Drain()),
    "a call of number 0": asks(0, describe=_DESCRIBE),
    "a length of 2 GB": Raw(struct.pack(">I", 2**31 - 1) + b"x"),
    "a length of 4 GB": Raw(b"\xff\xff\xff\xffx"),
    "a length just above the limit": Raw(struct.pack(">I", MAX_MESSAGE_BYTES + 1)),
    "a compressed frame that was not agreed": Raw(struct.pack(">I", 1 << 31 | 3) + b"abc"),
    "two calls of one number": behind_lengths(asks(describe=_DESCRIBE), asks(describe=_DESCRIBE)),
}


async def test_a_hostile_initiator_that_was_dialled_loses_its_link_and_others_are_answered(
    answering: Answering,
) -> None:
    found = []
    for what, data in NO_QUESTIONS.items():
        hand = await answering.bank.greeted()
        if isinstance(data, Raw) and hand.nonce:
            answering.bank.dialled.put_nowait(hand)  # a stream has no lengths of ours
            continue
        assert await hand.ask(answering.question()) == "scored"
        await hand.say(data)
        if (answer := await hand.hear()) is not None:
            found.append(f"{what}: answered with {answer.WhichOneof('body')}")
        if not await answering.serves_others():
            found.append(f"{what}: the insurer lost its link")

    assert found == []


async def test_half_a_frame_and_then_nothing_ends_the_link(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = await answering.bank.greeted()
    if hand.nonce:
        await hand.say(b"")  # the shortest frame there is, which names no call
    else:
        looks = answering.lab._links._silences
        monkeypatch.setattr(looks, "_every_s", 0.2)
        looks.stop()
        looks.watch()
        await hand.say(Raw(struct.pack(">I", 100) + b"half"))

    assert await hand.hear() is None


async def test_who_was_dialled_says_who_it_is_before_it_asks(answering: Answering) -> None:
    """Over gRPC its certificate was verified, and is only shown, and held to the lists, with its hello."""
    for frame in (answering.question(), link_pb2.Frame(id=2, describe=_DESCRIBE), asks(2, cancel=link_pb2.Cancel())):
        hand = await asyncio.wait_for(answering.bank.dialled.get(), 30)
        await hand.say(frame)
        assert await hand.hear() is None
        assert await answering.serves_others()
    hand = await answering.bank.greeted()
    assert await hand.ask(answering.question()) == "scored"


async def test_who_was_dialled_and_says_nothing_is_left(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.participant.attach.HANDSHAKE_S", 0.2)
    hand = await answering.bank.greeted()
    await hand.say(b"\xff\xff\xff")

    silent = await asyncio.wait_for(answering.bank.dialled.get(), 30)

    assert await silent.hear() is None
    assert await answering.serves_others()


@pytest.mark.parametrize("answering", ["grpc"], indirect=True)  # over a socket the certificate itself is seen
async def test_a_proof_of_an_earlier_link_or_of_another_party_proves_nothing(answering: Answering) -> None:
    hand = await asyncio.wait_for(answering.bank.dialled.get(), 30)
    replayed = answering.bank.hello(hand.nonce)
    await hand.say(b"\xff\xff\xff")
    others = ByHand("insurer", answering.bank.certificates)
    for hello_of in (lambda _: replayed, others.hello, lambda _: answering.bank.hello()):
        hand = await asyncio.wait_for(answering.bank.dialled.get(), 30)
        await hand.say(hello_of(hand.nonce))
        with contextlib.suppress(Exception):  # it may have ended already
            await hand.say(answering.question())
        while (answer := await hand.hear()) is not None:
            assert answer.WhichOneof("body") == "failure"
    assert await answering.serves_others()
    await answering.bank.greeted()


async def test_who_was_dialled_gets_only_so_many_links_whatever_it_asks_for(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.wire.link.MAX_LINKS", 5)
    bank = answering.bank
    hand = await bank.greeted(workers=2**32 - 1)

    async def full() -> bool:
        # each says that it is the same worker of 256, so that the others are looked for, and wishes for another link
        while not bank.dialled.empty():
            await bank.greeted(workers=2**32 - 1)
        await bank.greeted(hand, workers=2**32 - 1, wants_offline_link=True)
        return bank.n_open >= 5

    await eventually(full)
    for _ in range(50):
        await bank.greeted(hand, wants_offline_link=True)

    # one more may be on its way when one is dialled for each kind of calls at once
    assert bank.most_open <= 6
    assert answering.lab.n_links == 1 + bank.n_open
    assert await answering.serves_others()


async def test_a_peer_has_only_so_many_links_and_others_are_served(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemons = Daemons(tmp_path, certificates)
    async with daemons.stack:
        await daemons.start()
        bank = await daemons.initiator({"shop": {"connect": "in"}}, link_listen="127.0.0.1:0")
        monkeypatch.setattr("fedpredict.wire.link.MAX_LINKS", 3)
        for address, server, peer, other in (
            (daemons.lab.link_address, "lab", "bank", "insurer"),
            (bank.link_address, "bank", "shop", ""),
        ):
            taken = [await preface_of(daemons, address, server, peer) for _ in range(5)]
            assert [said for said, _ in taken] == [Preface().to_bytes()] * 3 + [b""] * 2
            if other:
                assert (await preface_of(daemons, address, server, other))[0] == Preface().to_bytes()
            taken[0][1].close()

            async def taken_again(address: str = address, server: str = server, peer: str = peer) -> bool:
                return (await preface_of(daemons, address, server, peer))[0] != b""

            await eventually(taken_again)
        async with daemons.channel("lab") as channel:
            stream = channel.stream_stream("/fedpredict.wire.v1.ParticipantService/ScoreStream", None, None)()  # type: ignore[call-arg]
            assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def preface_of(daemons: Daemons, address: str, server: str, peer: str) -> tuple[bytes, asyncio.StreamWriter]:
    """Dial a port for links; return what it says, nothing where it closes, and what closes the connection."""
    host, _, port = address.rpartition(":")
    context = LiveTls(daemons.certificates.of(peer)).dialling_context()
    name = f"{server}.party.fedpredict"
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    daemons.stack.callback(writer.close)
    writer.write(Preface().to_bytes())
    async with asyncio.timeout(30):
        return await reader.read(7), writer


async def test_a_port_for_links_that_is_none_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    world = World(tmp_path, certificates)
    async with world.stack:
        lab = await world.participant()
        lab._answers.link_port = 70_000
        remote = await world.remote(lab.address)
        with pytest.raises(PartyRefusedError, match="port 70000, which is none"):
            await remote.hello(deadline_s=20.0)

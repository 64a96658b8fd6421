"""A thief with a party's old key, which the others deny, and a certificate of the federation, passes hellos on.

It stands where the party is looked for, and has the party itself sign what it is asked to prove. It must get nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fedpredict.errors import PartyRefusedError, PartyUnavailableError
from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.initiator.unary import UnaryParty
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.security import certs, live, meeting
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.meeting import Sight
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options, server_options
from fedpredict.wire.link import SCORE_STREAM
from fedpredict.wire.socket_carrier import Preface
from fedpredict.wire.v1 import link_pb2, participant_pb2
from tests.contract.link_rig import Balancer
from tests.integration.daemons import World
from tests.integration.federation import ANSWERS_IN_S, ScriptedParty, describe, eventually
from tests.integration.test_certificate_changes import BANK, LAB, Changing, serves

PARTICIPANT = "fedpredict.wire.v1.ParticipantService"
INITIATOR = "fedpredict.wire.v1.InitiatorService"
ANOTHER_CALLER = "the hello of party {}: the signature does not fit this message"
ANOTHER_CERTIFICATE = "its hello proves another certificate than the connection's"
DENIED = "its key is denied here"
QUESTION = ScoreQuery(
    request_id="r-1",
    model_id="m",
    manifest_sha256="5c" * 32,
    params_sha256="5d" * 32,
    mode=Mode.NEARLINE,
    sample_ids=[b"u1"],
)


pytestmark = pytest.mark.usefixtures("looking_often")


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


@pytest.fixture
async def balancer(world: World) -> Balancer:
    balancer = Balancer()
    await balancer.start()
    world.stack.push_async_callback(balancer.stop)
    return balancer


def steal(certificates: Changing, whose: Identity, folder: Path, denied_at: str = "") -> TlsFiles:
    """Return a party's certificate and key, which it has replaced since, and which another party may deny."""
    files = certificates.of(whose.name)
    folder.mkdir()
    ca, certificate, key = (Path(shutil.copy(each, folder)) for each in (files.ca, files.certificate, files.key))
    stolen = TlsFiles(ca, certificate, key)
    certificates.renew(whose)
    if denied_at:
        certificates.deny(denied_at, stolen)
    return stolen


@dataclass
class Thief:
    """A server with a stolen key, which passes hellos on to the laboratory and keeps what it is asked."""

    stolen: TlsFiles
    lab: str
    """Where the real one is."""
    asks_with: TlsFiles
    n_hellos: int = 0
    asked: list[bytes] = field(default_factory=list)

    async def start(self, world: World) -> None:
        credentials, options = channel_credentials(self.asks_with), channel_options(server_name("lab"))
        channel = grpc.aio.secure_channel(self.lab, credentials, options)
        world.stack.push_async_callback(channel.close, None)
        self._pass_on: Any = channel.unary_unary(f"/{PARTICIPANT}/Hello", None, None)
        methods = {
            "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
            "Score": grpc.unary_unary_rpc_method_handler(self._score),
            "ScoreStream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self.address = await served(world, self.stolen, PARTICIPANT, methods)
        context = LiveTls(self.stolen).listening_context()
        listener = await asyncio.start_server(self._socket, "127.0.0.1", 0, ssl=context)
        world.stack.callback(listener.close)
        self.link_port: int = listener.sockets[0].getsockname()[1]

    async def _hello(self, data: bytes, _context: Any) -> bytes:
        self.n_hellos += 1
        reply = participant_pb2.HelloReply.FromString(await self._pass_on(data, timeout=ANSWERS_IN_S))
        del reply.capabilities[:]  # what it promises is not signed
        reply.capabilities.append(SCORE_STREAM)
        reply.link_port = 0
        return reply.SerializeToString()

    async def _score(self, data: bytes, context: Any) -> bytes:
        self.asked.append(participant_pb2.ScoreRequest.FromString(data).sample_ids.data)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")
        return b""

    async def _stream(self, frames: Any, _context: Any) -> AsyncIterator[bytes]:
        async for data in frames:
            answer = await self.answer(data)
            if answer:
                yield answer

    async def _socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(len(Preface().to_bytes()))
            writer.write(Preface().to_bytes())
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                answer = await self.answer(await reader.readexactly(length))
                writer.write(struct.pack(">I", len(answer)) + answer if answer else b"")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def answer(self, data: bytes) -> bytes:
        frame = link_pb2.Frame.FromString(data)
        if frame.HasField("hello"):
            reply = participant_pb2.HelloReply.FromString(await self._hello(frame.hello.SerializeToString(), None))
            return link_pb2.Frame(id=frame.id, hello_reply=reply).SerializeToString()
        if frame.HasField("score"):
            self.asked.append(frame.score.sample_ids.data)
        return b""


async def served(
    world: World, tls: TlsFiles, service: str, methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
) -> str:
    """Serve methods until the test ends; return the address."""
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_secure_port("127.0.0.1:0", LiveTls(tls, serves=True).server_credentials())
    await server.start()
    world.stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


async def is_so(what: Callable[[], bool]) -> None:
    async def so() -> bool:
        return what()

    await eventually(so)


def reasons(caplog: pytest.LogCaptureFixture, event: str) -> str:
    return "\n".join(str(vars(record)["reason"]) for record in caplog.records if record.message == event)


async def becomes_linked(remote: RemoteParty, carrier: str) -> None:
    await is_so(lambda: remote.pool.carriers == {carrier: 1})


async def test_a_hello_that_was_passed_on_brings_no_question(
    world: World, certificates: Changing, tmp_path: Path
) -> None:
    stolen = steal(certificates, LAB, tmp_path / "stolen", denied_at="bank")
    lab = await world.participant()
    thief = Thief(stolen, lab.address, certificates.of("shop"))
    await thief.start(world)
    remote = await world.remote(thief.address)

    with pytest.raises(PartyRefusedError, match=ANOTHER_CALLER.format("lab")):
        await remote.hello(deadline_s=ANSWERS_IN_S)
    with pytest.raises(PartyRefusedError, match=ANOTHER_CALLER.format("lab")):
        await remote.score(QUESTION, deadline_s=ANSWERS_IN_S)

    assert thief.n_hellos >= 2
    assert thief.asked == []
    assert remote.carriers == {}
    honest = await world.remote(lab.address)
    await honest.hello(deadline_s=ANSWERS_IN_S)


@pytest.mark.parametrize("case", [("bank", DENIED), ("", ANOTHER_CALLER.format("lab"))])
async def test_a_stream_whose_hello_was_passed_on_is_no_link(
    case: tuple[str, str], world: World, certificates: Changing, balancer: Balancer, caplog: pytest.LogCaptureFixture
) -> None:
    denied_at, because = case
    caplog.set_level("DEBUG", "fedpredict")
    stolen = steal(certificates, LAB, world.folder / "stolen", denied_at)
    lab = await world.participant()
    thief = Thief(stolen, lab.address, certificates.of("shop"))
    await thief.start(world)
    balancer.targets = [lab.address, lab.address, *[thief.address] * 1000]  # the first two are those of unary calls
    remote = await world.remote(balancer.address)

    await is_so(lambda: because in reasons(caplog, "party.not_linked"))

    assert (thief.n_hellos > 0) == (not denied_at)
    assert thief.asked == []
    assert remote.pool.carriers == {}
    balancer.targets = [lab.address]
    await becomes_linked(remote, "grpc")


FROM_THE_FIRST, FROM_THE_SECOND = 0, 1
"""The connection from which on all lead to the thief: with the second, the certificate looked at is not the thief's."""


@pytest.mark.parametrize("begins", [FROM_THE_FIRST, FROM_THE_SECOND])
@pytest.mark.parametrize("denied_at", ["bank", ""])
async def test_a_stream_leads_to_nobody_else_though_the_thief_has_the_callers_key_as_well(
    begins: int, denied_at: str, world: World, certificates: Changing, balancer: Balancer
) -> None:
    """The party signs for the right caller then; on a socket it would be the certificate that gives the thief away."""
    stolen = steal(certificates, LAB, world.folder / "stolen", denied_at)
    lab = await world.participant()
    thief = Thief(stolen, lab.address, certificates.of("bank"))
    await thief.start(world)
    balancer.targets = [*[lab.address] * (2 + begins), *[thief.address] * 1000]  # two are those of unary calls
    remote = await world.remote(balancer.address)

    await is_so(lambda: balancer.n_led >= 8 or remote.pool.carriers != {})

    assert remote.pool.carriers == {}
    assert thief.asked == []
    balancer.targets = [lab.address]
    await becomes_linked(remote, "grpc")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(("shop", "bank", DENIED), id="denied"),
        pytest.param(("shop", "", ANOTHER_CALLER.format("lab")), id="not denied"),
        pytest.param(("bank", "bank", DENIED), id="denied, with the caller's key as well"),
        pytest.param(
            ("bank", "", "its hello proves another certificate than the connection's"), id="with the caller's key"
        ),
    ],
)
async def test_a_socket_whose_hello_was_passed_on_is_no_link(
    case: tuple[str, str, str], world: World, certificates: Changing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a socket the bank sees the certificate: it is held to the lists, and to what the hello proves."""
    asks_as, denied_at, because = case
    caplog.set_level("INFO", "fedpredict")
    stolen = steal(certificates, LAB, tmp_path / "stolen", denied_at)
    lab = await world.participant()
    thief = Thief(stolen, lab.address, certificates.of(asks_as))
    await thief.start(world)
    lab._answers.link_port = thief.link_port
    remote = await world.remote(lab.address)

    await becomes_linked(remote, "grpc")

    assert because in reasons(caplog, "party.no_socket")
    assert (thief.n_hellos > 0) == (not denied_at)
    assert thief.asked == []


def unary_calls(world: World, address: str, tls: live.LiveTls) -> UnaryParty:
    """Return the bank's way to ask the laboratory without links."""
    remote = Dialler("bank", tls).dial("lab", address)
    world.stack.push_async_callback(remote.close)
    assert remote._unary is not None
    return remote._unary


async def is_described(unary: UnaryParty) -> bool:
    with suppress(PartyUnavailableError):
        return (await unary.describe("m", ANSWERS_IN_S)).party == "lab"
    return False


async def test_a_connection_that_is_made_anew_leads_to_nobody_who_proved_nothing(
    world: World, certificates: Changing, balancer: Balancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel connects again by itself: calls that are on their way by then must not reach the thief."""
    stolen = steal(certificates, LAB, tmp_path / "stolen", denied_at="bank")
    lab = await world.participant()
    thief = Thief(stolen, lab.address, certificates.of("shop"))
    await thief.start(world)
    balancer.targets = [lab.address]
    unary = unary_calls(world, balancer.address, live.LiveTls(certificates.of("bank")))
    assert await is_described(unary)
    balancer.targets = [thief.address]
    balancer.cut()
    await is_so(lambda: not unary.is_met)
    n_led = balancer.n_led

    with monkeypatch.context() as patched:
        patched.setattr(UnaryParty, "_is_ready", True)  # as for a call that looked just before
        with pytest.raises(PartyUnavailableError):
            await unary.score(QUESTION, ANSWERS_IN_S)

    assert balancer.n_led > n_led
    assert thief.asked == []
    balancer.targets = [lab.address]
    await eventually(partial(is_described, unary))


async def test_a_party_that_changed_its_certificate_is_met_again_on_calls_without_links(
    world: World, certificates: Changing, balancer: Balancer
) -> None:
    lab = await world.participant()
    balancer.targets = [lab.address]
    tls = live.LiveTls(certificates.of("bank"))
    unary = unary_calls(world, balancer.address, tls)
    assert await is_described(unary)

    # the connection goes on with the old certificate, and a new one takes the new one
    old = certs.describe(certificates.of("lab").certificate).key_fingerprint
    await serves(lab.address, certificates, "lab", certificates.renew(LAB), "h2")
    await unary.describe("m", ANSWERS_IN_S)
    balancer.cut()
    await is_so(lambda: not unary.is_met)
    await unary.describe("m", ANSWERS_IN_S)
    assert tls.files.deny is not None
    tls.files.deny.write_text(old)
    tls.look()
    n_led = balancer.n_led
    await unary.describe("m", ANSWERS_IN_S)
    assert balancer.n_led > n_led  # the channel that took the old certificate is not used any more

    # here the connection itself is one of a certificate that is refused
    old = certs.describe(certificates.of("lab").certificate).key_fingerprint
    await serves(lab.address, certificates, "lab", certificates.renew(LAB), "h2")
    tls.files.deny.write_text(old)
    tls.look()
    n_led = balancer.n_led
    await unary.describe("m", ANSWERS_IN_S)
    assert balancer.n_led > n_led


async def test_machines_of_a_party_with_certificates_of_their_own_are_all_met(
    world: World, certificates: Changing, balancer: Balancer, tmp_path: Path
) -> None:
    for files in (steal(certificates, LAB, tmp_path / "first"), certificates.of("lab")):
        machine = ScriptedParty("lab", files, {"m": describe("lab")}, {}, np.array([[1.0]]))
        await machine.start()
        world.stack.push_async_callback(machine.stop)
        balancer.targets.append(machine.address)
    unary = unary_calls(world, balancer.address, live.LiveTls(certificates.of("bank")))
    for _ in range(3):
        await eventually(partial(is_described, unary))
        balancer.cut()
        await is_so(lambda: not unary.is_met)


async def test_streams_reach_machines_of_a_party_with_certificates_of_their_own(
    world: World, certificates: Changing, balancer: Balancer
) -> None:
    """They take turns: without more, each connection leads to another one than the look before it saw."""
    for files in (steal(certificates, LAB, world.folder / "first"), certificates.of("lab")):
        machine = ScriptedParty("lab", files, {"m": describe("lab")}, {}, np.array([[1.0]]))
        await machine.start()
        world.stack.push_async_callback(machine.stop)
        balancer.targets.append(machine.address)
    tls = live.LiveTls(certificates.of("bank"))
    sight = Sight(balancer.address, "lab", tls)

    async def leads_to_what_was_seen() -> bool:
        pin = await sight.pin(ANSWERS_IN_S)
        is_same = await Sight(balancer.address, "lab", tls).pin(ANSWERS_IN_S) == pin
        if not is_same:
            sight.failed()
        return is_same

    for _ in range(3):
        await eventually(leads_to_what_was_seen)


async def test_what_was_seen_and_is_refused_since_is_looked_for_at_once(
    world: World, certificates: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FRESH_S", 1e6)
    lab = await world.participant()
    tls = live.LiveTls(certificates.of("bank"))
    sight = Sight(lab.address, "lab", tls)
    first = await sight.pin(ANSWERS_IN_S)
    old = certs.describe(certificates.of("lab").certificate).key_fingerprint
    await serves(lab.address, certificates, "lab", certificates.renew(LAB), "h2")
    assert await sight.pin(ANSWERS_IN_S) == first

    assert tls.files.deny is not None
    tls.files.deny.write_text(old)
    tls.look()

    assert await sight.pin(ANSWERS_IN_S) != first


async def test_who_attached_with_another_certificate_than_its_hello_proves_is_no_link(
    world: World, certificates: Changing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with the caller's key as well, so that the party signs for the right one."""
    caplog.set_level("INFO", "fedpredict")
    stolen = steal(certificates, LAB, tmp_path / "stolen")
    lab = await world.participant()
    bank = await world.initiator({"lab": {"connect": "in"}})
    thief = Thief(stolen, lab.address, certificates.of("bank"))
    await thief.start(world)
    options = channel_options(server_name("bank"))
    async with grpc.aio.secure_channel(bank.address, channel_credentials(stolen), options) as channel:
        # the stubs know calls with an iterator of requests only
        call: Any = channel.stream_stream(f"/{INITIATOR}/Attach", None, None)()  # type: ignore[call-arg]
        await call.write(await thief.answer(await call.read()))
        await is_so(lambda: ANOTHER_CERTIFICATE in reasons(caplog, "link.refused"))
    assert "party.linked" not in caplog.messages


@dataclass
class FalseInitiator:
    """A server with the bank's old key, which passes the real one's hello on to those that dial it."""

    stolen: TlsFiles
    bank: str
    """Where the real one is."""
    attaches_with: TlsFiles
    got: list[link_pb2.Frame] = field(default_factory=list)
    n_links: int = 0

    async def start(self, world: World) -> None:
        credentials, options = channel_credentials(self.attaches_with), channel_options(server_name("bank"))
        self._channel = grpc.aio.secure_channel(self.bank, credentials, options)
        world.stack.push_async_callback(self._channel.close, None)
        methods = {"Attach": grpc.stream_stream_rpc_method_handler(self._attach)}
        self.address = await served(world, self.stolen, INITIATOR, methods)
        context = LiveTls(self.stolen).listening_context()
        listener = await asyncio.start_server(self._socket, "127.0.0.1", 0, ssl=context)
        world.stack.callback(listener.close)
        self.link_address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def _attach(self, frames: Any, context: Any) -> AsyncIterator[bytes]:
        nonce = [(key, value) for key, value in context.invocation_metadata() if key == "fedpredict-nonce-bin"]
        assert nonce
        # the stubs know calls with an iterator of requests only
        call: Any = self._channel.stream_stream(f"/{INITIATOR}/Attach", None, None)(metadata=nonce)  # type: ignore[call-arg]
        yield await call.read()
        async for data in frames:
            self.got.append(link_pb2.Frame.FromString(data))
        call.cancel()

    async def _socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_links += 1
        request = participant_pb2.HelloRequest(protocol_version=codec.PROTOCOL_VERSION, nonce=b"n" * 32, workers=1)
        frame = link_pb2.Frame(id=1, hello=request).SerializeToString()
        try:
            await reader.readexactly(len(Preface().to_bytes()))
            writer.write(Preface().to_bytes() + struct.pack(">I", len(frame)) + frame)
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            self.got.append(link_pb2.Frame.FromString(await reader.readexactly(length)))
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()


@pytest.mark.parametrize("case", [("lab", DENIED), ("", ANOTHER_CALLER.format("bank"))])
async def test_a_false_initiator_that_passes_a_hello_on_gets_no_proof_and_no_link(
    case: tuple[str, str], world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    denied_at, because = case
    caplog.set_level("INFO", "fedpredict")
    stolen = steal(certificates, BANK, world.folder / "stolen", denied_at)
    bank = await world.initiator({"lab": {"connect": "in"}, "shop": {"connect": "in"}})
    thief = FalseInitiator(stolen, bank.address, certificates.of("shop"))
    await thief.start(world)
    places = {"addresses": [thief.address]}
    if denied_at:  # on a socket there is nothing to pass on: its key is the initiator's as long as nobody denies it
        places["link_addresses"] = [thief.link_address]

    lab = await world.participant(connect="out", initiators={"bank": places})

    await is_so(lambda: because in reasons(caplog, "initiator.away"))
    assert (DENIED in reasons(caplog, "attach.no_socket")) == bool(denied_at)
    assert "participant.attached" not in caplog.messages
    assert lab.n_links == 0
    assert (thief.n_links > 0) == bool(denied_at)
    assert [frame.WhichOneof("body") for frame in thief.got if frame.WhichOneof("body") != "failure"] == []


@pytest.mark.parametrize("case", [(begins, at) for begins in (FROM_THE_FIRST, FROM_THE_SECOND) for at in ("lab", "")])
async def test_a_false_initiator_with_the_participants_key_as_well_gets_no_link(
    case: tuple[int, str], world: World, certificates: Changing, balancer: Balancer, caplog: pytest.LogCaptureFixture
) -> None:
    """The initiator signs for the right participant then, whose new link leads to the thief all the same."""
    begins, denied_at = case
    caplog.set_level("INFO", "fedpredict")
    stolen = steal(certificates, BANK, world.folder / "stolen", denied_at)
    bank = await world.initiator({"lab": {"connect": "in"}})
    thief = FalseInitiator(stolen, bank.address, certificates.of("lab"))
    await thief.start(world)
    balancer.targets = [*[bank.address] * begins, *[thief.address] * 1000]

    lab = await world.participant(connect="out", initiators={"bank": {"addresses": [balancer.address]}})
    await is_so(lambda: balancer.n_led >= 6 or "participant.attached" in caplog.messages)

    assert "participant.attached" not in caplog.messages
    assert [frame.WhichOneof("body") for frame in thief.got if frame.WhichOneof("body") != "failure"] == []
    balancer.targets = [bank.address]
    await is_so(lambda: "participant.attached" in caplog.messages)
    assert lab.n_links == 1


async def test_a_hello_signed_for_nobody_is_refused(world: World, certificates: Changing) -> None:
    """The words of before, which named no caller, count for nobody."""
    lab = await world.participant()
    remote = await world.remote(lab.address)
    await remote.hello(deadline_s=ANSWERS_IN_S)
    signer = live.LiveTls(certificates.of("lab"))
    request = remote.who.hello()
    chain, signature = signer.prove("fedpredict-hello-1", "lab", nonce=request.nonce)
    reply = participant_pb2.HelloReply(
        protocol_version=codec.PROTOCOL_VERSION, party="lab", workers=1, certificate_chain=chain, signature=signature
    )
    with pytest.raises(PartyRefusedError, match=ANOTHER_CALLER.format("lab")):
        remote.who.check(request, reply)

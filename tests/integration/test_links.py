"""Standing links of real servers: who may dial whom, what breaks them, and what remains when they cannot be had."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import uvloop

from fedpredict.errors import ConfigError, PartyRefusedError
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire.channel import MAX_MESSAGE_BYTES, channel_options
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.socket_carrier import MAGIC, Preface, SocketCarrier, dial_socket, listen_sockets
from fedpredict.wire.v1 import link_pb2
from scripts.freeports import free_ports
from tests.contract.link_rig import Balancer
from tests.integration.daemons import World
from tests.integration.federation import Certificates, eventually

PREFACE = Preface().to_bytes()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> TlsFiles:
    """A bank, says an authority that nobody trusts; it trusts the right one."""
    folder = tmp_path_factory.mktemp("stranger")
    issued = certs.issue(certs.create_ca(folder, "other"), Identity(IdentityKind.PARTY, "bank"), folder)
    return TlsFiles(certificates.of("bank").ca, issued.certificate, issued.key)


async def holds(remote: RemoteParty, carriers: dict[str, int]) -> None:
    async def so() -> bool:
        return remote.pool.carriers == carriers

    await eventually(so)


async def test_daemons_link_whoever_dials(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    bank = await world.initiator(
        {"lab": {"address": lab.address}, "shop": {"connect": "in"}}, link_listen="127.0.0.1:0"
    )
    places = {"addresses": [bank.address], "link_addresses": [bank.link_address]}
    shop = await world.participant("shop", connect="out", initiators={"bank": places})

    assert await world.predicted(bank) == [-8.0, -16.0]

    async def linked() -> bool:
        return (lab.n_links, shop.n_links) == (1, 1)

    await eventually(linked)


async def test_over_grpc_alone_a_participant_can_dial_as_well(world: World) -> None:
    bank = await world.initiator({"shop": {"connect": "in"}})
    await world.participant("shop", connect="out", initiators={"bank": {"addresses": [bank.address]}})
    assert await world.predicted(bank) == [-10.0, -20.0]


@pytest.mark.parametrize("over", ["socket", "grpc"])
async def test_a_request_still_arriving_at_a_stop_finds_the_links_that_participants_dialled(
    world: World, over: str
) -> None:
    listens = {"link_listen": "127.0.0.1:0"} if over == "socket" else {}
    bank = await world.initiator({"shop": {"connect": "in"}}, http_listen="127.0.0.1:0", http_insecure=True, **listens)
    places = {"addresses": [bank.address], "link_addresses": [bank.link_address] if over == "socket" else []}
    await world.participant("shop", connect="out", initiators={"bank": places})
    assert await world.predicted(bank) == [-10.0, -20.0]
    assert bank.http_address is not None
    host, _, port = bank.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"model":"m","sample_ids":["u1"]}'
    head = f"host: bank\r\nx-fedpredict-client: desk\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"POST /v1/predict HTTP/1.1\r\n{head}\r\n\r\n".encode() + body[:5])
    await writer.drain()
    await asyncio.sleep(0.1)

    stopping = asyncio.ensure_future(bank.stop())
    await asyncio.sleep(0.2)
    writer.write(body[5:])
    async with asyncio.timeout(20):
        answer = await reader.read()
        await stopping
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"predictions":[[-10.0]]' in answer


async def test_a_participant_that_dials_opens_no_port_for_scoring(world: World) -> None:
    bank = await world.initiator({"lab": {"connect": "in"}})
    lab = await world.participant(connect="out", initiators={"bank": {"addresses": [bank.address]}})
    remote = await world.remote(lab.address)
    with pytest.raises(PartyRefusedError, match="UNIMPLEMENTED"):
        await remote.hello(deadline_s=5.0)


async def test_a_party_that_is_not_expected_may_not_attach(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedpredict")
    bank = await world.initiator({"lab": {"connect": "in"}}, link_listen="127.0.0.1:0")
    places = {"addresses": [bank.address], "link_addresses": [bank.link_address]}
    await world.participant("shop", connect="out", initiators={"bank": places})

    async def refused() -> bool:
        reasons = [str(getattr(record, "reason", "")) for record in caplog.records]
        return sum("party shop attaches, but is not under [parties]" in reason for reason in reasons) >= 2

    await eventually(refused)
    assert "participant.attached" not in caplog.messages
    assert "party.linked" not in caplog.messages


async def test_the_newest_link_of_a_party_is_used_and_the_old_one_closed(world: World) -> None:
    bank = await world.initiator({"shop": {"connect": "in"}}, link_listen="127.0.0.1:0")
    places = {"addresses": [bank.address], "link_addresses": [bank.link_address]}
    context = LiveTls(world.certificates.of("shop")).dialling_context()
    host, _, port = bank.link_address.rpartition(":")
    # what a machine that lost its network leaves behind: a link on which nobody answers
    dead_reader, dead = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("bank"))
    dead.write(PREFACE)
    shop = await world.participant("shop", connect="out", initiators={"bank": places})

    assert await world.predicted(bank) == [-10.0, -20.0]

    assert shop.n_links == 1
    dead.close()
    await dead_reader.read()


async def test_a_blocked_port_leaves_the_stream(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    lab._answers.link_port = free_ports(1)[0]
    remote = await world.remote(lab.address)
    await holds(remote, {"grpc": 1})


async def test_an_initiator_that_proves_nothing_is_refused_by_whoever_dialled_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nobody is on a list."""
    caplog.set_level("INFO", "fedpredict")
    bank = await world.initiator({"lab": {"connect": "in"}})
    assert bank.tls is not None
    monkeypatch.setattr(type(bank.tls), "prove", lambda *_, **__: (b"", b""))
    await world.participant(connect="out", initiators={"bank": {"addresses": [bank.address]}})

    async def refused() -> bool:
        return any("shows no certificate" in str(getattr(record, "reason", "")) for record in caplog.records)

    await eventually(refused)
    assert "participant.attached" not in caplog.messages


async def test_a_better_carrier_is_taken_when_it_can_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.initiator.linking.RECHECK_S", 0.2)
    lab = await world.participant(link_listen="127.0.0.1:0")
    port, lab._answers.link_port = lab._answers.link_port, free_ports(1)[0]
    remote = await world.remote(lab.address)
    await holds(remote, {"grpc": 1})

    lab._answers.link_port = port

    await holds(remote, {"socket": 1})


async def test_a_taken_link_port_is_an_error_that_names_it(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    with pytest.raises(ConfigError, match=f"link_listen: {lab.link_address} cannot be bound"):
        await world.participant("shop", link_listen=lab.link_address)
    with pytest.raises(ConfigError, match=f"link_listen: {lab.link_address} cannot be bound"):
        await world.initiator({"shop": {"connect": "in"}}, link_listen=lab.link_address)


async def test_a_stranger_gets_no_link(world: World, stranger: TlsFiles) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(stranger.ca)
    context.load_cert_chain(stranger.certificate, stranger.key)
    assert await said_to(lab, PREFACE, context) == b""
    assert lab.n_links == 0


async def test_a_caller_without_a_certificate_gets_no_link(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.certificates.of("bank").ca)
    assert await said_to(lab, PREFACE, context) == b""
    assert lab.n_links == 0


async def test_a_listener_of_another_party_is_not_believed(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    host, _, port = lab.link_address.rpartition(":")
    context = LiveTls(world.certificates.of("bank")).dialling_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("shop"))


async def test_older_tls_is_refused(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    context = LiveTls(world.certificates.of("bank")).dialling_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await said_to(lab, PREFACE, context) == b""


GARBAGE = {
    "no preface": b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n",
    "an identity too long": struct.pack(">4sBH", MAGIC, 0, 60_000),
    "a frame too long": PREFACE + struct.pack(">I", MAX_MESSAGE_BYTES + 1),
    "bytes that are no frame": PREFACE + struct.pack(">I", 3) + b"\xff\xff\xff",
    "a compressed frame that was not agreed": PREFACE + struct.pack(">I", (1 << 31) | 3) + b"abc",
    "a compressed frame that is none": Preface(compress=True).to_bytes() + struct.pack(">I", (1 << 31) | 3) + b"abc",
    "a frame that no caller sends": PREFACE + struct.pack(">I", 2) + link_pb2.Frame(id=1).SerializeToString(),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_ends_the_link_with_a_line_in_the_log_and_others_are_served(
    world: World, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level("INFO", "fedpredict")
    lab = await world.participant(link_listen="127.0.0.1:0")
    remote = await world.remote(lab.address)
    await holds(remote, {"socket": 1})

    answered = await said_to(lab, data, LiveTls(world.certificates.of("bank")).dialling_context())

    assert answered in {b"", Preface().to_bytes(), Preface(compress=True).to_bytes()}
    assert {"link.refused", "link.closed"} & set(caplog.messages)
    assert (await remote.score(await query(remote), deadline_s=5.0)).share.values.tolist() == [[2.0]]
    assert lab.n_links == 1


async def test_garbage_on_a_stream_ends_it_and_others_are_served(world: World) -> None:
    lab = await world.participant()
    remote = await world.remote(lab.address)
    await holds(remote, {"grpc": 1})
    credentials = channel_credentials(world.certificates.of("bank"))
    async with grpc.aio.secure_channel(
        lab.address, credentials, options=channel_options(server_name("lab"))
    ) as channel:
        call = channel.stream_stream("/fedpredict.wire.v1.ParticipantService/ScoreStream", None, None)()  # type: ignore[call-arg]
        await call.write(b"\xff\xff\xff")
        assert not isinstance(await call.read(), bytes)
    assert (await remote.score(await query(remote), deadline_s=5.0)).share.values.tolist() == [[2.0]]


@pytest.mark.parametrize("data", [b"", MAGIC[:2], PREFACE[:6]], ids=["nothing", "half a word", "half a preface"])
async def test_a_peer_that_falls_silent_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    monkeypatch.setattr("fedpredict.wire.socket_carrier.HANDSHAKE_S", 0.3)
    lab = await world.participant(link_listen="127.0.0.1:0")
    assert await said_to(lab, data, LiveTls(world.certificates.of("bank")).dialling_context()) == b""
    assert lab.n_links == 0


async def test_a_party_whose_machine_vanishes_is_told_of_in_time_given_up_and_asked_again_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedpredict")
    path, link_path = Balancer(), Balancer()
    for each in (path, link_path):
        await each.start()
        world.stack.push_async_callback(each.stop)
    lab = await world.participant(link_listen="127.0.0.1:0")
    path.targets, link_path.targets = [lab.address], [lab.link_address]
    lab._answers.link_port = int(link_path.address.rpartition(":")[2])
    bank = await world.initiator({"lab": {"address": path.address}}, deadline_s=1.0)
    assert await world.predicted(bank) == [2.0, 4.0]
    async with asyncio.timeout(10.0):
        # the first answer may have come by a call of its own, before there was a link
        while not (linked := [record for record in caplog.records if record.message == "party.linked"]):
            await asyncio.sleep(0.01)
    assert getattr(linked[-1], "carrier", "") == "socket"

    for each in (path, link_path):
        each.fall_silent()
    # until it is noticed, while it is away, and with calls that come together
    for n_calls in (1, 20, 1):
        async with asyncio.timeout(10.0):
            told = await asyncio.gather(*(world.predict(bank) for _ in range(n_calls)))
        assert {status for each in told for status in each.status.tolist()} == {SampleStatus.PARTY_UNAVAILABLE}
        assert all(np.isnan(each.predictions).all() for each in told)

    async def is_given_up() -> bool:
        unlinked = [record for record in caplog.records if record.message == "party.unlinked"]
        return any("asked whether it is there" in str(getattr(record, "reason", "")) for record in unlinked)

    await eventually(is_given_up)
    assert set((await world.predict(bank)).status.tolist()) == {SampleStatus.PARTY_UNAVAILABLE}
    for each in (path, link_path):
        each.speak()
    assert await world.predicted(bank) == [2.0, 4.0]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_the_kernel_is_told_to_notice_dead_peers_at_both_ends_of_a_socket(
    certificates: Certificates, loop: Callable[[], asyncio.AbstractEventLoop], tls: bool
) -> None:
    wanted = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 10,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 5,
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 15_000,
    }
    ends: list[SocketCarrier] = []

    def opened(carrier: SocketCarrier) -> LinkCaller:
        ends.append(carrier)
        return LinkCaller("lab", carrier, changed=lambda _: None)

    async def link() -> list[dict[tuple[int, int], int]]:
        listening = LiveTls(certificates.of("lab")).listening_context() if tls else None
        dialling = LiveTls(certificates.of("bank")).dialling_context() if tls else None
        server, address = await listen_sockets("127.0.0.1:0", listening, opened)
        async with server:
            await dial_socket(address, dialling, server_name("lab"), own=Preface(), opened=opened)
            sockets = [each._transport.get_extra_info("socket") for each in ends if each._transport]
            said = [{option: each.getsockopt(*option) for option in wanted} for each in sockets]
            for each in ends:
                each.close("done")
                await each.ended.wait()
        return said

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(link()) == [wanted, wanted]


async def test_grpc_notices_a_dead_peer_by_its_own_and_pings_no_more_than_a_server_allows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.wire.channel.KEEPALIVE_MS", 1_000)
    monkeypatch.setattr("fedpredict.wire.channel.KEEPALIVE_TIMEOUT_MS", 1_000)
    monkeypatch.setattr("fedpredict.initiator.links.QUIET_S", 3600.0)  # no hellos of ours
    path = Balancer()
    await path.start()
    world.stack.push_async_callback(path.stop)
    lab = await world.participant()
    path.targets = [lab.address]
    remote = await world.remote(path.address)
    await holds(remote, {"grpc": 1})
    (link,) = remote.pool._usable
    n_led, n_pumped = path.n_led, path.n_pumped

    async def pinged() -> bool:
        return path.n_pumped >= n_pumped + 40  # from both sides, there and back

    await eventually(pinged)
    # more than two pings without data in between, and none too many
    assert (link.closed_because, path.n_led) == ("", n_led)
    path.fall_silent()

    async def closed() -> bool:
        return "ping timeout" in link.closed_because

    await eventually(closed)
    path.speak()
    await holds(remote, {"grpc": 1})


async def test_a_frame_in_many_pieces_is_a_frame(world: World) -> None:
    lab = await world.participant(link_listen="127.0.0.1:0")
    hello = link_pb2.Frame(id=7)
    hello.hello.protocol_version = 1
    hello.hello.nonce = bytes(32)
    data = hello.SerializeToString()
    host, _, port = lab.link_address.rpartition(":")
    context = LiveTls(world.certificates.of("bank")).dialling_context()
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("lab"))
    for byte in PREFACE + struct.pack(">I", len(data)) + data:
        writer.write(bytes([byte]))
        await writer.drain()

    async with asyncio.timeout(20.0):
        assert await reader.readexactly(len(PREFACE)) == PREFACE
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        reply = link_pb2.Frame.FromString(await reader.readexactly(length))

    assert (reply.id, reply.hello_reply.party) == (7, "lab")
    writer.close()
    await writer.wait_closed()


async def said_to(lab: ParticipantServer, data: bytes, context: ssl.SSLContext) -> bytes:
    """Say something to the link port; return what is answered before it closes."""
    host, _, port = lab.link_address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("lab"))
        writer.write(data)
        async with asyncio.timeout(20.0):
            answered = await reader.read()
    except (ssl.SSLError, ConnectionError):
        return b""
    writer.close()
    return answered


async def query(remote: RemoteParty) -> ScoreQuery:
    part = await remote.describe("m", deadline_s=5.0)
    return ScoreQuery(
        request_id="r-1",
        model_id="m",
        manifest_sha256="5c" * 32,
        params_sha256=part.params_sha256,
        mode=Mode.NEARLINE,
        sample_ids=(b"u1",),
    )

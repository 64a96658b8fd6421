"""Certificates that are renewed, revoked and denied while real daemons serve: nobody restarts anything."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from typing_extensions import override

from fedpredict.cli.exits import ExitCode
from fedpredict.cli.main import run
from fedpredict.client import AsyncClient
from fedpredict.errors import CertificateRefusedError, ConfigError, PartyRefusedError, ServerUnavailableError
from fedpredict.initiator import links
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.share import SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.security import certs, crls, live, trouble
from fedpredict.security.certs import CaFiles
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire.channel import STREAM_METADATA, channel_options
from fedpredict.wire.v1 import participant_pb2
from tests.integration.daemons import SHARE, World
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation, ScriptedParty, describe, eventually

BOTH = [SHARE[sample_id]["lab"] for sample_id in ("u1", "u2")]
LAB, BANK = (Identity(IdentityKind.PARTY, name) for name in ("lab", "bank"))


class Changing(Certificates):
    """Certificates that a test renews and refuses; every party has its own list of denied keys, and the CA's list."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ca: CaFiles = self._ca
        self.crl = folder / "ca.crl"
        crls.revoke(self.ca, [], kept=self.crl)

    @override
    def of(self, name: str, kind: IdentityKind = IdentityKind.PARTY) -> TlsFiles:
        files = super().of(name, kind)
        if kind is not IdentityKind.PARTY:
            return files
        denied = files.ca.with_name("denied.txt")
        if not denied.exists():
            denied.write_text("")
        return replace(files, deny=denied, crl=self.crl)

    def renew(self, who: Identity, days: int = 90) -> str:
        """Put a new key and certificate in the place of the old ones; return its serial number."""
        files = self.of(who.name, who.kind)
        certs.issue(self.ca, who, files.key.parent, days=days, force=True)
        return serial_of(files)

    def deny(self, at: str, *refused: TlsFiles) -> None:
        """Have a party refuse exactly these keys."""
        keys = [certs.describe(files.certificate).key_fingerprint for files in refused]
        denied = self.of(at).deny
        assert denied is not None
        denied.write_text("\n".join(keys))


def serial_of(files: TlsFiles) -> str:
    return f"{x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number:X}"


@pytest.fixture(autouse=True)
def settling_soon(looking_often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "BRIDGE_S", 0.5)
    monkeypatch.setattr(trouble, "FIRST_S", 0.05)
    monkeypatch.setattr(trouble, "EVERY_S", 0.5)


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


def served_serial(address: str, files: TlsFiles, party: str, protocol: str) -> str:
    """Return the serial number of the certificate at a port, as OpenSSL reads it; empty where the handshake fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    if protocol:
        context.set_alpn_protocols([protocol])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), ANSWERS_IN_S) as connection,
        context.wrap_socket(connection, server_hostname=server_name(party)) as tls,
    ):
        certificate = tls.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"]).lstrip("0")


async def serves(address: str, certificates: Changing, party: str, serial: str, protocol: str = "") -> None:
    """Return when a port shows that certificate."""
    files = certificates.of("shop")

    async def so() -> bool:
        return await asyncio.to_thread(served_serial, address, files, party, protocol) == serial

    await eventually(so)


async def is_so(what: Callable[[], bool]) -> None:
    async def so() -> bool:
        return what()

    await eventually(so)


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == event]


async def linked(world: World, **changes: object) -> tuple[ParticipantServer, InitiatorServer]:
    lab = await world.participant(link_listen="127.0.0.1:0")
    bank = await world.initiator({"lab": {"address": lab.address}}, **changes)
    assert await world.predicted(bank) == BOTH
    await is_so(lambda: lab.n_links > 0)
    return lab, bank


async def test_no_call_fails_while_both_sides_change_their_certificates(world: World, certificates: Changing) -> None:
    lab, bank = await linked(world, http_listen="127.0.0.1:0")
    stop, answered = asyncio.Event(), 0
    tls = certificates.of("desk", IdentityKind.CLIENT)

    async def ask() -> None:
        nonlocal answered
        while not stop.is_set():
            # a new client is a new connection, so that handshakes are made all the time
            async with AsyncClient(bank.address, server_party="bank", tls=tls) as client:
                for _ in range(3):
                    prediction = await client.predict("m", ["u1", "u2"], timeout_s=ANSWERS_IN_S)
                    assert prediction.values[:, 0].tolist() == BOTH
                    answered += 1

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    for _ in range(2):
        serial = certificates.renew(LAB)
        await serves(lab.address, certificates, "lab", serial, "h2")
        await serves(lab.link_address, certificates, "lab", serial)
        serial = certificates.renew(BANK)
        await serves(bank.address, certificates, "bank", serial, "h2")
        assert bank.http_address is not None
        await serves(bank.http_address, certificates, "bank", serial, "http/1.1")
        wanted = answered + 6
        while answered < wanted and not any(each.done() for each in asking):
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*asking)
    # what is dialled from here on is greeted with the new certificates on both sides
    remote = await world.remote(lab.address)
    await remote.hello(deadline_s=ANSWERS_IN_S)


async def test_no_call_fails_when_the_certificate_that_a_link_began_with_ends(
    world: World, certificates: Changing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = timedelta()
    monkeypatch.setattr(live, "_utc_now", lambda: datetime.now(UTC) + ahead)
    monkeypatch.setattr(live, "_SWEEP", timedelta())
    monkeypatch.setattr(links, "BRIDGE_S", ANSWERS_IN_S)
    before = certificates.renew(BANK, days=10)
    lab, bank = await linked(world)
    stop, answered = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal answered
        while not stop.is_set():
            assert (await world.predict(bank)).predictions[:, 0].tolist() == BOTH
            answered += 1

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    after = certificates.renew(BANK)
    await is_so(lambda: told_serial(bank) == after)
    ahead = timedelta(days=11)
    await is_so(lambda: any(each["serial"] == before for each in told(caplog, "certificate.refused")))
    wanted = answered + 6
    while answered < wanted and not any(each.done() for each in asking):
        await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*asking)
    assert lab.n_links > 0
    assert {each["serial"] for each in told(caplog, "certificate.refused")} == {before}


@pytest.mark.parametrize("over", ["socket", "grpc"])
async def test_an_initiator_that_is_denied_loses_its_links_and_gets_no_answer(
    over: str, world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    lab = await world.participant(**({"link_listen": "127.0.0.1:0"} if over == "socket" else {}))
    bank = await world.initiator({"lab": {"address": lab.address}})
    assert await world.predicted(bank) == BOTH
    await is_so(lambda: lab.n_links > 0)

    certificates.deny("lab", certificates.of("bank"))
    await is_so(lambda: lab.n_links == 0)
    prediction = await world.predict(bank)
    assert prediction.status.tolist() != [SampleStatus.OK] * 2
    remote = await world.remote(lab.address)
    with pytest.raises(PartyRefusedError, match="UNAUTHENTICATED: the certificate is not accepted"):
        await remote.hello(deadline_s=ANSWERS_IN_S)
    assert lab.n_links == 0
    assert remote.carriers == {}
    refused = told(caplog, "certificate.refused")[0]
    assert refused["serial"] == serial_of(certificates.of("bank"))
    assert refused["subject"] == "CN=bank,O=fedpredict party"
    await is_so(lambda: bool(told(caplog, "party.unreachable")))
    assert "UNAUTHENTICATED: the certificate is not accepted" in told(caplog, "party.unreachable")[0]["reason"]

    certificates.deny("lab")
    assert await world.predicted(bank) == BOTH


async def test_a_party_that_is_denied_gets_no_question(
    world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    lab, bank = await linked(world)
    certificates.deny("bank", certificates.of("lab"))
    await is_so(lambda: lab.n_links == 0)
    await becomes_unscored(world, bank)
    await is_so(lambda: bool(told(caplog, "party.unreachable")))
    assert "its key is denied here" in told(caplog, "party.unreachable")[0]["reason"]
    # a new key is another matter
    certificates.renew(LAB)
    assert await world.predicted(bank) == BOTH


async def becomes_unscored(world: World, bank: InitiatorServer) -> None:
    async def so() -> bool:
        return bool((await world.predict(bank)).status.tolist() != [SampleStatus.OK] * 2)

    await eventually(so)


@pytest.mark.parametrize("over", ["socket", "grpc"])
@pytest.mark.parametrize("who", ["lab", "bank"])
async def test_where_the_participant_dials_either_side_refuses_the_other(
    who: str, over: str, world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    """Over gRPC the one that dials sees no certificate: the initiator proves its own in its hello."""
    listens = {"link_listen": "127.0.0.1:0"} if over == "socket" else {}
    bank = await world.initiator({"lab": {"connect": "in"}}, **listens)
    places = {"addresses": [bank.address], "link_addresses": [bank.link_address] if over == "socket" else []}
    lab = await world.participant(connect="out", initiators={"bank": places})
    assert await world.predicted(bank) == BOTH

    other = "bank" if who == "lab" else "lab"
    certificates.deny(who, certificates.of(other))
    await is_so(lambda: lab.n_links == 0)
    await becomes_unscored(world, bank)
    await is_so(lambda: bool(told(caplog, "certificate.refused")))
    assert {each["subject"] for each in told(caplog, "certificate.refused")} == {f"CN={other},O=fedpredict party"}

    certificates.deny(who)
    assert await world.predicted(bank) == BOTH


async def test_an_initiator_that_proves_nothing_is_refused_where_there_are_lists(
    world: World, certificates: Changing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one of an older release; and one that proves another's certificate."""
    bank = await world.initiator({"lab": {"connect": "in"}})
    assert bank.tls is not None
    proof = (b"", b"")
    monkeypatch.setattr(type(bank.tls), "prove", lambda *_, **__: proof)
    await world.participant(connect="out", initiators={"bank": {"addresses": [bank.address]}})
    await is_so(lambda: any("shows no certificate" in each["reason"] for each in told(caplog, "initiator.away")))
    proof = (certificates.of("shop").certificate.read_bytes(), b"x")
    await is_so(lambda: any("bank.party.fedpredict" in each["reason"] for each in told(caplog, "initiator.away")))
    assert "party.linked" not in caplog.messages
    with pytest.raises(grpc.aio.AioRpcError, match="the model is not ready"):
        await world.predict(bank)


async def stream_of(bank: InitiatorServer, files: TlsFiles) -> tuple[grpc.aio.Channel, Any]:
    """Open a PredictStream."""
    options = channel_options(server_name("bank"))
    channel = grpc.aio.secure_channel(bank.address, channel_credentials(files), options=options)
    call: Any = channel.stream_stream("/fedpredict.wire.v1.InitiatorService/PredictStream", None, None)()  # type: ignore[call-arg]
    assert STREAM_METADATA in tuple(await call.initial_metadata())
    return channel, call


async def test_a_stream_whose_caller_is_refused_as_it_begins_ends_at_once(
    world: World, certificates: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as where a list is taken between the look at the caller and the stream's first turn."""

    def refused(end: live.Standing, _shown: bytes) -> None:
        end.close("it was denied meanwhile")

    bank = await world.initiator({"lab": {"connect": "in"}})
    monkeypatch.setattr(bank.tls, "hold", refused)
    channel, stream = await stream_of(bank, certificates.of("desk", IdentityKind.CLIENT))
    async with channel:
        async with asyncio.timeout(ANSWERS_IN_S):
            assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED


async def http_connection(bank: InitiatorServer, files: TlsFiles) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert bank.http_address is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = bank.http_address.rpartition(":")
    return await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("bank"))


async def get_models(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /v1/models/m HTTP/1.1\r\nhost: bank\r\n\r\n")
    return await answer_on(reader)


async def answer_on(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(ANSWERS_IN_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head + await reader.readexactly(length)


async def test_a_client_that_is_revoked_is_refused_on_every_edge_at_once(world: World, certificates: Changing) -> None:
    _, bank = await linked(world, http_listen="127.0.0.1:0")
    files = certificates.of("desk", IdentityKind.CLIENT)
    channel, stream = await stream_of(bank, files)
    reader, writer = await http_connection(bank, files)
    assert (await get_models(reader, writer)).startswith(b"HTTP/1.1 200 ")
    async with channel, AsyncClient(bank.address, server_party="bank", tls=files) as client:
        await client.predict("m", ["u1"], timeout_s=ANSWERS_IN_S)

        crls.revoke(certificates.ca, [files.certificate], kept=certificates.crl)

        async with asyncio.timeout(ANSWERS_IN_S):
            with suppress(grpc.aio.AioRpcError):
                await stream.read()
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(CertificateRefusedError, match="it ended, or was revoked or denied"):
            await client.predict("m", ["u1"], timeout_s=ANSWERS_IN_S)
    refusal = await answer_on(reader)
    assert refusal.startswith(b"HTTP/1.1 401 ")
    assert b"certificate_refused" in refusal
    writer.close()
    again_reader, again_writer = await http_connection(bank, files)
    assert (await answer_on(again_reader)).startswith(b"HTTP/1.1 401 ")
    again_writer.close()
    # openssl reads the same list
    check = ["openssl", "verify", "-crl_check", "-CAfile", str(files.ca), "-CRLfile", str(certificates.crl)]
    done = subprocess.run([*check, str(files.certificate)], capture_output=True, text=True, check=False)
    assert "certificate revoked" in done.stderr


async def test_a_bad_set_of_files_changes_nothing(
    world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    lab, bank = await linked(world)
    files = certificates.of("lab")
    before = serial_of(files)
    files.key.write_bytes(certificates.of("shop").key.read_bytes())
    await is_so(lambda: bool(told(caplog, "tls.certificate_not_taken")))
    await serves(lab.address, certificates, "lab", before, "h2")
    await serves(lab.link_address, certificates, "lab", before)
    await asyncio.sleep(0.5)
    assert len(told(caplog, "tls.certificate_not_taken")) == 1
    assert str(files.key) in told(caplog, "tls.certificate_not_taken")[0]["reason"]
    assert await world.predicted(bank) == BOTH


REFUSALS = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING", "ConnectionResetError"}
"""What a server does with a version that it does not speak: an alert, which may be lost, and hanging up."""


def shake(address: str, files: TlsFiles, version: ssl.TLSVersion, party: str, protocol: str) -> str:
    """Return the version that a handshake of exactly this one has, or the server's alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else our own side would not even ask for TLS 1.1
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    if protocol:
        context.set_alpn_protocols([protocol])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), ANSWERS_IN_S) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=server_name(party)) as tls:
                return str(tls.version())
        except OSError as error:
            return str(getattr(error, "reason", None) or type(error).__name__)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_no_port_speaks_tls_1_1_and_links_speak_1_3_alone(world: World, certificates: Changing) -> None:
    bank = await world.initiator({"shop": {"connect": "in"}}, link_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    lab = await world.participant(link_listen="127.0.0.1:0")
    files = certificates.of("shop")
    assert bank.http_address is not None
    for address, party, protocol, speaks_1_2 in (
        (lab.address, "lab", "h2", True),
        (lab.link_address, "lab", "", False),
        (bank.address, "bank", "h2", True),
        (bank.link_address, "bank", "", False),
        (bank.http_address, "bank", "http/1.1", True),
    ):
        versions = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        got = [await asyncio.to_thread(shake, address, files, each, party, protocol) for each in versions]
        assert got[0] in REFUSALS, (address, party)
        assert got[1] == "TLSv1.2" if speaks_1_2 else got[1] in REFUSALS, (address, party)
        assert got[2] == "TLSv1.3", (address, party)


async def test_a_link_that_cannot_be_made_is_explained_in_the_log(
    world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that leads to another party, on both sides that dial."""
    shop = await world.participant("shop")
    bank = await world.initiator({"lab": {"address": shop.address}})
    await is_so(lambda: bool(told(caplog, "party.unreachable")))
    (line,) = told(caplog, "party.unreachable")
    assert line["reason"] == f"{shop.address} is not lab.party.fedpredict: it has the certificate of party shop"
    assert line["fix"]
    await world.participant("lab", connect="out", initiators={"bank": {"addresses": [shop.address]}})
    await is_so(lambda: bool(told(caplog, "initiator.unreachable")))
    assert "is not bank.party.fedpredict" in told(caplog, "initiator.unreachable")[0]["reason"]
    await asyncio.sleep(1.5)
    assert len(told(caplog, "party.unreachable")) == 1  # the same is not said again
    assert bank.address


class Noting(ScriptedParty):
    """A party without standing links, which notes who asks by which certificate."""

    @override
    async def _score(self, request: participant_pb2.ScoreRequest, context: Any) -> participant_pb2.ScoreReply:
        shown = x509.load_pem_x509_certificate(next(iter(context.auth_context()["x509_pem_cert"])))
        SHOWN.append(f"{shown.serial_number:X}")
        return await super()._score(request, context)


SHOWN: list[str] = []


async def test_calls_without_links_end_on_the_old_connection_and_begin_on_one_with_the_new_certificate(
    tmp_path: Path, certificates: Changing
) -> None:
    SHOWN.clear()
    async with Federation(tmp_path, certificates) as federation:
        files, held = certificates.of("lab"), asyncio.Event()
        lab = Noting("lab", files, {"m": describe("lab")}, {b"u1": [2.0]}, np.array([[1.0]]))
        await lab.start()
        federation.stack.push_async_callback(lab.stop)
        federation.parties["lab"] = lab.address
        bank = await federation.initiator({"m": {"parties": ["lab"]}})
        await federation.ready()
        before = serial_of(certificates.of("bank"))
        lab.held = held
        first = asyncio.create_task(federation.predict(b"u1"))
        await lab.scoring.wait()

        after = certificates.renew(BANK)
        await is_so(lambda: told_serial(bank) == after)
        second = asyncio.create_task(federation.predict(b"u1"))
        await is_so(lambda: len(SHOWN) == 2)
        held.set()

        for prediction in (await first, await second):
            assert prediction.predictions.tolist() == [[2.0]]
        assert [before, after] == SHOWN


def told_serial(bank: InitiatorServer) -> str:
    """Return the serial number of what an initiator proves now."""
    assert bank.tls is not None
    return f"{bank.tls.material.chain[0].serial_number:X}"


async def test_a_client_s_log_says_why_its_server_cannot_be_reached(
    world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    bank = await world.initiator({"lab": {"connect": "in"}})
    tls = certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(bank.address, server_party="shop", tls=tls) as client:
        with pytest.raises(ServerUnavailableError):
            await client.models(timeout_s=ANSWERS_IN_S)
    await is_so(lambda: bool(told(caplog, "server.unreachable")))
    reason = told(caplog, "server.unreachable")[0]["reason"]
    assert reason == f"{bank.address} is not shop.party.fedpredict: it has the certificate of party bank"


async def test_a_command_says_why_its_server_cannot_be_reached(
    world: World, certificates: Changing, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = await world.initiator({"lab": {"connect": "in"}})
    tls = certificates.of("desk", IdentityKind.CLIENT)
    words = ["models", "--server", bank.address, "--server-party", "shop"]
    words += ["--ca", str(tls.ca), "--cert", str(tls.certificate), "--key", str(tls.key)]
    assert await asyncio.to_thread(run, words) == ExitCode.UNAVAILABLE
    said = " ".join(capsys.readouterr().err.split())
    assert f"{bank.address} is not shop.party.fedpredict: it has the certificate of party bank" in said


async def test_a_client_has_no_lists_as_they_would_do_nothing(certificates: Changing) -> None:
    with pytest.raises(ConfigError, match="these lists would do nothing"):
        AsyncClient("127.0.0.1:1", server_party="bank", tls=certificates.of("shop"))

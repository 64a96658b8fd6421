"""What bad certificates get: a stranger's, an expired one, another party's; held by callers and by servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedpredict.client import AsyncClient
from fedpredict.errors import CertificateError, ConfigError, ModelNotFoundError, ServerUnavailableError
from fedpredict.model.share import SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import codec, handlers
from fedpredict.wire.channel import channel_options, server_options
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import participant_pb2
from tests.integration.federation import ANSWERS_IN_S, POLL_S, Certificates, Federation, ScriptedParty

AWAY = SampleStatus.PARTY_UNAVAILABLE
LONG_AGO = datetime.now(UTC) - timedelta(days=60)
MODEL = {"m": {"parties": ["lab", "shop"]}}


class Authorities(Certificates):
    """The federation's authority, and how to get certificates that it would not stand for today."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # old enough to have signed what expired since
        self._ca = certs.create_ca(folder / "old", "test CA", now=LONG_AGO)
        self._other = certs.create_ca(folder / "other", "another CA")
        self._made = 0

    def bad(self, what: str, name: str, kind: IdentityKind = IdentityKind.PARTY) -> TlsFiles:
        """Return files in that name that are "expired", of a "stranger", or really "another"'s.

        The authority in them is the federation's: their holder trusts the others, and is not trusted.
        """
        self._made += 1
        folder, good = self._folder / f"bad-{self._made}", self.of(name, kind)
        if what == "another":
            return self.of("mallory", kind)
        if what == "expired":
            return certs.issue(self._ca, Identity(kind, name), folder, days=10, now=LONG_AGO)
        made = certs.issue(self._other, Identity(kind, name), folder)
        return TlsFiles(good.ca, made.certificate, made.key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def federation(tmp_path: Path, certificates: Authorities) -> AsyncIterator[Federation]:
    async with Federation(tmp_path, certificates) as federation:
        yield federation


@pytest.fixture
async def parties(federation: Federation) -> tuple[ScriptedParty, ScriptedParty]:
    """Two parties whose shares of u1 are 1 and 10."""
    one = np.array([[1.0]])
    return await federation.party("lab", {b"u1": [1.0]}, one), await federation.party("shop", {b"u1": [10.0]}, one)


def careless(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a caller that does not check its own files, as ours does."""
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes())


@dataclass
class Impostor:
    """A server that does not check its own files, and notes what it is asked."""

    files: TlsFiles
    address: str = "127.0.0.1:0"
    asked: list[bytes] = field(default_factory=list)

    async def _note(self, data: bytes, _context: object) -> bytes:
        self.asked.append(data)
        return b""

    async def start(self, federation: Federation) -> None:
        """Listen until the end of the test."""
        server = grpc.aio.server(options=server_options())
        noted = grpc.unary_unary_rpc_method_handler(self._note)
        for service, methods in (
            ("ParticipantService", ("Hello", "DescribeModel", "Score")),
            ("InitiatorService", ("Predict", "ListModels")),
        ):
            of_service = handlers.service(f"fedpredict.wire.v1.{service}", dict.fromkeys(methods, noted))
            server.add_generic_rpc_handlers((of_service,))
        pair = (self.files.key.read_bytes(), self.files.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], self.files.ca.read_bytes(), require_client_auth=True)
        self.address = f"127.0.0.1:{server.add_secure_port(self.address, credentials)}"
        await server.start()
        federation.stack.push_async_callback(server.stop, None)


async def hello(address: str, credentials: grpc.ChannelCredentials) -> str:
    """Ask party lab who it is; raises the error of our tree."""
    options = channel_options(server_name("lab"))
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        request = participant_pb2.HelloRequest(protocol_version=codec.PROTOCOL_VERSION, nonce=bytes(32))
        call = channel.unary_unary("/fedpredict.wire.v1.ParticipantService/Hello", None, None)
        try:
            reply = await call(request.SerializeToString(), timeout=ANSWERS_IN_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return str(participant_pb2.HelloReply.FromString(reply).party)


def lab_settings(folder: Path) -> ParticipantSettings:
    return ParticipantSettings.model_validate(
        {
            "party": "lab",
            "listen": "127.0.0.1:0",
            "poll_s": POLL_S,
            "tls": {"ca": "ca.pem", "certificate": "lab.pem", "key": "lab.key"},
            "warehouse": {"path": str(folder)},
            "callers": {"bank": {"models": ["*"]}},
        }
    )


@pytest.mark.parametrize("what", ["expired", "stranger"])
async def test_a_participant_talks_to_no_initiator_with_a_bad_certificate(
    what: str, tmp_path: Path, certificates: Authorities
) -> None:
    warehouse = LocalWarehouse(tmp_path / "lab")
    async with ParticipantServer(lab_settings(tmp_path), warehouse, certificates.of("lab")) as server:
        with pytest.raises(ServerUnavailableError):
            await hello(server.address, careless(certificates.bad(what, "bank")))
        assert await hello(server.address, channel_credentials(certificates.of("bank"))) == "lab"
    warehouse.close()


@pytest.mark.parametrize("what", ["expired", "stranger"])
async def test_an_initiator_talks_to_no_client_with_a_bad_certificate(
    what: str, federation: Federation, certificates: Authorities, parties: tuple[ScriptedParty, ScriptedParty]
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    files = certificates.bad(what, "desk", IdentityKind.CLIENT)
    options = channel_options(server_name("bank"))
    async with grpc.aio.secure_channel(federation.address, careless(files), options=options) as channel:
        call = channel.unary_unary("/fedpredict.wire.v1.InitiatorService/Predict", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", timeout=ANSWERS_IN_S)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await federation.predict(b"u1")).predictions.tolist() == [[11.0]]


async def test_a_certificate_of_somebody_else_sees_no_model(
    federation: Federation, certificates: Authorities, parties: tuple[ScriptedParty, ScriptedParty]
) -> None:
    """A client that is not listed, and a party that has the name of one that is."""
    await federation.initiator(MODEL)
    await federation.ready()
    for files in (certificates.of("mallory", IdentityKind.CLIENT), certificates.of("desk", IdentityKind.PARTY)):
        async with AsyncClient(federation.address, server_party="bank", tls=files) as client:
            with pytest.raises(ModelNotFoundError, match="no model 'm' for this caller"):
                await client.predict("m", ["u1"], timeout_s=ANSWERS_IN_S)
            with pytest.raises(ModelNotFoundError, match="no model for this caller"):
                await client.models(timeout_s=ANSWERS_IN_S)


@pytest.mark.parametrize(
    ("what", "told"), [("expired", "expired at .*; ask the CA for a new"), ("stranger", "the CA does not vouch for it")]
)
async def test_bad_files_of_ones_own_are_named_before_anything_is_sent(
    what: str, told: str, tmp_path: Path, certificates: Authorities
) -> None:
    files = certificates.bad(what, "lab")
    with pytest.raises(CertificateError, match=told) as raised:
        ParticipantServer(lab_settings(tmp_path), LocalWarehouse(tmp_path), files)
    assert str(files.certificate) in str(raised.value)
    client = certificates.bad(what, "desk", IdentityKind.CLIENT)
    with pytest.raises(CertificateError, match=told):
        AsyncClient("127.0.0.1:1", server_party="bank", tls=client)


async def test_a_daemon_does_not_start_with_another_partys_certificate(
    tmp_path: Path, certificates: Authorities
) -> None:
    with pytest.raises(ConfigError, match=r"tls\.certificate is of party mallory, and party is lab"):
        ParticipantServer(lab_settings(tmp_path), LocalWarehouse(tmp_path), certificates.of("mallory"))


@pytest.mark.parametrize("what", ["expired", "stranger", "another"])
async def test_a_server_with_a_bad_certificate_gets_no_sample_ids_and_its_party_counts_as_away(
    what: str, federation: Federation, certificates: Authorities, parties: tuple[ScriptedParty, ScriptedParty]
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    shop = parties[1]
    await shop.stop()
    impostor = Impostor(certificates.bad(what, "shop"), shop.address)
    await impostor.start(federation)

    prediction = await federation.predict(b"u1")

    assert prediction.status.tolist() == [AWAY]
    assert np.isnan(prediction.predictions).all()
    assert [report.problem for report in prediction.parties] == ["", "party shop is unavailable"]
    assert impostor.asked == []


@pytest.mark.parametrize("what", ["expired", "stranger", "another"])
async def test_a_client_does_not_believe_an_initiator_with_a_bad_certificate(
    what: str, federation: Federation, certificates: Authorities
) -> None:
    impostor = Impostor(certificates.bad(what, "bank"))
    await impostor.start(federation)
    tls = certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(impostor.address, server_party="bank", tls=tls) as client:
        with pytest.raises(ServerUnavailableError, match="do its certificates fit yours"):
            await client.predict("m", ["u1"], timeout_s=ANSWERS_IN_S)
    assert impostor.asked == []

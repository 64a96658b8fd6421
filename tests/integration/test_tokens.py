"""Users with bearer tokens at a real initiator: gRPC and HTTP, with and without certificates, streams that stand."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pydantic import ValidationError

from fedpredict.client import AsyncClient, Mode
from fedpredict.errors import (
    ConfigError,
    FedPredictError,
    ModelNotFoundError,
    NotPermittedError,
    ServerUnavailableError,
    TokenRefusedError,
    UnauthenticatedError,
)
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.security.identity import IdentityKind
from fedpredict.security.tls import TlsFiles, authority_credentials, server_name
from fedpredict.security.tokens import NewToken, TokenFile, Tokens
from fedpredict.wire import task_codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import Certificates, Federation
from tests.integration.http.edge import Reply, Wire, get, post

TABLE = {b"u1": [1.0], b"u2": [2.0]}
QUESTION = {"model": "m", "sample_ids": ["u1"]}
MODELS = {"m": {"parties": ["lab"]}, "n": {"parties": ["lab"]}}
TOLD = "the token is not accepted"


@dataclass
class Bank:
    """An initiator with a port for tokens, and an HTTP edge where certificates are optional."""

    federation: Federation
    server: InitiatorServer
    file: TokenFile
    ca: Path

    def token(self, client: str = "desk", **scope: Any) -> NewToken:
        given: dict[str, Any] = {"models": ("*",), "modes": tuple(Mode), "lasts": timedelta(days=1), "by": "ada"}
        return self.file.create(client, **{**given, **scope})

    def client(self, token: str | None, **options: Any) -> AsyncClient:
        given: dict[str, Any] = {"server_party": "bank", "ca": self.ca, "token": token}
        return AsyncClient(self.server.token_address, **{**given, **options})

    @asynccontextmanager
    async def stream(self, token: str) -> AsyncIterator[Callable[[int], Awaitable[initiator_pb2.PredictAnswer]]]:
        """Open one stream; gives what asks a question on it."""
        options = channel_options(server_name("bank"))
        async with grpc.aio.secure_channel(
            self.server.token_address, authority_credentials(self.ca), options
        ) as channel:
            method = channel.stream_stream("/fedpredict.wire.v1.InitiatorService/PredictStream", None, None)
            call = method(None, metadata=(("authorization", f"Bearer {token}"),))

            async def ask(number: int) -> initiator_pb2.PredictAnswer:
                task = PredictTask(request_id=f"r-{number}", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1"])
                sent = initiator_pb2.PredictCall(id=number, predict=task_codec.task_to_wire(task))
                await call.write(sent.SerializeToString())
                return initiator_pb2.PredictAnswer.FromString(await call.read())  # type: ignore[arg-type]

            yield ask
            await call.done_writing()

    async def ask(self, token: str | None, request: bytes | None = None, tls: TlsFiles | None = None) -> Reply:
        """Ask over HTTPS, with a token and perhaps a certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if tls is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        host, _, port = str(self.server.http_address).rpartition(":")
        opening = asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("bank"))
        headers = () if token is None else (f"Authorization: Bearer {token}",)
        async with Wire(*await opening) as wire:
            return await wire.ask(request or post(QUESTION, "X-Fedpredict-Client: desk", *headers))


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        await federation.party("lab", TABLE, np.array([[2.0]]))
        path = tmp_path / "tokens.json"
        server = await federation.initiator(
            {"m": MODELS["m"]},
            callers=Callers(tokens=Tokens(path)),
            tokens="tokens.json",
            token_listen="127.0.0.1:0",  # noqa: S106  an address
            http_listen="127.0.0.1:0",
            http_client_certificates="optional",
            clients={"desk": {"models": ["m"]}, "shop": {"models": ["m"]}},
        )
        await federation.ready()
        ca = federation.certificates.of("bank").ca
        yield Bank(federation, server, TokenFile(path), ca)


async def refused(asking: Any, kind: type[FedPredictError] = TokenRefusedError) -> str:
    with pytest.raises(kind) as raised:
        await asking
    return str(raised.value)


async def test_a_token_alone_is_enough_over_tls(bank: Bank) -> None:
    token = bank.token()
    async with bank.client(token.text) as client:
        assert (await client.predict("m", ["u1", "u2"])).values.ravel().tolist() == [2.0, 4.0]
        assert [each.model_id for each in await client.models()] == ["m"]
    answer = await bank.ask(token.text)
    assert (answer.status, answer.json["predictions"]) == (200, [[2.0]])
    listed = await bank.ask(None, get("/v2/models/m", f"authorization: bearer {token.text}"))
    assert (listed.status, listed.json["name"]) == (200, "m")


async def test_without_certificate_and_token_nobody_is_believed(bank: Bank) -> None:
    answer = await bank.ask(None)  # though it states a name that is listed
    assert answer.problem == (401, "unauthenticated")
    with pytest.raises(ConfigError, match="ca and a token"):
        bank.client(None)
    # a certificate that nobody asked for proves nothing at the port of tokens
    bank.federation.address = bank.server.token_address
    await refused(bank.federation.predict(b"u1"), UnauthenticatedError)


async def test_tokens_that_are_no_good_get_one_text_at_every_edge(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, revoked, soon = bank.token(), bank.token(), bank.token(lasts=timedelta(milliseconds=1))
    bank.file.revoke(revoked.kept.id, by="eve")
    wrong = good.text[:-4] + ("AAAA" if not good.text.endswith("AAAA") else "BBBB")
    sent = (wrong, revoked.text, soon.text, "x" * 40, f"fedpredict_{'0' * 12}_{'A' * 43}")
    for text in sent:
        answer = await bank.ask(text)
        assert (answer.problem, answer.json["detail"]) == ((401, "token_refused"), TOLD)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        async with bank.client(text) as client:
            assert TOLD in await refused(client.predict("m", ["u1"]))
            assert TOLD in await refused(client.models())
    logged = [str(vars(record)) for record in caplog.records]
    reasons = ("its secret is another", "revoked since", "expired since", "no token of ours", "none of ours")
    for reason in reasons:
        assert any(reason in line for line in logged), reason
    for text in (*sent, good.text):
        assert not any(text[-20:] in line for line in logged)


async def test_a_revoked_token_is_refused_at_once_also_on_a_stream_that_stands(bank: Bank) -> None:
    token, other = bank.token(), bank.token()
    async with bank.client(token.text) as client, bank.client(other.text) as lasting, bank.stream(token.text) as ask:
        assert (await ask(1)).WhichOneof("body") == "reply"
        for each in (client, lasting):
            assert (await each.predict("m", ["u1"])).values[0] == 2.0
        bank.file.revoke(token.kept.id, by="eve")
        assert (await ask(2)).failure.text == TOLD
        assert TOLD in await refused(client.predict("m", ["u1"]))
        assert (await lasting.predict("m", ["u1"])).values[0] == 2.0


async def test_a_token_may_less_than_its_client(bank: Bank) -> None:
    narrow = bank.token(models=("n",))
    nearline = bank.token(modes=(Mode.NEARLINE,))
    async with bank.client(narrow.text) as client:
        await refused(client.predict("m", ["u1"]), ModelNotFoundError)
        assert await client.models() == []
    async with bank.client(nearline.text) as client:
        assert (await client.predict("m", ["u1"])).values[0] == 2.0
        await refused(client.predict("m", ["u1"], mode=Mode.OFFLINE), NotPermittedError)
    stranger = bank.token("nobody")
    async with bank.client(stranger.text) as client:
        await refused(client.predict("m", ["u1"]), ModelNotFoundError)


async def test_a_certificate_and_a_token_must_be_of_one_client(bank: Bank) -> None:
    certificates = bank.federation.certificates
    desk, shop = (certificates.of(name, IdentityKind.CLIENT) for name in ("desk", "shop"))
    token = bank.token("desk")
    assert (await bank.ask(token.text, tls=desk)).status == 200
    assert (await bank.ask(token.text, tls=shop)).problem == (401, "token_refused")
    assert (await bank.ask(None, tls=desk)).status == 200
    address = bank.server.address
    async with AsyncClient(address, server_party="bank", tls=desk, token=token.text) as client:
        assert (await client.predict("m", ["u1"])).values[0] == 2.0
    async with AsyncClient(address, server_party="bank", tls=shop, token=token.text) as client:
        assert TOLD in await refused(client.predict("m", ["u1"]))


async def test_by_default_tokens_are_not_taken_and_certificates_are_needed(tmp_path: Path) -> None:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        await federation.party("lab", TABLE, np.array([[2.0]]))
        server = await federation.initiator({"m": MODELS["m"]}, http_listen="127.0.0.1:0")
        await federation.ready()
        assert server.token_address == ""
        bank = Bank(federation, server, TokenFile(tmp_path / "t.json"), federation.certificates.of("bank").ca)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await bank.ask("x" * 40)
        desk = federation.certificates.of("desk", IdentityKind.CLIENT)
        assert (await bank.ask("x" * 40, tls=desk)).problem == (401, "token_refused")
        async with AsyncClient(server.address, server_party="bank", ca=bank.ca, token=bank.token().text) as client:
            await refused(client.predict("m", ["u1"], timeout_s=3.0), ServerUnavailableError)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"token_listen": "127.0.0.1:0"}, "token_listen is for callers with a token"),
        ({"http_client_certificates": "optional", "http_listen": "127.0.0.1:0"}, 'tokens = "tokens.json"'),
        ({"http_client_certificates": "sometimes"}, "required"),
        ({"token_listen": "127.0.0.1:0", "tokens": "t", "insecure": True, "tls": None}, "at every port"),
    ],
)
def test_settings_that_would_let_in_whoever_comes_are_refused(settings: dict[str, Any], told: str) -> None:
    tls = {"ca": "ca.pem", "certificate": "c.pem", "key": "c.key"}
    with pytest.raises(ValidationError, match=told):
        InitiatorSettings.model_validate({"party": "bank", "tls": tls, **settings})

"""Results and lists on their way when their caller may have them no more: the stream ends, and a line says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from typing_extensions import override

from fedpredict.initiator.admission import Access
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.offline.open import TaskParts
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.security import held_call, live
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_keys import open_keys
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.security.passwords import AUTHORIZATION
from fedpredict.security.tokens import TokenFile, Tokens
from fedpredict.state.sql import open_pin_store
from fedpredict.state.tasks import open_task_store
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.offline_arrow import chunk_to_wire, results_from_wire
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import eventually
from tests.integration.test_certificate_changes import Changing
from tests.integration.test_every_rpc import INITIATOR, Daemons, submission, task_of

N_ROWS = 60_000
"""With ids of 200 bytes more than what lies between a server and a client that does not read."""
HOW = {
    "denied": ("UNAUTHENTICATED", "CertificateRefusedError"),
    "revoked": ("UNAUTHENTICATED", "TokenRefusedError: revoked"),
    "removed": ("NOT_FOUND", ""),
}
"""What is done to the caller -> the status that it gets, and how the line ends."""


def ids(n_rows: int) -> SampleIds:
    return SampleIds.of([b"%0200d" % number for number in range(n_rows)])


class Bank(Daemons):
    """An initiator with an audit log, tokens, and rules that change."""

    @override
    async def start_bank(self) -> None:
        await self.start()
        tls = self.certificates.of("bank")
        content = {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "deadline_s": 20.0,
            "poll_s": 0.05,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "parties": {"lab": {"address": self.lab.address}},
            "models": {"m": {"parties": ["lab"]}},
            "clients": {"desk": {"models": ["*"]}},
        }
        folder = self.folder / "bank"
        folder.mkdir()
        settings = InitiatorSettings.model_validate(content)
        self.access = Access(settings.clients)
        self.tokens = TokenFile(folder / "tokens.json")
        log = self.stack.enter_context(
            AuditLog(AuditSettings(write_s=0.01), folder / "audit", "bank", 0, open_keys(folder / "audit"))
        )
        pins = open_pin_store("sqlite:///state.db", folder)
        tasks = open_task_store("sqlite:///state.db", folder)
        self.stack.callback(pins.close)
        self.stack.callback(tasks.close)
        server = InitiatorServer(
            settings, pins, tls,
            tasks=TaskParts(tasks, LocalWarehouse(folder)),
            callers=Callers(self.access, tokens=Tokens(folder / "tokens.json"), log=log),
        )  # fmt: skip
        self.bank = await self.stack.enter_async_context(server)
        await self.predicted_one()

    def refused(self, what: str) -> list[dict[str, Any]]:
        """Return the lines of a method that was not answered."""
        lines = calls([self.folder / "bank" / "audit" / "worker-0"])
        return [line for line in lines if line["what"] == what and line["outcome"] != "ok"]


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


@pytest.fixture
async def bank(tmp_path: Path, certificates: Changing, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bank]:
    monkeypatch.setattr(live, "LOOK_S", 0.05)
    monkeypatch.setattr(held_call, "LOOK_S", 0.05)
    monkeypatch.setattr("fedpredict.initiator.offline.service.result_rows", lambda _: 1_000)
    bank = Bank(tmp_path, certificates)
    async with bank.stack:
        await bank.start_bank()
        yield bank


class Client:
    """`desk`, on one channel."""

    def __init__(self, bank: Bank, token: str = "") -> None:
        self._metadata = ((AUTHORIZATION, f"Bearer {token}"),) if token else ()
        self._channel = bank.channel(INITIATOR)
        bank.stack.push_async_callback(self._channel.close, None)

    def stream(self, method: str) -> Any:
        open_stream: Any = self._channel.stream_stream(f"/{INITIATOR}/{method}", None, None)
        return open_stream(timeout=60.0, metadata=self._metadata)

    async def ask(self, method: str, message: Any) -> Any:
        call: Any = self._channel.unary_unary(f"/{INITIATOR}/{method}", None, None)
        return initiator_pb2.Task.FromString(await call(message.SerializeToString(), metadata=self._metadata))

    async def task_done(self, bank: Bank) -> None:
        """Have a task worked on to its end."""
        upload = self.stream("UploadSamples")
        await upload.write(chunk_to_wire(ids(N_ROWS), "r-1").SerializeToString())
        await upload.done_writing()
        bank.upload_id = initiator_pb2.UploadReply.FromString(cast(bytes, await upload.read())).upload_id
        bank.task_id = (await self.ask("SubmitTask", submission(bank))).task_id

        async def done() -> bool:
            return bool((await self.ask("GetTask", task_of(bank))).state == initiator_pb2.TASK_STATE_DONE)

        await eventually(done)


def spoiler(how: str, bank: Bank, certificates: Changing, token_id: str) -> Callable[[], object]:
    """Return what takes the caller's leave away."""
    return {
        "denied": lambda: certificates.deny("bank", certificates.of("desk", IdentityKind.CLIENT)),
        "revoked": lambda: bank.tokens.revoke(token_id, by="eve"),
        "removed": lambda: bank.access.replace({}),
    }[how]


@pytest.mark.parametrize("how", list(HOW))
async def test_results_and_lists_under_way_end_with_who_may_have_them(
    how: str, bank: Bank, certificates: Changing
) -> None:
    token = bank.tokens.create("desk", models=("*",), modes=tuple(Mode), lasts=timedelta(days=1), by="ada")
    client = Client(bank, token.text if how == "revoked" else "")
    await client.task_done(bank)
    fetch, upload = client.stream("FetchResults"), client.stream("UploadSamples")
    await fetch.write(initiator_pb2.FetchResultsRequest(protocol_version=1, task_id=bank.task_id).SerializeToString())
    await fetch.done_writing()
    n_rows = rows_of(await fetch.read())
    await upload.write(chunk_to_wire(ids(1_000), "r-2").SerializeToString())
    await asyncio.sleep(0.2)  # it is held by now: nothing is refused yet
    assert (n_rows, bank.refused("FetchResults"), bank.refused("UploadSamples")) == (1_000, [], [])

    spoiler(how, bank, certificates, token.kept.id)()

    async def is_told() -> bool:
        return bool(bank.refused("FetchResults") and bank.refused("UploadSamples"))

    await eventually(is_told)
    with suppress(grpc.aio.AioRpcError):
        while isinstance(batch := await fetch.read(), bytes):
            n_rows += rows_of(batch)
    code, outcome = HOW[how]
    assert 1_000 <= n_rows < N_ROWS
    assert ((await fetch.code()).name, (await upload.code()).name) == (code, code)
    for method in ("FetchResults", "UploadSamples"):
        (line,) = bank.refused(method)
        assert line["caller"] == "client desk"
        assert line["outcome"].endswith(outcome)
    assert bank.refused("FetchResults")[0]["request"] == bank.task_id


def rows_of(batch: object) -> int:
    assert isinstance(batch, bytes)
    return int(results_from_wire(initiator_pb2.ResultBatch.FromString(batch)).num_rows)


async def test_who_may_have_them_still_gets_them_whole(bank: Bank) -> None:
    client = Client(bank)
    await client.task_done(bank)
    fetch = client.stream("FetchResults")
    await fetch.write(initiator_pb2.FetchResultsRequest(protocol_version=1, task_id=bank.task_id).SerializeToString())
    n_rows = rows_of(await fetch.read())
    bank.access.replace({"desk": bank.access["desk"].model_copy(update={"models": ("m",)})})
    await asyncio.sleep(0.3)
    while isinstance(batch := await fetch.read(), bytes):
        n_rows += rows_of(batch)
    assert (n_rows, (await fetch.code()).name) == (N_ROWS, "OK")

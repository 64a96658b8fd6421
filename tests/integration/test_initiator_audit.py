"""An initiator's audit log: every edge, tasks, strangers; refused while lines cannot be written."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.cli.main import run
from fedpredict.client import AsyncClient, Mode
from fedpredict.errors import AuditUnavailableError, FedPredictError, ModelNotFoundError, TooManySamplesError
from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.audit_calls import REFUSED_PER_S
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_keys import PUBLIC_KEY, open_keys, read_public_key
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.audit_verify import verify_chain
from fedpredict.security.identity import IdentityKind
from fedpredict.security.tokens import TokenFile, Tokens
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.inference import grpc_service_pb2 as pb
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import post

TABLE = {b"u1": [1.0], b"u2": [2.0]}


@dataclass
class Bank:
    """An initiator with an audit log."""

    federation: Federation
    server: InitiatorServer
    log: AuditLog
    folder: Path

    def lines(self) -> list[dict[str, Any]]:
        return list(calls([self.folder / "worker-0"]))

    async def line(self) -> dict[str, Any]:
        """Return the newest line, which is not looked for too early."""
        found = self.lines()
        async with asyncio.timeout(ANSWERS_IN_S):
            while not found or len(found) <= self._seen:
                await asyncio.sleep(0.01)
                found = self.lines()
        assert len(found) == self._seen + 1
        self._seen = len(found)
        return found[-1]

    _seen: int = 0

    def hidden(self, *ids: str) -> list[str]:
        key = (self.folder / "ids.key").read_bytes()
        return [hmac.new(key, each.encode(), "sha256").hexdigest()[:32] for each in ids]


@asynccontextmanager
async def opened(
    tmp_path: Path, *, clients: dict[str, dict[str, object]] | None = None, **settings: Any
) -> AsyncIterator[Bank]:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        await federation.party("lab", TABLE, np.array([[2.0]]))
        folder = tmp_path / "audit" / "bank"
        given = AuditSettings(**{"write_s": 0.01, "checkpoint_s": 0.05, **settings})
        with AuditLog(given, folder, "bank", 0, open_keys(folder)) as log:
            server = await federation.initiator(
                {"m": {"parties": ["lab"]}},
                callers=Callers(tokens=Tokens(tmp_path / "tokens.json"), log=log),
                task_warehouse=LocalWarehouse(tmp_path / "tasks"),
                tokens="tokens.json",
                http_listen="127.0.0.1:0",
                http_client_certificates="optional",
                max_samples=50,
                clients=clients or {"desk": {"models": ["*"]}},
            )
            await federation.ready()
            yield Bank(federation, server, log, folder)
            await federation.stack.aclose()
        report = verify_chain(folder / "worker-0", read_public_key(folder / PUBLIC_KEY))
        assert (report.problems, report.unsigned) == ([], 0)


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    (tmp_path / "tasks").mkdir()
    async with opened(tmp_path) as bank:
        yield bank


async def test_a_question_is_a_line_at_every_edge_and_its_ids_are_hidden(bank: Bank) -> None:
    federation = bank.federation
    manifest = (await federation.predict(b"u1", b"nobody")).manifest_sha256
    line = await bank.line()
    expected: dict[str, object] = {"what": "Predict", "caller": "client desk", "request": "r-1", "model": "m"}
    expected |= {"manifest": manifest, "mode": "nearline", "rows": 2, "epoch": 0, "outcome": "ok"}
    assert expected.items() <= line.items()
    assert (line["statuses"], line["ids"]) == ({"OK": 1, "NOT_FOUND": 1}, bank.hidden("u1", "nobody"))

    desk = federation.certificates.of("desk", IdentityKind.CLIENT)
    https = HttpsClient(str(bank.server.http_address), desk)
    body = {"model": "m", "sample_ids": ["u2"]}
    assert (await https.ask(post(body))).status == 200
    line = await bank.line()
    assert (line["what"], line["ids"], line["outcome"]) == ("POST /v1/predict", bank.hidden("u2"), "ok")
    assert (await https.ask(post(body, path="/v1/predict?x=1"))).status == 200  # through ASGI
    assert (await bank.line())["what"] == "POST /v1/predict"
    tensor = {"name": "sample_id", "shape": [1], "datatype": "BYTES", "data": ["u2"]}
    assert (await https.ask(post({"inputs": [tensor]}, path="/v2/models/m/infer"))).status == 200
    line = await bank.line()
    assert (line["what"], line["ids"], line["statuses"]) == ("POST /v2/models/infer", bank.hidden("u2"), {"OK": 1})

    inputs = [pb.ModelInferRequest.InferInputTensor(name="sample_id", datatype="BYTES", shape=[1])]
    inputs[0].contents.bytes_contents.append(b"u1")
    request = pb.ModelInferRequest(model_name="m", inputs=inputs)
    await federation.call("ModelInfer", request, "desk", ANSWERS_IN_S, "inference.GRPCInferenceService")
    assert (await bank.line())["what"] == "ModelInfer"

    async with AsyncClient(bank.server.address, server_party="bank", tls=desk) as client:
        await asyncio.gather(*(client.predict("m", ["u1"]) for _ in range(200)))
    whats = [line["what"] for line in await all_lines(bank, 205)][5:]
    assert set(whats) <= {"Predict", "PredictStream"}
    assert "PredictStream" in whats
    assert b'"u1"' not in (bank.folder / "worker-0" / "000000000001.jsonl").read_bytes()


async def all_lines(bank: Bank, n: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(ANSWERS_IN_S):
        while len(bank.lines()) < n:
            await asyncio.sleep(0.01)
    assert len(bank.lines()) == n
    return bank.lines()


async def test_what_is_refused_is_a_line_too(bank: Bank) -> None:
    federation = bank.federation
    with pytest.raises(ModelNotFoundError):
        await federation.predict(b"u1", caller="stranger")
    line = await bank.line()
    assert (line["caller"], line["outcome"]) == ("client stranger", "ModelNotFoundError")
    assert "statuses" not in line
    with pytest.raises(TooManySamplesError):
        await federation.predict(*[b"u%d" % n for n in range(60)])
    line = await bank.line()
    root = digest_of(SampleIds.of([b"u%d" % n for n in range(60)]))
    key = (bank.folder / "ids.key").read_bytes()
    assert (line["rows"], line["root"]) == (60, hmac.new(key, bytes.fromhex(root), "sha256").hexdigest())

    with pytest.raises(FedPredictError):
        await federation.call("Predict", initiator_pb2.PredictRequest(model_id="m"), "desk", ANSWERS_IN_S)
    line = await bank.line()
    assert (line["what"], line["caller"], line["outcome"]) == ("Predict", "client desk", "ProtocolError")
    request = pb.ModelInferRequest(model_name="other")
    with pytest.raises(ModelNotFoundError):
        await federation.call("ModelInfer", request, "desk", ANSWERS_IN_S, "inference.GRPCInferenceService")
    assert (await bank.line())["outcome"] == "ModelNotFoundError"
    https = HttpsClient(str(bank.server.http_address), federation.certificates.of("desk", IdentityKind.CLIENT))
    assert (await https.ask(post(b"{"))).status == 400
    assert (await bank.line())["what"] == "POST /v1/predict"
    assert (await https.ask(post({"inputs": []}, path="/v2/models/other/infer"))).status == 404
    line = await bank.line()
    assert (line["what"], line["outcome"]) == ("POST /v2/models/infer", "ModelNotFoundError")


async def test_tokens_stand_in_lines_by_their_ids_and_refused_ones_with_the_reason(bank: Bank, tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    one, other = (
        file.create("desk", models=("*",), modes=tuple(Mode), lasts=timedelta(days=1), by="ada") for _ in range(2)
    )
    file.revoke(other.kept.id, by="eve")
    https = HttpsClient(str(bank.server.http_address), None)
    body = {"model": "m", "sample_ids": ["u1"]}

    async def ask(token: str) -> tuple[int, dict[str, Any]]:
        return (await https.ask(post(body, f"Authorization: Bearer {token}"))).status, await bank.line()

    status, line = await ask(one.text)
    assert (status, line["caller"], line["token"], line["outcome"]) == (200, "client desk", one.kept.id, "ok")
    status, line = await ask(other.text)
    assert (status, line["caller"], line["token"]) == (401, "nobody", other.kept.id)
    assert line["outcome"] == "TokenRefusedError: revoked"
    assert "ids" not in line
    status, line = await ask("x" * 30)
    assert (status, line["outcome"]) == (401, "TokenRefusedError: malformed")
    assert (await https.ask(post(body))).status == 401
    assert (await bank.line())["outcome"] == "UnauthenticatedError"
    written = (bank.folder / "worker-0" / "000000000001.jsonl").read_text()
    for token in (one, other):
        assert token.text[-20:] not in written


async def test_strangers_cannot_fill_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.model.few.monotonic", lambda: 7.0)
    folder = tmp_path / "bank"
    with AuditLog(AuditSettings(write_s=0.01), folder, "bank", 0, open_keys(folder)) as log:
        audit = RequestAudit(log)
        for _ in range(REFUSED_PER_S + 500):
            audit.stranger("HTTP", FedPredictError("who?"))
    assert len(list(calls([folder / "worker-0"]))) == REFUSED_PER_S
    counted = calls([folder / "worker-0"], ("refused",))
    assert sum(line["calls"]["nobody"] for line in counted) == 500


async def test_tasks_are_lines_with_a_count_and_one_hash(bank: Bank) -> None:
    desk = bank.federation.certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(bank.server.address, server_party="bank", tls=desk) as client:
        task = await client.submit("m", ["u1", "u2", "u3"])
        uploaded, submitted = await all_lines(bank, 2)
        assert (uploaded["what"], uploaded["rows"], uploaded["outcome"]) == ("UploadSamples", 3, "ok")
        wanted = ("what", "caller", "model", "rows", "mode", "outcome")
        told = tuple(submitted[name] for name in wanted)
        assert told == ("SubmitTask", "client desk", "m", 3, "offline", "ok")
        assert len(submitted["root"]) == 64
        assert "population" not in submitted
        await client.cancel(task)
        assert (await all_lines(bank, 3))[-1]["what"] == "CancelTask"
        with pytest.raises(FedPredictError):
            await client.cancel("no-such-task")
        line = (await all_lines(bank, 4))[-1]
        assert (line["what"], line["outcome"], line["request"]) == ("CancelTask", "TaskNotFoundError", "no-such-task")


def fails(*_: object) -> int:
    raise OSError(28, "No space left on device")


async def test_nobody_is_answered_while_lines_cannot_be_written(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    await bank.federation.predict(b"u1")
    await bank.line()
    monkeypatch.setattr("fedpredict.security.audit_file.os.write", fails)
    bank.log.add(_probe())
    await until(lambda: bool(bank.log._problem))
    with pytest.raises(AuditUnavailableError, match="nothing is answered"):
        await bank.federation.predict(b"u1")
    desk = bank.federation.certificates.of("desk", IdentityKind.CLIENT)
    https = HttpsClient(str(bank.server.http_address), desk)
    assert (await https.ask(post({"model": "m", "sample_ids": ["u1"]}))).problem == (503, "audit_unavailable")
    monkeypatch.undo()
    await until(lambda: not bank.log._problem)
    assert (await bank.federation.predict(b"u1")).predictions[0] == 2.0


def _probe() -> AuditedCall:
    return AuditedCall("Probe", "nobody")


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not what():
            await asyncio.sleep(0.01)


async def test_with_each_an_answer_waits_for_its_line_at_every_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    async with opened(tmp_path, fsync="each") as bank:
        desk = bank.federation.certificates.of("desk", IdentityKind.CLIENT)
        https = HttpsClient(str(bank.server.http_address), desk)
        for n in range(1, 4):
            assert (await https.ask(post({"model": "m", "sample_ids": ["u1"]}))).status == 200
            assert len(bank.lines()) == 2 * n - 1  # there when the answer is
            await bank.federation.predict(b"u1")
            assert len(bank.lines()) == 2 * n
        monkeypatch.setattr("fedpredict.security.audit_file.os.fsync", fails)
        assert (await https.ask(post({"model": "m", "sample_ids": ["u1"]}))).problem == (503, "audit_unavailable")
        with pytest.raises(AuditUnavailableError):
            await bank.federation.predict(b"u1")
        monkeypatch.undo()


def test_the_commands_read_an_initiators_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("initiator.toml").write_text('party = "bank"\ninsecure = true\n[clients.desk]\nmodels = ["*"]\n')
    folder = tmp_path / "audit" / "bank"
    with AuditLog(AuditSettings(), folder, "bank", 0, open_keys(folder)) as log:
        log.add(_probe())
    assert run(["audit", "report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["caller"] == "nobody"
    assert run(["audit", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["chain"] == "bank/worker-0"
    run(["doctor", "--json"])
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert (found["audit"]["level"], "can go on" in found["audit"]["what"]) == ("ok", True)
    Path("initiator.toml").write_text('party = "bank"\ninsecure = true\n[audit]\nenabled = false\n')
    run(["doctor", "--json"])
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["audit"]["what"] == "there is no audit log"

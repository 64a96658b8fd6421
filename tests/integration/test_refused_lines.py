"""Every method, frame and route, called by who may not: each has its line in the audit log, at both roles; and look-ups
have an end.

The tables of methods are walked, so that a new one that refuses without a line fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from fedpredict.initiator import methods as initiator_methods
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import WHAT
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.settings import ClientSettings
from fedpredict.participant import methods as participant_methods
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security import live
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_keys import open_keys
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.pace import Pace
from fedpredict.security.policy import Needs
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.inference import grpc_service_pb2 as inference_pb2
from fedpredict.wire.v1 import initiator_pb2, link_pb2
from tests.integration.federation import Federation, eventually
from tests.integration.http.client import HttpsClient
from tests.integration.test_certificate_changes import Changing
from tests.integration.test_method_walk import (
    CALLS,
    MASKED,
    NEEDS_RULE,
    OF_INITIATOR,
    OF_PARTICIPANT,
    Daemon,
    frame,
)

PARTY, CLIENT = IdentityKind.PARTY, IdentityKind.CLIENT
HEALTH = "grpc.health.v1.Health/Check"
OF_MODEL: dict[str, Message] = {
    HEALTH: health_pb2.HealthCheckRequest(service="model/m"),
    f"{initiator_methods.SERVICE}/ListTasks": initiator_pb2.ListTasksRequest(protocol_version=1, model_id="m"),
}
"""Where a call of `CALLS` is about no model, one that is."""
ABOUT_NO_MODEL = ("ListModels", "RegisterPopulation", "PutPopulationBucket")
"""Answered for whoever has a rule."""
FAST = {
    initiator_methods.PREDICT_ROUTE: WHAT["http"],
    **dict.fromkeys(initiator_methods.INFER_ROUTES, WHAT["oip_http"]),
}
"""Routes whose lines have a shorter name."""


@dataclass
class Party:
    """A daemon with an audit log. `allowed` has a rule without model "m", and `stranger` none."""

    daemon: Daemon
    folder: Path
    seen: int = 0

    async def lines(self, least: int = 1) -> list[dict[str, Any]]:
        """Return the lines since the last time, once there are so many."""

        async def there() -> bool:
            return len(self._all()) >= self.seen + least

        await eventually(there)
        found = self._all()[self.seen :]
        self.seen += len(found)
        return found

    def _all(self) -> list[dict[str, Any]]:
        return list(calls([self.folder / "worker-0"]))

    async def refused(self, what: str, caller: Identity) -> None:
        """Check that all newest lines are of a method that refused a caller."""
        for line in await self.lines():
            assert (line["what"], line["caller"]) == (what, str(caller))
            assert line["outcome"] != "ok"

    async def walk(self, table: dict[str, Needs]) -> None:
        for method, needs in table.items():
            if needs not in NEEDS_RULE and method != HEALTH:
                continue
            name = method.rpartition("/")[2]
            for caller in (self.daemon.stranger, self.daemon.allowed)[: 1 if name in ABOUT_NO_MODEL else 2]:
                status, _ = await self.daemon.call(method, caller, OF_MODEL.get(method))
                assert status != "OK", (method, caller)
                await self.refused(name, caller)


@pytest.fixture(autouse=True)
def every_refusal_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.security.audit_calls.REFUSED_PER_S", 10_000)
    monkeypatch.setattr(live, "LOOK_S", 0.05)


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


@pytest.fixture
async def lab(tmp_path: Path, certificates: Changing) -> AsyncIterator[Party]:
    tls, folder = certificates.of("lab"), tmp_path / "audit"
    content = {
        "party": "lab",
        "listen": "127.0.0.1:0",
        "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
        "warehouse": {"path": str(tmp_path / "warehouse")},
        "callers": {"bank": {"models": ["other"]}},
    }
    async with AsyncExitStack() as stack:
        log = stack.enter_context(AuditLog(AuditSettings(write_s=0.01), folder, "lab", 0, open_keys(folder)))
        warehouse = LocalWarehouse(tmp_path / "warehouse")
        stack.callback(warehouse.close)
        server = ParticipantServer(ParticipantSettings.model_validate(content), warehouse, tls, audit=log)
        await stack.enter_async_context(server)
        await server.wait_read()
        bank = Identity(PARTY, "bank")
        daemon = Daemon(
            certificates, "lab", server.address, bank, Identity(PARTY, "shop"), bank, streams=OF_PARTICIPANT
        )
        yield Party(daemon, folder)


@pytest.fixture
async def bank(tmp_path: Path, certificates: Changing) -> AsyncIterator[Party]:
    folder = tmp_path / "audit"
    access = Access({"desk": ClientSettings.model_validate({"models": ["other"]})})
    async with Federation(tmp_path, certificates) as federation:
        log = federation.stack.enter_context(
            AuditLog(AuditSettings(write_s=0.01), folder, "bank", 0, open_keys(folder))
        )
        tasks = LocalWarehouse(tmp_path / "tasks")
        federation.stack.callback(tasks.close)
        server = await federation.initiator(
            {"m": {"parties": ["lab"]}},
            callers=Callers(access, log=log),
            task_warehouse=tasks,
            parties={"lab": {"connect": "in"}},
            http_listen="127.0.0.1:0",
        )
        desk, http_address = Identity(CLIENT, "desk"), server.http_address or ""
        daemon = Daemon(
            certificates, "bank", server.address, desk, Identity(CLIENT, "other"), desk, http_address, OF_INITIATOR
        )
        yield Party(daemon, folder)


async def test_every_refused_method_of_a_participant_has_a_line(lab: Party) -> None:
    await lab.walk(dict(participant_methods.METHODS))


async def test_every_refused_frame_of_a_link_has_a_line(lab: Party) -> None:
    for body, method in participant_methods.FRAMES.items():
        if participant_methods.METHODS[method] not in NEEDS_RULE:
            continue
        what = {"mask_key": "MaskKey", "mask_keys": "MaskKeys"}.get(body, method.rpartition("/")[2])
        sent = frame(body, MASKED.get(body, CALLS[method]))
        _, got = await lab.daemon.call(f"{participant_methods.SERVICE}/ScoreStream", lab.daemon.stranger, sent)
        assert link_pb2.Frame.FromString(got).HasField("failure"), body
        await lab.refused(what, lab.daemon.stranger)


async def test_every_refused_method_of_an_initiator_has_a_line(bank: Party) -> None:
    await bank.walk(dict(initiator_methods.METHODS))
    stream, stranger = f"{initiator_methods.SERVICE}/PredictStream", bank.daemon.stranger
    _, got = await bank.daemon.call(stream, stranger)
    assert initiator_pb2.PredictAnswer.FromString(got).HasField("failure")
    await bank.refused("PredictStream", stranger)


async def test_every_refused_route_of_an_initiator_has_a_line(bank: Party) -> None:
    for route, needs in initiator_methods.ROUTES.items():
        if needs not in NEEDS_RULE:
            continue
        verb, path = route.replace("{model}", "m").replace("{version}", "1").split()
        body = "" if verb == "GET" else '{"model": "m", "mode": "nearline", "sample_ids": ["u1"], "inputs": []}'
        if route == initiator_methods.PREDICT_ROUTE:
            body = '{"model": "m", "mode": "nearline", "sample_ids": ["u1"]}'
        head = f"{verb} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        # the list of models is of those that the caller has: who has some is not refused
        for caller in (bank.daemon.stranger, bank.daemon.allowed)[: 1 if path == "/v1/models" else 2]:
            https = HttpsClient(bank.daemon.http_address, bank.daemon.certificates.of(caller.name, caller.kind))
            assert (await https.ask(f"{head}\r\n{body}".encode())).status == 404, route
            await bank.refused(FAST.get(route, route), caller)


async def test_a_refused_look_up_names_the_model_only_where_that_is_a_name(bank: Party) -> None:
    method = f"{initiator_methods.INFERENCE}/ModelReady"
    for name in ("guess-1", "no name " * 20):
        request = inference_pb2.ModelReadyRequest(name=name)
        assert (await bank.daemon.call(method, bank.daemon.allowed, request))[0] == "NOT_FOUND"
    assert [line.get("model") for line in await bank.lines(2)] == ["guess-1", None]


LOOK_UPS = {
    f"{participant_methods.SERVICE}/DescribeModel": CALLS[f"{participant_methods.SERVICE}/DescribeModel"],
    HEALTH: OF_MODEL[HEALTH],
    # no nonce of a hello: who proves nothing may not ask for proof without an end either
    f"{participant_methods.SERVICE}/Hello": type(CALLS[f"{participant_methods.SERVICE}/Hello"])(protocol_version=7),
}


@pytest.mark.parametrize("method", list(LOOK_UPS))
async def test_look_ups_and_what_is_wrong_with_them_come_to_an_end_at_a_participant(
    method: str, lab: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.security.policy.LOOK_UPS", Pace.of(1e-4, 3))
    got = [(await lab.daemon.call(method, lab.daemon.allowed, LOOK_UPS[method]))[0] for _ in range(5)]
    assert got[3:] == ["RESOURCE_EXHAUSTED"] * 2
    assert "RESOURCE_EXHAUSTED" not in got[:3]
    whats = [(line["what"], line["outcome"]) for line in await lab.lines(5)]
    assert whats[3:] == [(method.rpartition("/")[2], "RateLimitedError")] * 2


async def test_keys_of_masked_sums_come_to_an_end(lab: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.security.policy.LOOK_UPS", Pace.of(1e-4, 3))
    stream = f"{participant_methods.SERVICE}/ScoreStream"
    for body, left in (("mask_key", 3), ("mask_keys", 0)):
        codes = []
        for _ in range(4):
            _, got = await lab.daemon.call(stream, lab.daemon.allowed, frame(body, MASKED[body]))
            codes.append(link_pb2.Frame.FromString(got).failure.code)
        limited = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert [code == limited for code in codes] == [place >= left for place in range(4)]


@pytest.mark.parametrize("name", ["ListModels", "ModelReady", "ModelMetadata"])
async def test_look_ups_come_to_an_end_at_an_initiator_at_all_edges_together(
    name: str, bank: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.security.policy.LOOK_UPS", Pace.of(1e-4, 3))
    method = next(each for each in OF_INITIATOR if each.endswith(f"/{name}"))
    got = [(await bank.daemon.call(method, bank.daemon.allowed))[0] for _ in range(4)]
    assert [status == "RESOURCE_EXHAUSTED" for status in got] == [False, False, False, True]
    https = HttpsClient(bank.daemon.http_address, bank.daemon.certificates.of("desk", CLIENT))
    for path in ("/v1/models", "/v1/models/m", "/v2/models/m", "/v2/models/m/ready"):
        assert (await https.ask(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())).status == 429
    # no call was: what the rule says of calls is for those
    predict = f"{initiator_methods.SERVICE}/Predict"
    assert (await bank.daemon.call(predict, bank.daemon.allowed))[0] == "NOT_FOUND"


async def test_who_proved_it_and_is_denied_is_named(lab: Party, certificates: Changing) -> None:
    certificates.deny("lab", certificates.of("bank"))
    method = f"{participant_methods.SERVICE}/DescribeModel"

    async def named() -> bool:
        status, _ = await lab.daemon.call(method, lab.daemon.allowed)
        line = (await lab.lines())[-1]
        said = (status, line["what"], line["caller"], line["outcome"])
        return said == ("UNAUTHENTICATED", "gRPC", "party bank", "CertificateRefusedError")

    await eventually(named)


async def test_who_is_denied_at_an_edge_of_http_is_named(bank: Party, certificates: Changing) -> None:
    desk = certificates.of("desk", CLIENT)
    certificates.deny("bank", desk)

    async def denied() -> bool:
        with suppress(ConnectionError):
            https = HttpsClient(bank.daemon.http_address, desk)
            return (await https.ask(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")).status == 401
        return False

    await eventually(denied)
    line = (await bank.lines())[-1]
    assert (line["what"], line["caller"], line["outcome"]) == ("HTTP", "client desk", "CertificateRefusedError")

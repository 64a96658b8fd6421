"""A participant over the wire: real gRPC, real mutual TLS, its own tables on the disk, scikit-learn as the oracle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from typing_extensions import override

from fedpredict.errors import (
    ConfigError,
    DistinctIdsUsedUpError,
    EmptyRequestError,
    FedPredictError,
    ManifestMismatchError,
    ModelNotFoundError,
    ModelNotReadyError,
    NameRefusedError,
    PartyTimeoutError,
    ProtocolError,
    ServerUnavailableError,
    TooManySamplesError,
    UnauthenticatedError,
    UnsupportedModeError,
)
from fedpredict.features.base import FeatureRows
from fedpredict.features.memory import MemoryStore
from fedpredict.initiator.fanout import Dialler
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.observe.logs import JsonFormatter
from fedpredict.participant.server import ParticipantServer, serve
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.scoring.local_party import INLINE_SAMPLES
from fedpredict.security import certs
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.audit_chain import Checkpoint, calls, chain_files, parse_checkpoint
from fedpredict.security.audit_keys import PUBLIC_KEY, open_keys, read_public_key
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.audit_verify import verify_chain
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name, stated_identity
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.tables.models import ModelVersion, delete_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.description import description_from_wire
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import participant_pb2
from tests.hellos import verify_hello

SERVING: int = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
OK = SampleStatus.OK
NAN, INF = float("nan"), float("inf")
EVENT_TIME = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
MICROS = 1_769_848_200_000_000
CALLERS = {
    "hospital": {"models": ["*"]},
    "shop": {"models": ["other"]},
}
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True)
class Certificates:
    """One authority's certificates, by the name of who holds them."""

    lab: TlsFiles
    hospital: TlsFiles
    shop: TlsFiles
    stranger: TlsFiles
    client_hospital: TlsFiles
    """A client of some initiator that has the name of a party."""
    outsider: TlsFiles
    """Party hospital, says another authority."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca = certs.create_ca(folder, "test")

    def party(name: str) -> TlsFiles:
        return certs.issue(ca, Identity(IdentityKind.PARTY, name), folder)

    other = certs.create_ca(folder / "other", "other")
    outsider = certs.issue(other, Identity(IdentityKind.PARTY, "hospital"), folder / "other")
    return Certificates(
        lab=party("lab"),
        hospital=party("hospital"),
        shop=party("shop"),
        stranger=party("stranger"),
        client_hospital=certs.issue(ca, Identity(IdentityKind.CLIENT, "hospital"), folder / "clients"),
        outsider=TlsFiles(folder / "ca.pem", outsider.certificate, outsider.key),
    )


@dataclass(frozen=True)
class Trained:
    """A logistic regression over all columns of the breast-cancer data, and where the laboratory's columns are."""

    rows: Floats
    names: tuple[str, ...]
    weights: Floats
    decision: Floats
    own: slice

    @property
    def share(self) -> Floats:
        """What the laboratory's columns add to scikit-learn's decision function."""
        return np.asarray(self.rows[:, self.own] @ self.weights[self.own])


@pytest.fixture(scope="module")
def trained() -> Trained:
    data = load_breast_cancer()
    rows = StandardScaler().fit_transform(data.data)
    model = LogisticRegression().fit(rows, data.target)
    names = tuple(str(name) for name in data.feature_names)
    return Trained(rows, names, model.coef_[0], model.decision_function(rows) - model.intercept_[0], slice(10, 20))


class Lab:
    """The laboratory's warehouse."""

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder = folder
        self.trained = trained
        self.warehouse = LocalWarehouse(folder)
        self.names = trained.names[trained.own]
        self.columns = column_names(self.names)
        features = tuple(ViewFeature(name, self.columns[name], ColumnType.DOUBLE) for name in self.names)
        self.view = FeatureView("cells", 1, features, "patient", "taken")

    def load(self, extra: Sequence[tuple[str, Sequence[float | None]]] = ()) -> None:
        """Publish a snapshot: patients p0, p1, ... and `extra` ones."""
        rows: list[tuple[str, Sequence[float | None]]] = [
            (f"p{number}", values.tolist()) for number, values in enumerate(self.trained.rows[:, self.trained.own])
        ]
        rows += extra
        table = pa.table(
            {
                "sample_id": pa.array([sample_id for sample_id, _ in rows]),
                "event_time": pa.array([EVENT_TIME] * len(rows), pa.timestamp("us", tz="UTC")),
                **{
                    self.columns[name]: pa.array([values[place] for _, values in rows], pa.float64())
                    for place, name in enumerate(self.names)
                },
            }
        )
        publish_snapshot(self.warehouse, self.view, "20260131T083000.000000Z", table)

    def convert(self, model_id: str = "cancer", factor: float = 1.0) -> ModelVersion:
        """Publish the laboratory's part of the model, all weights times `factor`."""
        weights = factor * self.trained.weights[self.trained.own, np.newaxis]
        part = LinearPart(self.names, weights, None, np.zeros(1))
        partial = PartialModel(model_id, f"run-{factor}", "lab", Kind.BINARY, ("malignant", "benign"), True, part)
        source = hashlib.sha256(f"{model_id} {factor}".encode()).hexdigest()
        return publish_model(self.warehouse, partial, self.view, source)[0]


@pytest.fixture
def lab(tmp_path: Path, trained: Trained) -> Lab:
    return Lab(tmp_path / "lab", trained)


class Caller:
    """Somebody who calls a participant."""

    def __init__(self, channel: grpc.aio.Channel, identity: Identity | None = None) -> None:
        self._channel = channel
        self._metadata = stated_identity(identity) if identity else None

    async def raw(self, method: str, data: bytes, timeout_s: float | None = 30.0) -> bytes:
        """Call with raw bytes; raises the `grpc.aio.AioRpcError`."""
        call = self._channel.unary_unary(f"/fedpredict.wire.v1.ParticipantService/{method}", bytes, bytes)
        reply = await call(data, timeout=timeout_s, metadata=self._metadata)
        assert isinstance(reply, bytes)
        return reply

    async def call(
        self, method: str, request: Message, reply_type: type[Reply], timeout_s: float | None = 30.0
    ) -> Reply:
        """Call with messages; raises the error of our tree."""
        try:
            return reply_type.FromString(await self.raw(method, request.SerializeToString(), timeout_s))
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error

    async def describe(self, model_id: str) -> participant_pb2.DescribeModelReply:
        request = participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r", model_id=model_id)
        return await self.call("DescribeModel", request, participant_pb2.DescribeModelReply)

    async def has(self, model_id: str, version: ModelVersion) -> bool:
        """Whether that version is described."""
        return bytes((await self.describe(model_id)).params_sha256).hex() == version.params_sha256

    async def score(self, query: ScoreQuery, *, n_scores: int = 1) -> PartyReply:
        request = codec.query_to_wire(query, 30_000)
        reply = await self.call("Score", request, participant_pb2.ScoreReply)
        return codec.reply_from_wire(reply, query, n_scores)

    async def health(self, name: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        try:
            call = self._channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
            reply = await call(request, timeout=30.0, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return int(health_pb2.HealthCheckResponse.FromString(reply).status)


def query_for(version: ModelVersion, *ids: bytes, mode: Mode = Mode.NEARLINE, model_id: str = "") -> ScoreQuery:
    return ScoreQuery(
        request_id=secrets.token_hex(4),
        model_id=model_id or version.model_id,
        manifest_sha256="5c" * 32,
        params_sha256=version.params_sha256,
        mode=mode,
        sample_ids=ids,
    )


class Running:
    """A participant that serves, and callers of it."""

    def __init__(self, lab: Lab, certificates: Certificates) -> None:
        self.lab = lab
        self.certificates = certificates
        self.stack = AsyncExitStack()

    async def start(
        self,
        *,
        store: MemoryStore | None = None,
        audit: AuditLog | None = None,
        distinct: DistinctIds | None = None,
        **changes: object,
    ) -> ParticipantServer:
        settings = settings_with(self.lab.folder, **changes)
        tls = None if settings.insecure else self.certificates.lab
        server = ParticipantServer(settings, self.lab.warehouse, tls, store=store, audit=audit, distinct=distinct)
        await self.stack.enter_async_context(server)
        await server.wait_read()
        self.address = server.address
        return server

    def caller(self, tls: TlsFiles | None = None) -> Caller:
        """Somebody with a certificate; the hospital by default."""
        credentials = channel_credentials(tls or self.certificates.hospital)
        channel = grpc.aio.secure_channel(self.address, credentials, options=channel_options(server_name("lab")))
        self.stack.push_async_callback(channel.close, None)
        return Caller(channel)

    def plain_caller(self, identity: Identity | None) -> Caller:
        channel = grpc.aio.insecure_channel(self.address, options=channel_options())
        self.stack.push_async_callback(channel.close, None)
        return Caller(channel, identity)


def settings_with(folder: Path, **changes: object) -> ParticipantSettings:
    content: dict[str, object] = {
        "party": "lab",
        "listen": "127.0.0.1:0",
        "poll_s": 0.02,
        "tls": {"ca": "ca.pem", "certificate": "lab.pem", "key": "lab.key"},
        "warehouse": {"path": str(folder)},
        "callers": CALLERS,
    }
    return ParticipantSettings.model_validate({**content, **changes})


@pytest.fixture
async def running(lab: Lab, certificates: Certificates) -> AsyncIterator[Running]:
    world = Running(lab, certificates)
    async with world.stack:
        yield world


@pytest.fixture
async def cancer(running: Running) -> ModelVersion:
    """The laboratory's features and its part of the model, served."""
    running.lab.load()
    version = running.lab.convert()
    await running.start()
    return version


async def eventually(what: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `what` is true; fail after half a minute."""
    async with asyncio.timeout(30):
        while not await what():
            await asyncio.sleep(0.01)


async def outcome(call: Awaitable[object]) -> tuple[object, ...]:
    """Return all that a caller can see of a call that fails."""
    with pytest.raises(FedPredictError) as raised:
        await call
    error = raised.value.__cause__
    assert isinstance(error, grpc.aio.AioRpcError)
    return type(raised.value), error.code(), error.details(), tuple(error.trailing_metadata() or ())


async def test_all_shares_are_scikit_learns_decision_function_cut_by_columns(
    running: Running, cancer: ModelVersion, trained: Trained
) -> None:
    order = np.random.default_rng(1).permutation(len(trained.rows))
    reply = await running.caller().score(query_for(cancer, *(f"p{number}".encode() for number in order)))
    assert (reply.share.status == OK).all()
    assert reply.oldest_event_time == MICROS
    ours = np.empty(len(order))
    ours[order] = reply.share.values[:, 0]
    terms = np.abs(trained.rows) @ np.abs(trained.weights)
    assert (np.abs(ours - trained.share) <= 1e-12 * terms).all()
    others = np.delete(trained.rows, trained.own, axis=1) @ np.delete(trained.weights, trained.own)
    assert (np.abs(ours + others - trained.decision) <= 1e-12 * terms).all()


async def test_every_sample_gets_a_status_of_its_own(running: Running, trained: Trained) -> None:
    usable = [1.0] * 10
    running.lab.load(
        [
            ("null", [None, *usable[1:]]),
            ("nan", [*usable[1:], NAN]),
            ("inf", [INF, *usable[1:]]),
            ("quotes\"';--", usable),
            ("twice", usable),
            ("twice", usable),
            ("largest", [1.7e308 if weight > 0 else -1.7e308 for weight in trained.weights[trained.own]]),
        ]
    )
    version = running.lab.convert(factor=10.0)
    await running.start()
    asked = {
        b"p1": OK,
        b"null": SampleStatus.FEATURE_MISSING,
        b"nan": SampleStatus.FEATURE_MISSING,
        b"inf": SampleStatus.FEATURE_INVALID,
        b"twice": SampleStatus.FEATURE_INVALID,
        b"largest": SampleStatus.OUT_OF_RANGE,
        b"quotes\"';--": OK,
        b"nobody": SampleStatus.NOT_FOUND,
        b"": SampleStatus.ID_INVALID,
        b"i" * 10_000: SampleStatus.ID_INVALID,
        b"\xff\xfe": SampleStatus.ID_INVALID,
        b"p1\n": SampleStatus.ID_INVALID,
        b"p\x001": SampleStatus.ID_INVALID,
    }
    twice = [*asked, *asked]
    reply = await running.caller().score(query_for(version, *twice))
    assert dict(zip(twice, reply.share.status.tolist(), strict=True)) == asked
    np.testing.assert_array_equal(reply.share.values[: len(asked)], reply.share.values[len(asked) :])
    assert np.isfinite(reply.share.values[:, 0]).tolist() == [status is OK for status in asked.values()] * 2
    np.testing.assert_allclose(reply.share.values[0, 0], 10.0 * trained.share[1], rtol=1e-12)


async def test_a_model_is_described_without_a_weight(running: Running, cancer: ModelVersion) -> None:
    reply = await running.caller().describe("cancer")
    part = description_from_wire(reply)
    assert (part.party, part.model_id, part.params_sha256) == ("lab", "cancer", cancer.params_sha256)
    assert (part.kind, part.classes, part.n_scores) == (Kind.BINARY, ("malignant", "benign"), 1)
    assert (part.holds_intercept, part.fit_intercept, part.training_run) == (False, True, "run-1.0")


async def test_the_hello_proves_who_answers(running: Running, cancer: ModelVersion, certificates: Certificates) -> None:
    nonce = secrets.token_bytes(32)
    request = participant_pb2.HelloRequest(protocol_version=1, nonce=nonce)
    reply = await running.caller().call("Hello", request, participant_pb2.HelloReply)
    assert (reply.party, reply.worker, reply.workers, reply.protocol_version) == ("lab", 0, 1, 1)
    caller, proof = Identity(IdentityKind.PARTY, "hospital"), (reply.certificate_chain, reply.signature)
    verify_hello(certificates.hospital.ca.read_bytes(), "lab", caller, nonce, proof)
    again = await running.caller().call("Hello", request, participant_pb2.HelloReply)
    assert again.instance == reply.instance


async def test_a_caller_who_is_not_listed_sees_exactly_what_an_unknown_model_looks_like(
    running: Running, cancer: ModelVersion, certificates: Certificates
) -> None:
    listed = running.caller()
    unknown = await outcome(listed.describe("none"))
    assert unknown[0] is ModelNotFoundError
    assert unknown[2] == "no such model"
    query = query_for(cancer, b"p1")
    assert await outcome(listed.score(query_for(cancer, b"p1", model_id="none"))) == unknown
    for tls in (certificates.shop, certificates.stranger, certificates.client_hospital):
        other = running.caller(tls)
        assert await outcome(other.describe("cancer")) == unknown
        assert await outcome(other.score(query)) == unknown
        assert await outcome(other.score(query_for(cancer, b"p1", mode=Mode.OFFLINE))) == unknown
        assert await outcome(other.score(query_for(cancer))) == unknown
        assert await outcome(other.health("model/cancer")) == unknown
    assert await outcome(running.caller(certificates.shop).describe("other")) == unknown


async def test_every_call_is_in_the_audit_log_also_what_was_refused(
    running: Running, certificates: Certificates, tmp_path: Path
) -> None:
    running.lab.load()
    version = running.lab.convert()
    folder = tmp_path / "audit"
    with AuditLog(AuditSettings(write_s=0.01), folder, "lab", 0, open_keys(folder)) as audit:
        server = await running.start(audit=audit)
        caller = running.caller()
        await caller.score(query_for(version, b"p1", b"p1", b"nobody"))
        await caller.describe("cancer")
        await outcome(caller.describe("none"))
        await outcome(running.caller(certificates.shop).score(query_for(version, b"p2")))
        with pytest.raises(grpc.aio.AioRpcError):
            await caller.raw("Score", participant_pb2.ScoreRequest(protocol_version=99).SerializeToString())
        await server.__aexit__(None, None, None)

    found = [
        (each["what"], each["caller"], each.get("model"), each["rows"], each.get("statuses"), each["outcome"])
        for each in calls([folder / "worker-0"])
    ]
    hospital, shop = "party hospital", "party shop"
    assert found == [
        ("Score", hospital, "cancer", 3, {"OK": 2, "NOT_FOUND": 1}, "ok"),
        ("DescribeModel", hospital, "cancer", 0, None, "ok"),
        ("DescribeModel", hospital, "none", 0, None, "ModelNotFoundError"),
        ("Score", shop, "cancer", 1, None, "ModelNotFoundError"),
        ("Score", hospital, None, 0, None, "ProtocolError"),
    ]
    first = next(iter(calls([folder / "worker-0"])))
    assert (first["manifest"], first["mode"], len(set(first["ids"]))) == ("5c" * 32, "nearline", 2)
    assert verify_chain(folder / "worker-0", read_public_key(folder / PUBLIC_KEY)).problems == []


@pytest.mark.usefixtures("one_day")
async def test_a_limit_of_distinct_ids_is_one_for_calls_links_and_workers_and_what_it_refuses_is_logged(
    running: Running, certificates: Certificates, tmp_path: Path
) -> None:
    running.lab.load()
    version = running.lab.convert()
    limited = {**CALLERS, "hospital": {"models": ["*"], "distinct_ids_per_day": 3}}
    kept = running.stack.enter_context(closing(DistinctIds(tmp_path / "distinct")))
    others = running.stack.enter_context(closing(DistinctIds(tmp_path / "distinct")))
    folder = tmp_path / "audit"
    with AuditLog(AuditSettings(write_s=0.01), folder, "lab", 0, open_keys(folder)) as audit:
        measured = await running.start(callers=limited, distinct=others, metrics={"listen": "127.0.0.1:0"})
        one = running.caller()
        server = await running.start(callers=limited, distinct=kept, audit=audit, link_listen="127.0.0.1:0")
        other = running.caller()
        await one.score(query_for(version, b"p1", b"p1", b""))
        await other.score(query_for(version, b"p1", b"nobody"))
        linked = await running.stack.enter_async_context(
            Dialler("hospital", certificates.hospital).dial("lab", server.address)
        )

        async def is_linked() -> bool:
            return linked.pool.carriers == {"socket": 1}

        await eventually(is_linked)
        await linked.score(query_for(version, b"p1", b"p3"), deadline_s=30.0)
        with pytest.raises(DistinctIdsUsedUpError, match="party lab: RESOURCE_EXHAUSTED") as raised:
            await linked.score(query_for(version, b"p1", b"p4"), deadline_s=30.0)
        assert raised.value.until.endswith("T00:00:00Z")
        told = await outcome(other.score(query_for(version, b"p3", b"p4", b"p5")))
        text = (
            f"the daily limit of distinct sample ids of this caller is used up; it begins anew at {raised.value.until}"
        )
        assert told[:3] == (DistinctIdsUsedUpError, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        with pytest.raises(DistinctIdsUsedUpError):
            await one.score(query_for(version, b"p4"))
        answered = await one.score(query_for(version, b"p3", b"nobody", b"p1"))
        assert answered.share.status.tolist() == [OK, SampleStatus.NOT_FOUND, OK]

        def lines() -> set[bytes]:
            with urlopen(f"http://{measured.metrics_address}/metrics", timeout=30.0) as page:
                return set(page.read().splitlines())

        async def is_shown() -> bool:
            gauges = ("fedpredict_distinct_ids", "fedpredict_distinct_ids_limit")
            wanted = {f'{each}{{caller="hospital"}} 3.0'.encode() for each in gauges}
            return wanted <= await asyncio.to_thread(lines)

        await eventually(is_shown)
        await server.__aexit__(None, None, None)

    found = [(each["rows"], each["outcome"]) for each in calls([folder / "worker-0"]) if each["what"] == "Score"]
    assert found == [(2, "ok"), (2, "ok"), (2, "DistinctIdsUsedUpError"), (3, "DistinctIdsUsedUpError")]


async def test_each_party_keeps_the_others_checkpoints_and_a_cut_tail_shows_by_them(
    running: Running, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.security.audit_peers.KEPT_EVERY_S", 0.0)
    running.lab.load()
    running.lab.convert()
    quick = AuditSettings(write_s=0.01, checkpoint_s=0.02)
    folders = {party: tmp_path / "audit" / party for party in ("lab", "hospital")}
    logs = {party: AuditLog(quick, folder, party, 0, open_keys(folder)) for party, folder in folders.items()}

    def kept(by: str, of: str) -> list[Checkpoint]:
        file = folders[by] / "peers" / f"party-{of}.checkpoints"
        lines = file.read_text().splitlines() if file.exists() else []
        return [made for line in lines if (made := parse_checkpoint(line)) is not None]

    with logs["lab"], logs["hospital"]:
        server = await running.start(audit=logs["lab"])
        dialler = Dialler("hospital", certificates.hospital, audit=AuditedCalls(logs["hospital"]))
        async with dialler.dial("lab", server.address) as remote:

            async def both_keep() -> bool:
                logs["hospital"].add(AuditedCall("Predict", "client desk"))
                await remote.describe("cancer", deadline_s=30.0)
                return bool(kept("lab", "hospital")) and len(kept("hospital", "lab")) > 1

            await eventually(both_keep)
        old = running.caller()  # one that knows nothing of checkpoints
        assert (await old.describe("cancer")).model_id == "cancer"
        await server.__aexit__(None, None, None)

    assert (folders["hospital"] / "peers" / "party-lab.checkpoints").stat().st_mode & 0o777 == 0o600
    for party, other in (("lab", "hospital"), ("hospital", "lab")):
        key, anchors = read_public_key(folders[party] / PUBLIC_KEY), kept(other, party)
        assert verify_chain(folders[party] / "worker-0", key, anchors).problems == []
        (path,) = chain_files(folders[party] / "worker-0")
        # the end is cut off behind a checkpoint: the chain alone is whole
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
        assert verify_chain(folders[party] / "worker-0", key).problems == []
        (*_, last) = verify_chain(folders[party] / "worker-0", key, anchors).problems
        assert "its end was cut off" in last


async def test_nothing_is_answered_while_the_audit_log_cannot_be_written(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.lab.load()
    version = running.lab.convert()
    folder = tmp_path / "audit"

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with AuditLog(AuditSettings(write_s=0.01), folder, "lab", 0, open_keys(folder)) as audit:
        await running.start(audit=audit)
        whole = os.write
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", full)
        await running.caller().score(query_for(version, b"p1"))

        async def is_refused() -> bool:
            try:
                await running.caller().score(query_for(version, b"p2"))
            except FedPredictError:
                return True
            return False

        await eventually(is_refused)
        refused = await outcome(running.caller().score(query_for(version, b"p2")))
        assert refused[1:3] == (grpc.StatusCode.UNAVAILABLE, "nothing is answered at the moment")
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", whole)

        async def is_answered() -> bool:
            return not await is_refused()

        await eventually(is_answered)


async def test_a_certificate_of_another_authority_gets_no_connection(
    running: Running, cancer: ModelVersion, certificates: Certificates
) -> None:
    # the outsider's own check of its files refuses to build this, so by hand
    files = certificates.outsider
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(
        running.address, credentials, options=channel_options(server_name("lab"))
    ) as channel:
        with pytest.raises(ServerUnavailableError):
            await Caller(channel).describe("cancer")
    async with grpc.aio.secure_channel(
        running.address,
        grpc.ssl_channel_credentials(files.ca.read_bytes()),
        options=channel_options(server_name("lab")),
    ) as channel:
        with pytest.raises(ServerUnavailableError):
            await Caller(channel).describe("cancer")


async def test_a_new_version_is_served_without_a_restart_and_the_old_one_still_answers(
    running: Running, cancer: ModelVersion, trained: Trained
) -> None:
    caller = running.caller()
    newer = running.lab.convert(factor=2.0)
    assert newer.params_sha256 != cancer.params_sha256

    await eventually(lambda: caller.has("cancer", newer))
    for version, factor in ((cancer, 1.0), (newer, 2.0)):
        reply = await caller.score(query_for(version, b"p3"))
        np.testing.assert_allclose(reply.share.values[0, 0], factor * trained.share[3], rtol=1e-12)


async def test_new_features_and_deleted_models_are_noticed(running: Running, cancer: ModelVersion) -> None:
    caller = running.caller()
    rows = pa.table(
        {
            "sample_id": pa.array(["newcomer"]),
            "event_time": pa.array([EVENT_TIME], pa.timestamp("us", tz="UTC")),
            **{column: pa.array([0.0]) for column in running.lab.columns.values()},
        }
    )
    publish_snapshot(running.lab.warehouse, running.lab.view, "20260201T083000.000000Z", rows)

    async def known() -> bool:
        reply = await caller.score(query_for(cancer, b"newcomer", b"p1"))
        return bool((reply.share.status == [OK, SampleStatus.NOT_FOUND]).all())

    await eventually(known)
    delete_model(running.lab.warehouse, "cancer")

    async def gone() -> bool:
        try:
            await caller.describe("cancer")
        except ModelNotFoundError:
            return True
        return False

    await eventually(gone)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a", b"no message at all", b"\x08\x01\x42\xff\xff\xff\xff\x07x"])
async def test_a_broken_message_is_refused_and_the_server_serves_on(
    running: Running, cancer: ModelVersion, data: bytes
) -> None:
    caller = running.caller()
    for method in ("Hello", "DescribeModel", "Score"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await caller.raw(method, data)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await caller.score(query_for(cancer, b"p1"))).share.status.tolist() == [OK]


async def test_a_message_beyond_the_limit_is_refused_and_the_server_serves_on(
    running: Running, cancer: ModelVersion
) -> None:
    caller = running.caller()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.raw("Score", bytes(17 * 1024 * 1024))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await caller.score(query_for(cancer, b"p1"))).share.status.tolist() == [OK]


async def test_requests_that_cannot_be_answered_say_why(running: Running) -> None:
    running.lab.load()
    version = running.lab.convert()
    await running.start(max_samples=3)
    caller = running.caller()
    assert len((await caller.score(query_for(version, *[b"p1"] * 3))).share.status) == 3
    with pytest.raises(TooManySamplesError, match="the limit is 3") as raised:
        await caller.score(query_for(version, *[b"p1"] * 4))
    assert raised.value.limit == 3
    with pytest.raises(EmptyRequestError):
        await caller.score(query_for(version))
    with pytest.raises(UnsupportedModeError, match="realtime"):
        await caller.score(query_for(version, b"p1", mode=Mode.REALTIME))
    with pytest.raises(ModelNotReadyError):  # no shares are stored
        await caller.score(query_for(version, b"p1", mode=Mode.OFFLINE))
    request = codec.query_to_wire(query_for(version, b"p1"), 0)
    request.params_sha256 = bytes(32)
    with pytest.raises(ManifestMismatchError):
        await caller.call("Score", request, participant_pb2.ScoreReply)
    with pytest.raises(NameRefusedError):
        await caller.describe("no model id")


async def test_another_version_of_the_protocol_is_refused(running: Running, cancer: ModelVersion) -> None:
    caller = running.caller()
    requests: dict[str, Message] = {
        "Hello": participant_pb2.HelloRequest(protocol_version=2, nonce=bytes(32)),
        "DescribeModel": participant_pb2.DescribeModelRequest(protocol_version=2, model_id="cancer"),
        "Score": participant_pb2.ScoreRequest(protocol_version=2, model_id="cancer"),
    }
    for method, request in requests.items():
        with pytest.raises(ProtocolError):
            await caller.call(method, request, participant_pb2.ScoreReply)
    short = participant_pb2.HelloRequest(protocol_version=1, nonce=b"short")
    with pytest.raises(ProtocolError):
        await caller.call("Hello", short, participant_pb2.HelloReply)


async def test_health_says_what_is_ready(running: Running, cancer: ModelVersion, certificates: Certificates) -> None:
    caller = running.caller()
    assert await caller.health() == SERVING
    assert await running.caller(certificates.stranger).health() == SERVING
    assert await caller.health("model/cancer") == SERVING
    for name in ("model/none", "fedpredict.wire.v1.ParticipantService", "cancer"):
        with pytest.raises(ModelNotFoundError):
            await caller.health(name)


async def test_a_model_without_features_is_not_ready(running: Running) -> None:
    version = running.lab.convert()
    await running.start()
    caller = running.caller()
    assert await caller.health() == SERVING
    assert await caller.health("model/cancer") == NOT_SERVING
    with pytest.raises(ModelNotReadyError):
        await caller.score(query_for(version, b"p1"))


async def test_a_warehouse_may_be_away_at_start_and_again_later(
    running: Running, tmp_path: Path, trained: Trained
) -> None:
    await running.start()
    caller = running.caller()
    assert await caller.health() == NOT_SERVING
    with pytest.raises(ModelNotReadyError):
        await caller.describe("cancer")
    running.lab.load()
    version = running.lab.convert()

    async def ready() -> bool:
        try:
            return await caller.health("model/cancer") == SERVING
        except (ModelNotFoundError, ModelNotReadyError):
            return False

    await eventually(ready)
    running.lab.folder.rename(tmp_path / "elsewhere")
    for _ in range(5):
        reply = await caller.score(query_for(version, b"p0"))
        np.testing.assert_allclose(reply.share.values[0, 0], trained.share[0], rtol=1e-12)
        assert await caller.health() == SERVING
    (tmp_path / "elsewhere").rename(running.lab.folder)
    newer = running.lab.convert(factor=3.0)

    await eventually(lambda: caller.has("cancer", newer))


async def test_a_taken_port_is_an_error_that_names_it(
    running: Running, cancer: ModelVersion, lab: Lab, certificates: Certificates
) -> None:
    second = ParticipantServer(settings_with(lab.folder, listen=running.address), lab.warehouse, certificates.lab)
    with pytest.raises(ConfigError, match=running.address):
        await second.__aenter__()


async def test_a_certificate_of_another_party_is_refused_at_start(lab: Lab, certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match="party shop"):
        ParticipantServer(settings_with(lab.folder), lab.warehouse, certificates.shop)
    with pytest.raises(ConfigError, match="insecure"):
        ParticipantServer(settings_with(lab.folder), lab.warehouse, None)


class GatedStore(MemoryStore):
    """A store whose lookups wait at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.gate = threading.Event()

    @override
    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        if len(sample_ids):  # the loader asks for no sample, to see which columns there are
            self.reached.set()
            assert self.gate.wait(60)
        return super().lookup(view, view_version, columns, sample_ids)


async def test_a_call_under_way_is_finished_before_the_server_stops(running: Running) -> None:
    running.lab.load()
    version = running.lab.convert()
    store = GatedStore()
    server = await running.start(store=store)
    caller = running.caller()
    asked = asyncio.create_task(caller.score(query_for(version, *[b"p1"] * (INLINE_SAMPLES + 1))))
    assert await asyncio.to_thread(store.reached.wait, 60)
    stopping = asyncio.create_task(server.__aexit__(None, None, None))

    async def refused() -> bool:
        try:
            return await running.caller().health() == NOT_SERVING
        except ServerUnavailableError:
            return True

    await eventually(refused)
    assert not asked.done()
    store.gate.set()
    assert ((await asked).share.status == OK).all()
    await stopping


async def test_the_deadline_of_the_message_holds_where_grpc_has_none(running: Running) -> None:
    running.lab.load()
    version = running.lab.convert()
    store = GatedStore()
    await running.start(store=store)
    request = codec.query_to_wire(query_for(version, *[b"p1"] * (INLINE_SAMPLES + 1)), 50)
    with pytest.raises(PartyTimeoutError) as raised:
        await running.caller().call("Score", request, participant_pb2.ScoreReply, timeout_s=None)
    assert raised.value.party == "lab"
    store.gate.set()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server(lab: Lab, certificates: Certificates, signum: signal.Signals) -> None:
    addresses: list[str] = []
    ready = asyncio.Event()

    def announce(address: str) -> None:
        addresses.append(address)
        ready.set()

    serving = asyncio.create_task(serve(settings_with(lab.folder), lab.warehouse, certificates.lab, ready=announce))
    async with asyncio.timeout(30):
        await ready.wait()
        os.kill(os.getpid(), signum)
        await serving
    assert addresses[0].startswith("127.0.0.1:")
    assert not addresses[0].endswith(":0")


async def test_plain_text_takes_the_identity_that_is_stated(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fedpredict.participant.server")
    running.lab.load()
    version = running.lab.convert()
    await running.start(insecure=True, tls=None)
    assert "participant.insecure" in [record.message for record in caplog.records]
    stated = running.plain_caller(Identity(IdentityKind.PARTY, "hospital"))
    assert (await stated.score(query_for(version, b"p1"))).share.status.tolist() == [OK]
    request = participant_pb2.HelloRequest(protocol_version=1, nonce=bytes(32))
    assert not (await stated.call("Hello", request, participant_pb2.HelloReply)).signature
    with pytest.raises(ModelNotFoundError):
        await running.plain_caller(Identity(IdentityKind.PARTY, "stranger")).describe("cancer")
    with pytest.raises(UnauthenticatedError):
        await running.plain_caller(None).describe("cancer")


async def test_a_stated_identity_is_not_read_where_there_is_tls(
    running: Running, cancer: ModelVersion, certificates: Certificates
) -> None:
    channel = grpc.aio.secure_channel(
        running.address, channel_credentials(certificates.stranger), options=channel_options(server_name("lab"))
    )
    async with channel:
        with pytest.raises(ModelNotFoundError):
            await Caller(channel, Identity(IdentityKind.PARTY, "hospital")).describe("cancer")


async def test_the_log_holds_no_sample_id_feature_or_share(
    running: Running, cancer: ModelVersion, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caller = running.caller()
    await caller.score(query_for(cancer, b"p17", b"nobody-4711", b"p17\n"))
    with pytest.raises(UnsupportedModeError):
        await caller.score(query_for(cancer, b"nobody-4711", mode=Mode.REALTIME))
    lines = [str(vars(record)) for record in caplog.records if record.name.startswith("fedpredict")]
    assert any("score.done" in line for line in lines)
    for secret in ("p17", "4711", repr(float(trained.share[17]))[:8], repr(float(trained.rows[17, 10]))[:8]):
        assert not [line for line in lines if secret in line]


async def test_the_line_of_a_refused_call_says_whose_it_was(
    running: Running, cancer: ModelVersion, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "fedpredict.wire.handlers")
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(logging.getLogger("fedpredict.wire.handlers"), "handlers", [handler])
    caller, query = running.caller(), query_for(cancer)
    with pytest.raises(EmptyRequestError):
        await caller.score(query)
    with pytest.raises(ProtocolError):
        await caller.call("Score", participant_pb2.ScoreRequest(), participant_pb2.ScoreReply)
    request = participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r" * 65, model_id="cancer")
    with pytest.raises(ProtocolError):
        await caller.call("DescribeModel", request, participant_pb2.DescribeModelReply)
    empty, *broken = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (empty["event"], empty["caller"], empty["model"]) == ("call.refused", "hospital", "cancer")
    assert empty["request_id"] == query.request_id
    assert [(line["event"], line["caller"]) for line in broken] == [("call.refused", "hospital")] * 2
    assert not [line for line in broken if "request_id" in line or "model" in line]

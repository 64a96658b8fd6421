"""What bad input gets from every RPC of every service, every way there is: real daemons, one bad field at a time.

The services' descriptors are walked: a new method without a good request here fails the first test, and a new field is
made bad by itself.
"""

from __future__ import annotations

import asyncio
import copy
import fnmatch
import os
import re
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from fedpredict.errors import FedPredictError
from fedpredict.initiator.offline.open import TaskParts
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.populations import MAX_BUCKET_ROWS, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.public_status import INTERNAL, STATUS
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_keys import open_keys
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.state.sql import open_pin_store
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.models import current_versions
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.ending import Ending
from fedpredict.wire.inference import grpc_service_pb2 as oip
from fedpredict.wire.offline_arrow import chunk_to_wire
from fedpredict.wire.socket_carrier import Preface
from fedpredict.wire.status import GRPC_CODES
from fedpredict.wire.v1 import common_pb2, initiator_pb2, link_pb2, participant_pb2, participant_service_pb2
from tests.hellos import verify_hello
from tests.integration.daemons import World
from tests.integration.federation import Certificates, eventually
from tests.integration.spoiling import spoiled

PARTICIPANT = "fedpredict.wire.v1.ParticipantService"
INITIATOR = "fedpredict.wire.v1.InitiatorService"
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
FRAMES = {
    "Hello": "hello",
    "DescribeModel": "describe",
    "Score": "score",
    "ScoreBucket": "score_bucket",
    "RegisterPopulation": "population",
    "PutPopulationBucket": "population_bucket",
}
"""Method of a participant -> what a frame of a standing link calls it."""

Outcome = tuple[str, str]
"""A gRPC status code's name and the text beside it; ("OK", "") for an answer."""

TOO_LARGE = r"(CLIENT|SERVER): Received message larger than max \(\d+ vs\. \d+\)"
PUBLIC = re.compile(
    "|".join(
        [re.sub(r"\\\{\w+\\\}", r"[\\w .,:;$()\\[\\]<>'^*+-]{0,200}", re.escape(each.text)) for each in STATUS.values()
         if each is not INTERNAL] + [TOO_LARGE]
    )
)  # fmt: skip
"""What may be told: the fixed texts with their public fields, and gRPC's own of a message that is too large."""

SECRETS = ("secret-sample", "run-1", "/", "Traceback", "lab.key")
"""Of the world below: an id, a training run, paths. None of them may be in a text that leaves a process."""


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        good: Messages that are answered; several are those of one stream.
        optional: What may be made bad and is answered all the same, as regular expressions of `spoiled`'s words.
        streams: Whether messages are sent one after another on a stream.
        party: The party that calls; empty: the bank at the participant, its client `desk` at the initiator.
    """

    good: Callable[[Daemons], Sequence[Message]]
    optional: tuple[str, ...] = ()
    streams: bool = False
    party: str = ""

    def may_be_answered(self, what: str) -> bool:
        """Return whether that spoiling leaves a message that is answered."""
        return any(re.fullmatch(pattern, what) for pattern in self.optional)


class Daemons(World):
    """A laboratory that takes links over sockets and writes an audit log, and a bank that asks it, for its clients."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder, certificates)
        self.channels: dict[tuple[bool, TlsFiles | None], grpc.aio.Channel] = {}

    async def start(self, **changes: object) -> None:
        """Start the laboratory alone, with some settings changed."""
        self.audit = self.stack.enter_context(
            AuditLog(AuditSettings(write_s=0.01), self.folder / "audit", "lab", 0, open_keys(self.folder / "audit"))
        )
        tls = self.certificates.of("lab")
        content = {
            "party": "lab",
            "listen": "127.0.0.1:0",
            "link_listen": "127.0.0.1:0",
            "poll_s": 0.05,
            "drain_s": 5.0,
            "max_samples": 100,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "warehouse": {"path": "elsewhere"},
            "callers": {"bank": {"models": ["*"]}, "shop": {"models": ["other"]}, "insurer": {"models": ["m"]}},
            **changes,
        }
        warehouse = self.warehouse("lab")
        self.version = current_versions(warehouse)["m"]
        self.lab = await self.stack.enter_async_context(
            ParticipantServer(ParticipantSettings.model_validate(content), warehouse, tls, audit=self.audit)
        )
        await self.lab.wait_read()

    async def start_bank(self) -> None:
        """Start the initiator, and wait until its model is ready."""
        await self.start()
        tls = self.certificates.of("bank")
        content = {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "deadline_s": 20.0,
            "poll_s": 0.05,
            "max_samples": 100,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "parties": {"lab": {"address": self.lab.address}, "dials": {"connect": "in"}},
            "models": {"m": {"parties": ["lab"]}},
            "clients": {"desk": {"models": ["*"]}, "kiosk": {"models": ["other"]}},
        }
        (self.folder / "bank").mkdir()
        pins = open_pin_store("sqlite:///state.db", self.folder)
        tasks = open_task_store("sqlite:///state.db", self.folder)
        self.stack.callback(pins.close)
        self.stack.callback(tasks.close)
        server = InitiatorServer(
            InitiatorSettings.model_validate(content), pins, tls,
            tasks=TaskParts(tasks, LocalWarehouse(self.folder / "bank")),
        )  # fmt: skip
        self.bank = await self.stack.enter_async_context(server)
        await self.predicted_one()
        desk = self.channel(INITIATOR)
        async with desk:
            upload = desk.stream_stream(f"/{INITIATOR}/UploadSamples", None, None)()  # type: ignore[call-arg]
            await upload.write(chunk_to_wire(SampleIds.of([b"u1", b"u2"]), "r-1").SerializeToString())
            await upload.done_writing()
            self.upload_id = initiator_pb2.UploadReply.FromString(cast(bytes, await upload.read())).upload_id
            submit = desk.unary_unary(f"/{INITIATOR}/SubmitTask", None, None)
            self.task_id = initiator_pb2.Task.FromString(await submit(submission(self).SerializeToString())).task_id

            async def done() -> bool:
                told = await desk.unary_unary(f"/{INITIATOR}/GetTask", None, None)(task_of(self).SerializeToString())
                return initiator_pb2.Task.FromString(told).state == initiator_pb2.TASK_STATE_DONE

            await eventually(done)

    async def predicted_one(self) -> None:
        """Return when the bank has answered a prediction."""
        request = predict_request(self).SerializeToString()

        async def answered() -> bool:
            return await self.asked(INITIATOR, "Predict", [request]) == ("OK", "")

        await eventually(answered)

    def channel(self, service: str, caller: TlsFiles | None = None) -> grpc.aio.Channel:
        """Return a channel to the daemon that serves `service`; `service` "lab" is the laboratory's health."""
        at_lab = service in {PARTICIPANT, "lab"}
        mine = self.certificates.of("bank") if at_lab else self.certificates.of("desk", IdentityKind.CLIENT)
        return grpc.aio.secure_channel(
            self.lab.address if at_lab else self.bank.address,
            channel_credentials(caller or mine),
            options=channel_options(server_name("lab" if at_lab else "bank")),
        )

    def open_channel(self, service: str, caller: TlsFiles | None = None) -> grpc.aio.Channel:
        """Return a channel as `channel` does, the same one each time: a handshake for every call would take minutes."""
        key = (service in {PARTICIPANT, "lab"}, caller)
        if key not in self.channels:
            self.channels[key] = self.channel(service, caller)
            self.stack.push_async_callback(self.channels[key].close, None)
        return self.channels[key]

    async def asked(
        self, service: str, method: str, messages: Sequence[bytes], caller: TlsFiles | None = None, *, at: str = ""
    ) -> Outcome:
        """Call as a stream where there are several messages or the row says so, and return what came of it."""
        row = ROWS.get((service, method))
        channel = self.open_channel(at or service, caller)
        path = f"/{service}/{method}"
        try:
            if row is not None and row.streams:
                call = channel.stream_stream(path, None, None)(timeout=30.0, wait_for_ready=True)  # type: ignore[call-arg]
                return await _said(method, call, messages)
            await channel.unary_unary(path, None, None)(messages[0], timeout=30.0, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


async def _said(method: str, call: grpc.aio.StreamStreamCall[bytes, bytes], messages: Sequence[bytes]) -> Outcome:
    """Send messages on a stream, and return what came of it."""
    ending = Ending(call)
    try:
        for message in messages:
            await call.write(message)
        await call.done_writing()
        return await _last(method, call)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call ended, maybe while it was written to
        error = await ending.error()
        return error.code().name, str(error.details())


async def _last(method: str, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> Outcome:
    """What a stream came to: its status, or that of the failure in its last message."""
    outcome = ("OK", "")
    while isinstance(data := await call.read(), bytes):
        if method == "PredictStream":
            answer = initiator_pb2.PredictAnswer.FromString(data)
            outcome = _of(answer.failure) if answer.HasField("failure") else ("OK", "")
    code = await call.code()
    return outcome if code is grpc.StatusCode.OK else (code.name, str(await call.details()))


def _of(failure: common_pb2.Failure) -> Outcome:
    names = {code.value[0]: code.name for code in GRPC_CODES.values()}
    return names[failure.code], failure.text


class Frames:
    """A standing link of a test's own: frames as they stand in ADR 0011, over a socket or a gRPC stream."""

    def __init__(self, send: Callable[[bytes], object], receive: Callable[[], object]) -> None:
        self._send, self._receive = send, receive
        self._calls = 0

    async def ask(self, field: int, message: bytes) -> Outcome:
        """Send a call whose body is `message`, as it is, and return what came of it; ("CLOSED", "") for a lost link."""
        self._calls += 1
        body = bytes([0x08]) + _varint(self._calls) + _varint(field << 3 | 2) + _varint(len(message)) + message
        await self._send(body)  # type: ignore[misc]
        data = await self._receive()  # type: ignore[misc]
        if not isinstance(data, bytes):
            return "CLOSED", ""
        frame = link_pb2.Frame.FromString(data)
        assert frame.id == self._calls
        return _of(frame.failure) if frame.HasField("failure") else ("OK", "")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field_of(method: str) -> int:
    """The number of a frame's field for a call of a participant's method."""
    return link_pb2.Frame.DESCRIPTOR.fields_by_name[FRAMES[method]].number


async def socket_frames(daemons: Daemons, stack: AsyncExitStack, caller: TlsFiles | None = None) -> Frames:
    """Dial the laboratory's port for links."""
    host, _, port = daemons.lab.link_address.rpartition(":")
    context = LiveTls(caller or daemons.certificates.of("bank")).dialling_context()
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("lab"))
    stack.callback(writer.close)
    writer.write(Preface().to_bytes())
    assert await reader.readexactly(7) == Preface().to_bytes()

    async def send(data: bytes) -> None:
        writer.write(struct.pack(">I", len(data)) + data)

    async def receive() -> object:
        try:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            return await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    return Frames(send, receive)


async def stream_frames(daemons: Daemons, stack: AsyncExitStack, caller: TlsFiles | None = None) -> Frames:
    """Open a stream at the laboratory."""
    channel = await stack.enter_async_context(daemons.channel(PARTICIPANT, caller))
    call = channel.stream_stream(f"/{PARTICIPANT}/ScoreStream", None, None)()  # type: ignore[call-arg]
    return Frames(call.write, call.read)


WAYS = {"socket": socket_frames, "stream": stream_frames}


def ids(*sample_ids: bytes) -> common_pb2.SampleIds:
    """Sample ids as a message."""
    return codec.ids_to_wire(sample_ids)


def hello(_: Daemons) -> Message:
    """Ask who is there."""
    return participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32, instance="1", worker=0, workers=1)


def describe(_: Daemons) -> Message:
    """Ask what the model is."""
    return participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r-1", model_id="m")


def score(daemons: Daemons) -> participant_pb2.ScoreRequest:
    """Ask for a share."""
    return participant_pb2.ScoreRequest(
        protocol_version=1, request_id="r-1", model_id="m", manifest_sha256=b"\x5c" * 32,
        params_sha256=bytes.fromhex(daemons.version.params_sha256), mode=common_pb2.MODE_NEARLINE,
        sample_ids=ids(b"u1", b"secret-sample"), remaining_ms=20_000,
    )  # fmt: skip


def bucket(daemons: Daemons) -> participant_pb2.BucketRequest:
    """Ask for a bucket's share."""
    return participant_pb2.BucketRequest(
        protocol_version=1, request_id="r-1", task_id="t-1", model_id="m", manifest_sha256=b"\x5c" * 32,
        params_sha256=bytes.fromhex(daemons.version.params_sha256), mode=common_pb2.MODE_NEARLINE, bucket=0,
        n_buckets=1, sample_ids=ids(b"u1", b"secret-sample"), remaining_ms=20_000,
    )  # fmt: skip


POPULATION = SampleIds.of([b"u1"])


def notice(_: Daemons) -> participant_pb2.PopulationRequest:
    """Tell of a population."""
    return participant_pb2.PopulationRequest(
        protocol_version=1, request_id="r-1", population="people", version=1, n_ids=1,
        bucket_sha256s=bytes.fromhex(digest_of(POPULATION)),
    )  # fmt: skip


def put(_: Daemons) -> participant_pb2.PopulationBucket:
    """Send its only bucket."""
    return participant_pb2.PopulationBucket(
        protocol_version=1, request_id="r-1", population="people", version=1, bucket=0,
        bucket_sha256=bytes.fromhex(digest_of(POPULATION)), sample_ids=ids(b"u1"),
    )  # fmt: skip


def predict_request(_: Daemons) -> initiator_pb2.PredictRequest:
    """Ask for a prediction."""
    return initiator_pb2.PredictRequest(
        protocol_version=1, request_id="r-1", model_id="m", mode=common_pb2.MODE_NEARLINE,
        sample_ids=ids(b"u1", b"secret-sample"),
    )  # fmt: skip


def task_of(daemons: Daemons) -> initiator_pb2.GetTaskRequest:
    """Name a task that is there."""
    return initiator_pb2.GetTaskRequest(protocol_version=1, request_id="r-1", task_id=daemons.task_id)


def submission(daemons: Daemons) -> initiator_pb2.SubmitTaskRequest:
    """Ask for a task over the ids that were sent."""
    return initiator_pb2.SubmitTaskRequest(
        protocol_version=1, request_id="r-1", model_id="m", mode=common_pb2.MODE_NEARLINE,
        upload_id=daemons.upload_id, idempotency_key="once", note="weekly",
    )  # fmt: skip


def infer(_: Daemons) -> oip.ModelInferRequest:
    """Ask for a prediction in the Open Inference Protocol."""
    request = oip.ModelInferRequest(model_name="m", id="r-1")
    request.inputs.add(name="sample_id", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"u1", b"u2"])
    return request


def one(make: Callable[[Daemons], Message]) -> Callable[[Daemons], Sequence[Message]]:
    """Make a row's good messages of a single one."""
    return lambda daemons: [make(daemons)]


TRACE = (r"traceparent: .*",)
NO_TIME_LEFT = (r"remaining_ms: .*",)
PROOF = (r"certificate_chain: .*", r"signature: .*")
"""Looked at where the participant dialled, and cannot see whom it reached otherwise."""

ROWS: dict[tuple[str, str], Row] = {
    (PARTICIPANT, "Hello"): Row(one(hello), (r"nonce: .*", r"instance: .*", r"workers?: .*", r"wants_.*", *PROOF)),
    # checkpoints that are none, or whose signature is not good, are passed over
    (PARTICIPANT, "DescribeModel"): Row(one(describe), (r"checkpoints: .*",)),
    (PARTICIPANT, "Score"): Row(one(score), (*TRACE, *NO_TIME_LEFT, r"manifest_sha256: x", r"model_rows: .*")),
    (PARTICIPANT, "ScoreStream"): Row(
        lambda daemons: [link_pb2.Frame(id=1, score=score(daemons))], (r".*",), streams=True
    ),
    (PARTICIPANT, "ScoreBucket"): Row(one(bucket), NO_TIME_LEFT),
    (PARTICIPANT, "RegisterPopulation"): Row(one(notice)),
    (PARTICIPANT, "PutPopulationBucket"): Row(one(put)),
    (INITIATOR, "Predict"): Row(one(predict_request), (r"request_id: missing",)),
    (INITIATOR, "PredictStream"): Row(
        lambda daemons: [initiator_pb2.PredictCall(id=1, remaining_ms=20_000, predict=predict_request(daemons))],
        (r"id: 4294967295", *NO_TIME_LEFT, *TRACE, r"predict.request_id: missing"),
        streams=True,
    ),
    (INITIATOR, "Attach"): Row(
        lambda _: [link_pb2.Frame(id=1, hello_reply=participant_pb2.HelloReply())], (r".*",), streams=True,
        party="dials",
    ),
    (INITIATOR, "ListModels"): Row(lambda _: [initiator_pb2.ListModelsRequest(protocol_version=1)]),
    (INITIATOR, "UploadSamples"): Row(
        lambda _: [chunk_to_wire(SampleIds.of([b"u1"]), "r-1")], (r"request_id: missing",), streams=True
    ),
    (INITIATOR, "SubmitTask"): Row(
        one(submission), (r"request_id: missing", r"idempotency_key: missing", r"note: (missing|a path)")
    ),
    (INITIATOR, "GetTask"): Row(one(task_of), (r"request_id: .*",)),
    (INITIATOR, "ListTasks"): Row(
        lambda _: [initiator_pb2.ListTasksRequest(protocol_version=1, model_id="m", limit=5)],
        (r"model_id: missing", r"limit: .*"),
    ),
    (INITIATOR, "CancelTask"): Row(one(task_of), (r"request_id: .*",)),
    (INITIATOR, "RetryTask"): Row(one(task_of), (r"request_id: .*",)),
    (INITIATOR, "GetTaskHistory"): Row(one(task_of), (r"request_id: .*",)),
    (INITIATOR, "FetchResults"): Row(
        lambda daemons: [initiator_pb2.FetchResultsRequest(protocol_version=1, request_id="r-1",
                                                           task_id=daemons.task_id)],
        (r"request_id: .*",), streams=True,
    ),
    (INFERENCE, "ServerLive"): Row(lambda _: [oip.ServerLiveRequest()]),
    (INFERENCE, "ServerReady"): Row(lambda _: [oip.ServerReadyRequest()]),
    (INFERENCE, "ServerMetadata"): Row(lambda _: [oip.ServerMetadataRequest()]),
    (INFERENCE, "ModelReady"): Row(lambda _: [oip.ModelReadyRequest(name="m")]),
    (INFERENCE, "ModelMetadata"): Row(lambda _: [oip.ModelMetadataRequest(name="m")]),
    (INFERENCE, "ModelInfer"): Row(one(infer), (r"id: .*",)),
    (HEALTH, "Check"): Row(lambda _: [health_pb2.HealthCheckRequest()]),
}  # fmt: skip
NOT_OFFERED = {(HEALTH, "Watch"), (HEALTH, "List")}
"""Methods of the standard's descriptor that no daemon has; gRPC says so itself."""


def test_every_method_of_every_service_has_a_row() -> None:
    services = [
        *participant_service_pb2.DESCRIPTOR.services_by_name.values(),
        *initiator_pb2.DESCRIPTOR.services_by_name.values(),
        *oip.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
    ]

    named = {oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name: INFERENCE}
    methods = {(named.get(each.full_name, each.full_name), method.name) for each in services for method in each.methods}

    assert methods == set(ROWS) | NOT_OFFERED
    calls_of_frames = {each.message_type for each in link_pb2.Frame.DESCRIPTOR.oneofs_by_name["body"].fields}
    answered = {method.input_type for each in services if each.full_name == PARTICIPANT for method in each.methods}
    assert answered - {link_pb2.Frame.DESCRIPTOR} <= calls_of_frames
    assert {FRAMES[method] for service, method in ROWS if service == PARTICIPANT and method != "ScoreStream"} == set(
        FRAMES.values()
    )


@pytest.fixture
async def daemons(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Daemons]:
    world = Daemons(tmp_path, certificates)
    async with world.stack:
        yield world


def problem_of(outcome: Outcome, *, may_be_answered: bool) -> str:
    """Say what is wrong with what a bad message got; nothing where all is right."""
    code, text = outcome
    if code == "OK":
        return "" if may_be_answered else "was answered"
    if code in {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}:
        return f"got {code}: {text}"
    if not PUBLIC.fullmatch(text) or any(secret in text for secret in SECRETS):
        return f"was told {text!r}"
    return ""


async def problems_of(
    row: Row, daemons: Daemons, ask: Callable[[bytes], object], place: str
) -> tuple[list[str], list[str]]:
    """Ask a good question, every bad one, and the good one after each that is odd; give problems and outcomes."""
    *_, good = row.good(daemons)
    found, outcomes = [], []
    for what, data in [("good", good.SerializeToString()), *spoiled(good), ("good again", good.SerializeToString())]:
        outcome = await ask(data)  # type: ignore[misc]
        is_good = what.startswith("good")
        problem = problem_of(outcome, may_be_answered=is_good or row.may_be_answered(what))
        if is_good and outcome[0] != "OK":
            problem = f"got {outcome}"
        if problem:
            found.append(f"{place}: {what} {problem}")
        outcomes.append(f"{place}: {what} -> {outcome}")
    return found, outcomes


async def test_a_participant_refuses_every_bad_field_in_public_words_and_serves_on(daemons: Daemons) -> None:
    await daemons.start()
    found: list[str] = []
    for (service, method), row in ROWS.items():
        if service != PARTICIPANT:
            continue

        async def ask(data: bytes, method: str = method) -> Outcome:
            return await daemons.asked(PARTICIPANT, method, [data])

        found += (await problems_of(row, daemons, ask, method))[0]

    assert found == []


@pytest.mark.parametrize("way", sorted(WAYS))
async def test_so_does_it_on_a_standing_link(way: str, daemons: Daemons) -> None:
    await daemons.start()
    found: list[str] = []
    async with AsyncExitStack() as stack:
        for method in FRAMES:
            frames = [await WAYS[way](daemons, stack)]

            async def ask(data: bytes, method: str = method, frames: list[Frames] = frames) -> Outcome:
                outcome = await frames[0].ask(field_of(method), data)
                if outcome[0] == "CLOSED":
                    # what does not parse ends the link, and another one is taken
                    frames[0] = await WAYS[way](daemons, stack)
                    return (
                        ("INVALID_ARGUMENT", "the message cannot be understood")
                        if _is_broken(data, method)
                        else outcome
                    )
                return outcome

            found += (await problems_of(ROWS[PARTICIPANT, method], daemons, ask, method))[0]

    assert found == []


def _is_broken(data: bytes, method: str) -> bool:
    """Whether bytes are no message of the method."""
    kind = link_pb2.Frame.DESCRIPTOR.fields_by_name[FRAMES[method]].message_type
    assert kind is not None
    try:
        getattr(participant_pb2, kind.name).FromString(data)
    except DecodeError:
        return True
    return False


async def test_every_refusal_has_a_line_in_the_audit_log(daemons: Daemons) -> None:
    await daemons.start()
    expected: list[tuple[str, bool]] = []
    for method in FRAMES:
        row = ROWS[PARTICIPANT, method]
        *_, good = row.good(daemons)
        for what, data in spoiled(good):
            if "1 MB" in what or "100 kB" in what:
                continue
            outcome = await daemons.asked(PARTICIPANT, method, [data])
            if method != "Hello" or outcome[0] != "OK":
                expected.append((method, outcome[0] == "OK"))
    async with AsyncExitStack() as stack:
        for way in WAYS.values():
            frames = await way(daemons, stack)
            assert (await frames.ask(field_of("Hello"), b"\xff\xff"))[0] == "CLOSED"
            expected.append(("Frame", False))
    await daemons.stack.aclose()

    found = [(each["what"], each["outcome"] == "ok") for each in calls([daemons.folder / "audit" / "worker-0"])]

    assert found == expected


async def test_the_initiator_refuses_every_bad_field_in_public_words_and_serves_on(daemons: Daemons) -> None:
    await daemons.start_bank()
    found: list[str] = []
    for (service, method), row in ROWS.items():
        if service in {PARTICIPANT, HEALTH}:
            continue
        *before, _ = row.good(daemons)

        async def ask(
            data: bytes, service: str = service, method: str = method, before: Sequence[Message] = before
        ) -> Outcome:
            party = ROWS[service, method].party
            caller = daemons.certificates.of(party) if party else None
            sent = [*(each.SerializeToString() for each in before), data]
            return await daemons.asked(service, method, sent, caller)

        found += (await problems_of(row, daemons, ask, method))[0]
        await daemons.predicted_one()

    assert found == []


NOBODY = ("NOT_FOUND", "no such model")
NO_PLACE = ("FAILED_PRECONDITION", "population people: no populations are taken here")
NO_TASK = ("NOT_FOUND", "no such task")
ABOUT_TASKS = ("GetTask", "CancelTask", "RetryTask", "GetTaskHistory", "FetchResults")
NO_PARTY = ("UNAUTHENTICATED", "no identity of a party was proved")
OK = ("OK", "")
STRANGERS: dict[tuple[str, str], Outcome] = {
    (PARTICIPANT, "Hello"): OK,
    (PARTICIPANT, "DescribeModel"): NOBODY,
    (PARTICIPANT, "Score"): NOBODY,
    (PARTICIPANT, "ScoreStream"): OK,
    (PARTICIPANT, "ScoreBucket"): NOBODY,
    (PARTICIPANT, "RegisterPopulation"): NO_PLACE,
    (PARTICIPANT, "PutPopulationBucket"): NO_PLACE,
    (INITIATOR, "Predict"): NOBODY,
    (INITIATOR, "PredictStream"): NOBODY,
    (INITIATOR, "Attach"): NO_PARTY,
    (INITIATOR, "ListModels"): NOBODY,
    (INITIATOR, "UploadSamples"): NOBODY,
    (INITIATOR, "SubmitTask"): NOBODY,
    (INITIATOR, "GetTask"): NOBODY,
    (INITIATOR, "ListTasks"): NOBODY,
    (INITIATOR, "CancelTask"): NOBODY,
    (INITIATOR, "RetryTask"): NOBODY,
    (INITIATOR, "GetTaskHistory"): NOBODY,
    (INITIATOR, "FetchResults"): NOBODY,
    (INFERENCE, "ServerLive"): OK,
    (INFERENCE, "ServerReady"): OK,
    (INFERENCE, "ServerMetadata"): OK,
    (INFERENCE, "ModelReady"): NOBODY,
    (INFERENCE, "ModelMetadata"): NOBODY,
    (INFERENCE, "ModelInfer"): NOBODY,
    (HEALTH, "Check"): OK,
}
"""What a caller gets who may ask for nothing; OK where the answer is the same for everybody, or empty."""


def renamed(message: Message) -> Message:
    """The same question about a model, or a task, that nobody has."""
    copied = copy.deepcopy(message)
    for name in ("model_id", "model_name", "name"):
        if name in copied.DESCRIPTOR.fields_by_name:
            setattr(copied, name, "nobodys")
    for name in ("predict", "score"):
        if name in copied.DESCRIPTOR.fields_by_name:
            getattr(copied, name).model_id = "nobodys"
    if "task_id" in copied.DESCRIPTOR.fields_by_name and "model_id" not in copied.DESCRIPTOR.fields_by_name:
        copied.task_id = "nobodys"  # type: ignore[attr-defined]
    return copied


async def test_who_may_not_ask_sees_what_is_not_there(daemons: Daemons) -> None:
    await daemons.start_bank()
    assert set(STRANGERS) == set(ROWS)
    strangers = [
        daemons.certificates.of("stranger"),
        daemons.certificates.of("nobody", IdentityKind.CLIENT),
        # a client that has the name of a party, and a party that has the name of a client
        daemons.certificates.of("bank", IdentityKind.CLIENT),
        daemons.certificates.of("desk"),
    ]
    found = []
    for (service, method), expected in STRANGERS.items():
        *_, good = ROWS[service, method].good(daemons)
        for caller in strangers:
            outcome = await daemons.asked(service, method, [good.SerializeToString()], caller)
            if outcome != expected:
                found.append(f"{method} for {caller.certificate.name}: {outcome}")
        if expected == NOBODY and method not in {"UploadSamples", "ListTasks", "ListModels"}:
            listed = await daemons.asked(service, method, [renamed(good).SerializeToString()])
            if listed != (NO_TASK if method in ABOUT_TASKS else NOBODY):
                found.append(f"{method} for who may ask for everything, of what is not there: {listed}")
        if service != PARTICIPANT and method != "UploadSamples":
            kiosk = daemons.certificates.of("kiosk", IdentityKind.CLIENT)
            both = [await daemons.asked(service, method, [each.SerializeToString()], kiosk)
                    for each in (good, renamed(good))]  # fmt: skip
            if both[0] != both[1]:
                found.append(f"{method} for who may ask for another model, of this one and of none: {both}")

    assert found == []


NAMED: dict[str, tuple[str, Callable[[Daemons], Message], Outcome]] = {
    "too many rows": (
        "Score",
        lambda daemons: changed(score(daemons), sample_ids=ids(*[b"u1"] * 101)),
        ("INVALID_ARGUMENT", "too many sample ids in one call; the limit is 100"),
    ),
    "no rows": (
        "Score",
        lambda daemons: changed(score(daemons), sample_ids=ids()),
        ("INVALID_ARGUMENT", "the request names no sample id"),
    ),
    "too many rows of a bucket": (
        "ScoreBucket",
        lambda daemons: changed(bucket(daemons), sample_ids=ids(*[b"u"] * (MAX_BUCKET_ROWS + 1))),
        ("INVALID_ARGUMENT", f"too many sample ids in one call; the limit is {MAX_BUCKET_ROWS}"),
    ),
    "an old epoch": (
        "Score",
        lambda daemons: changed(score(daemons), epoch=3),
        ("FAILED_PRECONDITION", "not the version that is served"),
    ),
    "an old epoch of a bucket": (
        "ScoreBucket",
        lambda daemons: changed(bucket(daemons), epoch=3),
        ("FAILED_PRECONDITION", "not the version that is served"),
    ),
    "a version that is not served": (
        "Score",
        lambda daemons: changed(score(daemons), params_sha256=bytes(32)),
        ("FAILED_PRECONDITION", "not the version that is served"),
    ),
    "an unknown mode": (
        "Score",
        lambda daemons: changed(score(daemons), mode=99),
        ("INVALID_ARGUMENT", "the message cannot be understood"),
    ),
    "a mode that is not served": (
        "Score",
        lambda daemons: changed(score(daemons), mode=common_pb2.MODE_REALTIME),
        ("UNIMPLEMENTED", "mode realtime is not served here"),
    ),
    "no request id": (
        "Score",
        lambda daemons: changed(score(daemons), request_id=""),
        ("INVALID_ARGUMENT", "the message cannot be understood"),
    ),
    "another protocol": (
        "DescribeModel",
        lambda daemons: changed(describe(daemons), protocol_version=99),
        ("INVALID_ARGUMENT", "the message cannot be understood"),
    ),
    "a name that is none": (
        "DescribeModel",
        lambda daemons: changed(describe(daemons), model_id="../m"),
        ("INVALID_ARGUMENT", "a name in the request breaks the naming rules"),
    ),
    "a message of another method": (
        "Score",
        notice,
        ("INVALID_ARGUMENT", "the message cannot be understood"),
    ),
    "ids of another population": (
        "PutPopulationBucket",
        lambda daemons: changed(put(daemons), population="others"),
        ("FAILED_PRECONDITION", "population others: *"),
    ),
}


def changed(message: Message, **fields: object) -> Message:
    """A message with some fields set."""
    for name, value in fields.items():
        if isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


async def test_each_kind_of_bad_question_has_its_status_and_text_by_every_way(daemons: Daemons) -> None:
    await daemons.start()
    found = []
    async with AsyncExitStack() as stack:
        links = {name: await way(daemons, stack) for name, way in WAYS.items()}
        for what, (method, make, (code, text)) in NAMED.items():
            data = make(daemons).SerializeToString()
            outcomes = {"unary": await daemons.asked(PARTICIPANT, method, [data])}
            outcomes |= {name: await each.ask(field_of(method), data) for name, each in links.items()}
            found += [f"{what} by {way}: {got}" for way, got in outcomes.items()
                      if got[0] != code or not fnmatch.fnmatchcase(got[1], text)]  # fmt: skip
            for each in links.values():
                assert await each.ask(field_of("Score"), score(daemons).SerializeToString()) == OK

    assert found == []


async def test_a_method_of_another_service_is_not_there(daemons: Daemons) -> None:
    await daemons.start_bank()

    for (service, method), row in ROWS.items():
        elsewhere = "lab" if service not in {PARTICIPANT, HEALTH} else INITIATOR
        if service == HEALTH or row.streams:
            continue
        *_, good = row.good(daemons)
        caller = daemons.certificates.of("bank")
        code, text = await daemons.asked(service, method, [good.SerializeToString()], caller, at=elsewhere)
        assert (code, text) == ("UNIMPLEMENTED", "Method not found!")


@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 1, 17 * 2**20], ids=["2 GB", "4 GB", "17 MB"])
async def test_a_frame_that_announces_gigabytes_ends_its_link_and_others_are_served(
    length: int, daemons: Daemons
) -> None:
    await daemons.start()
    async with AsyncExitStack() as stack:
        other = await socket_frames(daemons, stack)
        host, _, port = daemons.lab.link_address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host,
            int(port),
            ssl=LiveTls(daemons.certificates.of("bank")).dialling_context(),
            server_hostname=server_name("lab"),
        )
        stack.callback(writer.close)
        writer.write(Preface().to_bytes() + struct.pack(">I", length) + bytes(100))

        assert await asyncio.wait_for(reader.read(), 30) == Preface().to_bytes()
        assert await other.ask(field_of("Score"), score(daemons).SerializeToString()) == OK
    await daemons.stack.aclose()
    lines = [(each["what"], each["outcome"]) for each in calls([daemons.folder / "audit" / "worker-0"])]
    assert sorted(lines) == [("Frame", "ProtocolError"), ("Score", "ok")]


async def test_a_message_that_announces_4_gb_is_refused_before_it_is_there(daemons: Daemons) -> None:
    await daemons.start()
    host, _, port = daemons.lab.address.rpartition(":")
    context = LiveTls(daemons.certificates.of("bank")).dialling_context()
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=server_name("lab"))
    before = resident_bytes()
    headers = {
        ":method": "POST", ":scheme": "https", ":path": f"/{PARTICIPANT}/Score", ":authority": server_name("lab"),
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(b"\x00" + _hpack(name) + _hpack(value) for name, value in headers.items())
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _http2(4, 0, 0, b"") + _http2(1, 4, 1, block))
    writer.write(_http2(0, 0, 1, b"\x00\xff\xff\xff\xff" + bytes(1000)))

    kinds: list[tuple[int, int, int]] = []
    async with asyncio.timeout(30):
        # until the server ends the stream: trailers with END_STREAM, or a reset
        while not kinds or kinds[-1] not in {(1, 1, 5), (3, 1, 0)}:
            head = await reader.readexactly(9)
            kinds.append((head[3], int.from_bytes(head[5:9], "big") & 2**31 - 1, head[4]))
            await reader.readexactly(int.from_bytes(head[:3], "big"))
    writer.close()

    assert resident_bytes() - before < 2**30
    assert await daemons.asked(PARTICIPANT, "Score", [score(daemons).SerializeToString()]) == OK


def _hpack(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _http2(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def resident_bytes() -> int:
    """What this process, which runs the daemon, holds of memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_answer_to_another_nonce_proves_nothing(daemons: Daemons) -> None:
    await daemons.start()
    async with daemons.channel(PARTICIPANT) as channel:
        greet = channel.unary_unary(f"/{PARTICIPANT}/Hello", None, None)
        data = await greet(hello(daemons).SerializeToString())
    reply = participant_pb2.HelloReply.FromString(data)
    authority = daemons.certificates.of("bank").ca.read_bytes()

    caller, proof = Identity(IdentityKind.PARTY, "bank"), (reply.certificate_chain, reply.signature)

    verify_hello(authority, "lab", caller, b"n" * 32, proof)

    with pytest.raises(FedPredictError):
        verify_hello(authority, "lab", caller, b"m" * 32, proof)

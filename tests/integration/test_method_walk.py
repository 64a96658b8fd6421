"""Every method of every service, every frame of a link and every route: called with no rule, as somebody of the wrong
kind, and as who may.

The methods come from the protocol's own descriptors, the routes from the running edges, so that a new one without an
entry in the tables, or without a call here, fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from fedpredict.initiator import methods as initiator_methods
from fedpredict.initiator.http.openapi import describe as describe_http
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, manifest_to_json
from fedpredict.model.populations import BucketQuery, digest_of
from fedpredict.model.prediction import PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.model.standing import BucketIds, PopulationNotice
from fedpredict.participant import methods as participant_methods
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.policy import Needs
from fedpredict.security.tls import channel_credentials, server_name
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import codec, task_codec
from fedpredict.wire.bucket_codec import fill_bucket_query
from fedpredict.wire.channel import channel_options
from fedpredict.wire.handlers import Guarded, service, unary
from fedpredict.wire.inference import grpc_service_pb2 as inference_pb2
from fedpredict.wire.population_codec import fill_bucket_ids, fill_notice
from fedpredict.wire.v1 import initiator_pb2, link_pb2, masking_pb2, participant_pb2, participant_service_pb2
from tests.integration.federation import Certificates, Federation
from tests.integration.http.client import HttpsClient

PARTY, CLIENT = IdentityKind.PARTY, IdentityKind.CLIENT
NEEDS_RULE = (Needs.RULE, Needs.COUNTED, Needs.CALL)
WAITS_S = 30.0
TRIES = 20
"""gRPC's client makes INTERNAL of any status that comes while it writes; nothing here is to answer that."""
IDS = SampleIds.of([b"u1", b"u2"])
QUERY = ScoreQuery(
    request_id="r-1",
    model_id="m",
    manifest_sha256="5c" * 32,
    params_sha256="5d" * 32,
    mode=Mode.NEARLINE,
    sample_ids=[b"u1"],
)
BUCKET = BucketQuery(
    request_id="r-1",
    task_id="t-1",
    model_id="m",
    manifest_sha256="5c" * 32,
    params_sha256="5d" * 32,
    mode=Mode.NEARLINE,
    bucket=0,
    n_buckets=1,
    rows=IDS,
    ids_sha256=digest_of(IDS),
)
NOTICE = PopulationNotice(request_id="r-2", population="all", version=1, n_ids=2, digests=(digest_of(IDS),))
PUT = BucketIds(request_id="r-3", population="all", version=1, bucket=0, sha256=digest_of(IDS), content=IDS)
TASK = PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1"])


def filled(fill: Callable[..., None], message: Message, *values: object) -> Message:
    fill(message, *values)
    return message


def frame(body: str, message: Message) -> link_pb2.Frame:
    made = link_pb2.Frame(id=1)
    getattr(made, body).CopyFrom(message)
    return made


CALLS: Mapping[str, Message] = {
    f"{participant_methods.SERVICE}/Hello": participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32),
    f"{participant_methods.SERVICE}/DescribeModel": participant_pb2.DescribeModelRequest(
        protocol_version=1, request_id="r-1", model_id="m"
    ),
    f"{participant_methods.SERVICE}/Score": codec.query_to_wire(QUERY, 0),
    f"{participant_methods.SERVICE}/ScoreBucket": filled(fill_bucket_query, participant_pb2.BucketRequest(), BUCKET),
    f"{participant_methods.SERVICE}/RegisterPopulation": filled(
        fill_notice, participant_pb2.PopulationRequest(), NOTICE
    ),
    f"{participant_methods.SERVICE}/PutPopulationBucket": filled(
        fill_bucket_ids, participant_pb2.PopulationBucket(), PUT
    ),
    f"{participant_methods.SERVICE}/ScoreStream": frame(
        "hello", participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32)
    ),
    "grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
    "grpc.health.v1.Health/List": health_pb2.HealthListRequest(),
    "grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest(),
    f"{initiator_methods.SERVICE}/Predict": task_codec.task_to_wire(TASK),
    f"{initiator_methods.SERVICE}/PredictStream": initiator_pb2.PredictCall(
        id=1, predict=task_codec.task_to_wire(TASK)
    ),
    f"{initiator_methods.SERVICE}/Attach": frame("drain", link_pb2.Drain()),
    f"{initiator_methods.SERVICE}/ListModels": initiator_pb2.ListModelsRequest(protocol_version=1),
    f"{initiator_methods.SERVICE}/UploadSamples": initiator_pb2.UploadChunk(protocol_version=1, request_id="r-1"),
    f"{initiator_methods.SERVICE}/SubmitTask": initiator_pb2.SubmitTaskRequest(
        protocol_version=1, request_id="r-1", model_id="m", mode="MODE_NEARLINE", upload_id="up-1"
    ),
    **{
        f"{initiator_methods.SERVICE}/{name}": initiator_pb2.GetTaskRequest(protocol_version=1, task_id="t-1")
        for name in ("GetTask", "CancelTask", "RetryTask", "GetTaskHistory")
    },
    f"{initiator_methods.SERVICE}/ListTasks": initiator_pb2.ListTasksRequest(protocol_version=1),
    f"{initiator_methods.SERVICE}/FetchResults": initiator_pb2.FetchResultsRequest(protocol_version=1, task_id="t-1"),
    f"{initiator_methods.INFERENCE}/ServerLive": inference_pb2.ServerLiveRequest(),
    f"{initiator_methods.INFERENCE}/ServerReady": inference_pb2.ServerReadyRequest(),
    f"{initiator_methods.INFERENCE}/ServerMetadata": inference_pb2.ServerMetadataRequest(),
    f"{initiator_methods.INFERENCE}/ModelReady": inference_pb2.ModelReadyRequest(name="m"),
    f"{initiator_methods.INFERENCE}/ModelMetadata": inference_pb2.ModelMetadataRequest(name="m"),
    f"{initiator_methods.INFERENCE}/ModelInfer": inference_pb2.ModelInferRequest(model_name="m"),
}
"""A call of each method that its parser takes."""


STANDING = (
    f"{participant_methods.SERVICE}/ScoreStream",
    f"{initiator_methods.SERVICE}/PredictStream",
    f"{initiator_methods.SERVICE}/Attach",
)
"""Streams that callers leave open."""


def methods_of(*descriptors: ServiceDescriptor) -> Iterator[tuple[str, bool]]:
    """Yield every method of some services, and whether it takes or gives a stream."""
    for each in descriptors:
        for method in each.methods:
            # the protocol's own name of the service, which our copy of its file stands elsewhere than
            name = each.full_name.removeprefix("fedpredict.wire.") if "inference" in each.full_name else each.full_name
            yield f"{name}/{method.name}", method.client_streaming or method.server_streaming


HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
OF_PARTICIPANT = dict(methods_of(participant_service_pb2.DESCRIPTOR.services_by_name["ParticipantService"], HEALTH))
OF_INITIATOR = dict(
    methods_of(
        initiator_pb2.DESCRIPTOR.services_by_name["InitiatorService"],
        inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        HEALTH,
    )
)


@dataclass
class Daemon:
    """A running daemon, and who is who for it."""

    certificates: Certificates
    party: str
    address: str
    allowed: Identity
    stranger: Identity
    """Of the kind that may have a rule, and has none."""
    wrong_kind: Identity
    """Has the name of who has a rule, and is of the other kind."""
    http_address: str = ""
    streams: dict[str, bool] = field(default_factory=dict)

    async def call(self, method: str, caller: Identity, message: Message | None = None) -> tuple[str, bytes]:
        """Return the status of a call, and the first message that came; nothing where the other side ended it."""
        for _ in range(TRIES):
            status, got = await self._call(method, caller, message)
            if status != "INTERNAL":
                return status, got
        return "INTERNAL", b""

    async def _call(self, method: str, caller: Identity, message: Message | None) -> tuple[str, bytes]:
        credentials = channel_credentials(self.certificates.of(caller.name, caller.kind))
        options = channel_options(server_name(self.party))
        sent = (message or CALLS[method]).SerializeToString()
        async with grpc.aio.secure_channel(self.address, credentials, options=options) as channel:
            try:
                if not self.streams[method]:
                    return "OK", await channel.unary_unary(f"/{method}", None, None)(sent, timeout=WAITS_S)
                return "OK", await _first(channel, method, sent)
            except grpc.aio.AioRpcError as error:
                return error.code().name, b""


async def _first(channel: grpc.aio.Channel, method: str, sent: bytes) -> bytes:
    """Return the first message of a stream, or nothing where the other side ended it without one."""
    call = channel.stream_stream(f"/{method}", None, None)(timeout=WAITS_S)  # type: ignore[call-arg]
    with contextlib.suppress(asyncio.InvalidStateError):  # it ended before the message was sent: reading says how
        await call.write(sent)
        if method not in STANDING:
            await call.done_writing()
    got = await call.read()
    call.cancel()
    return got if isinstance(got, bytes) else b""


@pytest.fixture
async def participant(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Daemon]:
    tls = certificates.of("lab")
    settings = ParticipantSettings.model_validate(
        {
            "party": "lab",
            "listen": "127.0.0.1:0",
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "warehouse": {"path": str(tmp_path / "warehouse")},
            "callers": {"bank": {"models": ["*"]}},
        }
    )
    async with AsyncExitStack() as stack:
        warehouse = LocalWarehouse(tmp_path / "warehouse")
        stack.callback(warehouse.close)
        server = await stack.enter_async_context(ParticipantServer(settings, warehouse, tls))
        await server.wait_read()
        yield Daemon(
            certificates,
            "lab",
            server.address,
            allowed=Identity(PARTY, "bank"),
            stranger=Identity(PARTY, "shop"),
            wrong_kind=Identity(CLIENT, "bank"),
            streams=OF_PARTICIPANT,
        )


@pytest.fixture
async def initiator(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Daemon]:
    async with Federation(tmp_path, certificates) as federation:
        tasks = LocalWarehouse(tmp_path / "tasks")
        federation.stack.callback(tasks.close)
        server: InitiatorServer = await federation.initiator(
            {"m": {"parties": ["lab"]}},
            task_warehouse=tasks,
            parties={"lab": {"connect": "in"}},
            http_listen="127.0.0.1:0",
        )
        yield Daemon(
            certificates,
            "bank",
            server.address,
            allowed=Identity(CLIENT, "desk"),
            stranger=Identity(CLIENT, "other"),
            wrong_kind=Identity(PARTY, "desk"),
            http_address=server.http_address or "",
            streams=OF_INITIATOR,
        )


def test_the_tables_name_every_method_and_nothing_that_is_none() -> None:
    assert set(participant_methods.METHODS) == set(OF_PARTICIPANT)
    assert set(initiator_methods.METHODS) == set(OF_INITIATOR)
    assert set(CALLS) == {*OF_PARTICIPANT, *OF_INITIATOR}


async def walk(daemon: Daemon, table: Mapping[str, Needs]) -> None:
    for method, needs in table.items():
        statuses = {
            who: (await daemon.call(method, caller))[0]
            for who, caller in (("no rule", daemon.stranger), ("wrong kind", daemon.wrong_kind))
        }
        allowed, _ = await daemon.call(method, daemon.allowed)
        if needs is Needs.UNSERVED:
            assert {*statuses.values(), allowed} == {"UNIMPLEMENTED"}, method
        elif needs in (Needs.NOTHING, Needs.IDENTITY):
            assert {*statuses.values(), allowed} == {"OK"}, (method, statuses, allowed)
        elif needs is Needs.PEER:
            assert {*statuses.values(), allowed} == {"UNAUTHENTICATED"}, method
        else:
            refused = "FAILED_PRECONDITION" if "Population" in method else "NOT_FOUND"
            assert set(statuses.values()) == {refused}, (method, statuses)
            # it gets as far as the method itself: there is no such model, task or upload
            assert allowed in ("OK", "NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"), (method, allowed)


async def test_every_method_of_a_participant_is_for_whom_its_table_says(participant: Daemon) -> None:
    await walk(participant, participant_methods.METHODS)


async def test_every_method_of_an_initiator_is_for_whom_its_table_says(initiator: Daemon) -> None:
    await walk(initiator, initiator_methods.METHODS)


_ROUND = masking_pb2.MaskRound(session_id=bytes(32), round=1)
_MANIFEST = Manifest(
    model_id="m",
    training_run="run-1",
    kind=Kind.LINEAR,
    link=own_link(Kind.LINEAR),
    classes=(),
    n_scores=1,
    fit_intercept=False,
    intercept_party=None,
    digests=(("lab", "5c" * 32), ("shop", "5d" * 32)),
)
MASKED: Mapping[str, Message] = {
    "masked_score": masking_pb2.MaskedScoreRequest(score=codec.query_to_wire(QUERY, 0), rounds=[_ROUND]),
    "masked_bucket": filled(
        lambda into, query: fill_bucket_query(into.bucket, query), masking_pb2.MaskedBucketRequest(round=_ROUND), BUCKET
    ),
    "mask_key": masking_pb2.MaskKeyRequest(
        protocol_version=1, request_id="r-1", manifest=manifest_to_json(_MANIFEST), session_id=bytes(32)
    ),
    "mask_keys": masking_pb2.MaskKeysRequest(protocol_version=1, request_id="r-1", session_id=bytes(32)),
}
"""Frames that stand for a method with a message of their own."""


async def test_a_party_that_the_settings_list_may_attach(initiator: Daemon) -> None:
    method = f"{initiator_methods.SERVICE}/Attach"

    _, got = await initiator.call(method, Identity(PARTY, "lab"))

    assert link_pb2.Frame.FromString(got).HasField("hello")


def bodies() -> Iterator[str]:
    for each in link_pb2.Frame.DESCRIPTOR.oneofs_by_name["body"].fields:
        yield each.name


@pytest.mark.parametrize("body", list(bodies()))
async def test_every_frame_of_a_link_is_for_whom_its_method_is_or_ends_the_link(participant: Daemon, body: str) -> None:
    method = participant_methods.FRAMES.get(body)
    if body == "cancel":
        return  # ends a call of its own link, and has no answer
    if method is None:
        # what only the answering side says: whoever sends it loses the link, unanswered
        sent = link_pb2.Frame(id=1)
        getattr(sent, body).SetInParent()
        _, got = await participant.call(f"{participant_methods.SERVICE}/ScoreStream", participant.allowed, sent)
        assert got == b""
        return
    stream = f"{participant_methods.SERVICE}/ScoreStream"
    sent = frame(body, MASKED.get(body, CALLS[method]))
    for caller in (participant.stranger, participant.wrong_kind):
        _, got = await participant.call(stream, caller, sent)
        answer = link_pb2.Frame.FromString(got)
        if participant_methods.METHODS[method] is Needs.IDENTITY:
            assert answer.WhichOneof("body") == "hello_reply"
        else:
            refused = grpc.StatusCode.FAILED_PRECONDITION if "population" in body else grpc.StatusCode.NOT_FOUND
            assert answer.failure.code == refused.value[0]


async def test_a_call_on_a_prediction_stream_is_held_to_the_rules(initiator: Daemon) -> None:
    method = f"{initiator_methods.SERVICE}/PredictStream"
    for caller in (initiator.stranger, initiator.wrong_kind):
        _, got = await initiator.call(method, caller)
        assert initiator_pb2.PredictAnswer.FromString(got).failure.text == "no such model"


@pytest.mark.parametrize("route", list(initiator_methods.ROUTES))
async def test_every_route_of_an_initiator_is_for_whom_its_table_says(initiator: Daemon, route: str) -> None:
    verb, path = route.replace("{model}", "m").replace("{version}", "1").split()
    needs = initiator_methods.ROUTES[route]
    body = b"{}" if verb == "GET" else b'{"model": "m", "mode": "nearline", "sample_ids": ["u1"], "inputs": []}'
    if path == "/v1/predict":
        body = b'{"model": "m", "mode": "nearline", "sample_ids": ["u1"]}'
    head = f"{verb} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    statuses = {}
    for caller in (initiator.stranger, initiator.wrong_kind, initiator.allowed):
        client = HttpsClient(initiator.http_address, initiator.certificates.of(caller.name, caller.kind))
        statuses[caller] = (await client.ask(head.encode() + body)).status
    if needs is Needs.NOTHING:
        assert set(statuses.values()) == {200}
    else:
        assert [statuses[initiator.stranger], statuses[initiator.wrong_kind]] == [404, 404]
        # no version is pinned yet, so that whoever may ask is told that the model is not ready
        assert statuses[initiator.allowed] in (200, 400, 404 if "versions" in path else 503, 503)


def test_the_routes_are_those_that_the_description_and_the_page_have() -> None:
    paths = describe_http(100)["paths"]
    assert isinstance(paths, dict)
    described = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}

    assert described <= set(initiator_methods.ROUTES)
    assert {each for each in initiator_methods.ROUTES if "docs" not in each and "openapi" not in each} == described


async def test_a_method_that_is_in_no_table_is_not_there(tmp_path: Path) -> None:
    async def answer(_request: Message, _context: object) -> Message:
        return participant_pb2.PopulationBucketReply()

    method = unary(health_pb2.HealthCheckRequest, answer)
    server = grpc.aio.server()
    services = (service("s.S", {"Known": method, "Forgotten": method}),)
    server.add_generic_rpc_handlers((Guarded(services, {"s.S/Known"}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seen = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("Known", "Forgotten", "Unknown"):
            try:
                await channel.unary_unary(f"/s.S/{name}", None, None)(b"", timeout=WAITS_S)
                seen.append("OK")
            except grpc.aio.AioRpcError as error:
                seen.append(error.code().name)
    await server.stop(None)

    assert seen == ["OK", "UNIMPLEMENTED", "UNIMPLEMENTED"]

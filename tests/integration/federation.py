"""A federation for tests: a real initiator and parties that answer as the test says, over gRPC with mutual TLS.

Where an engine is not the point of a test, a `ScriptedParty` stands in for a participant: it speaks the protocol
through the same codec, scores a table of the test, and can be told to misbehave.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from fedpredict.errors import FedPredictError, ManifestMismatchError, ModelNotFoundError
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.offline.open import TaskParts
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, PartDescription
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.security import certs
from fedpredict.security.callers import caller_identity
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.state.base import PinStore
from fedpredict.state.sql import open_pin_store
from fedpredict.state.task_base import TaskStore
from fedpredict.state.tasks import open_task_store
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire import codec, handlers, task_codec
from fedpredict.wire.channel import channel_options, server_options
from fedpredict.wire.description import description_to_wire
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import initiator_pb2, participant_pb2
from tests.hellos import sign_hello

ANSWERS_IN_S = 20.0
POLL_S = 0.05
OLDEST = 1_700_000_000_000_000


async def eventually(what: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `what` is true; fail after `ANSWERS_IN_S`."""
    async with asyncio.timeout(ANSWERS_IN_S):
        while not await what():
            await asyncio.sleep(0.02)


def describe(party: str, model_id: str = "m", **changes: Any) -> PartDescription:
    """Return a linear part of a model without intercept, with `changes`."""
    part = PartDescription(
        party=party,
        model_id=model_id,
        params_sha256=digest_of(party),
        training_run="run-1",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=1,
        holds_intercept=False,
        fit_intercept=False,
    )
    return replace(part, **changes)


def digest_of(text: str) -> str:
    """Return a digest that is recognised in a failure: the text's bytes, repeated."""
    return (text.encode().hex() * 64)[:64]


@dataclass
class ScriptedParty:
    """A party's server that does as it is told.

    Attributes:
        party: Who it is.
        parts: What it describes, by model id.
        table: Its features, by sample id.
        weights: Shape (n_features, n_scores).
        serves: The digests that it scores; those described when None.
        claims: Whom it says to be in its hello; itself when None.
        raises: What every Score ends in.
        edit: Changes a reply before it is sent.
        held: While set, a Score waits for it.
        garbage: A method that answers with bytes that are no message.
    """

    party: str
    tls: TlsFiles
    parts: dict[str, PartDescription]
    table: Mapping[bytes, Sequence[float]]
    weights: Floats
    serves: set[str] | None = None
    claims: str | None = None
    protocol_version: int = codec.PROTOCOL_VERSION
    raises: FedPredictError | None = None
    edit: Callable[[participant_pb2.ScoreReply], None] | None = None
    held: asyncio.Event | None = None
    garbage: str = ""
    asked: list[participant_pb2.ScoreRequest] = field(default_factory=list)
    remaining_s: list[float] = field(default_factory=list)
    scoring: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = "127.0.0.1:0"
    server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen, at the same port as before where there was one."""
        server = grpc.aio.server(options=server_options())
        methods = {
            "Hello": handlers.unary(participant_pb2.HelloRequest, self._hello),
            "DescribeModel": handlers.unary(participant_pb2.DescribeModelRequest, self._describe),
            "Score": handlers.unary(participant_pb2.ScoreRequest, self._score),
        }
        if self.garbage:
            methods[self.garbage] = grpc.unary_unary_rpc_method_handler(self._babble)
        server.add_generic_rpc_handlers((handlers.service("fedpredict.wire.v1.ParticipantService", methods),))
        port = server.add_secure_port(self.address, LiveTls(self.tls, serves=True).server_credentials())
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self.server = server

    async def stop(self) -> None:
        """Go away at once."""
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    async def _babble(self, _data: bytes, _context: handlers.Context) -> bytes:
        return b"\xff\xff\xff"

    async def _hello(
        self, request: participant_pb2.HelloRequest, context: handlers.Context
    ) -> participant_pb2.HelloReply:
        caller = caller_identity(context, LiveTls(self.tls))
        return participant_pb2.HelloReply(
            protocol_version=self.protocol_version,
            party=self.claims or self.party,
            instance="1",
            workers=1,
            certificate_chain=self.tls.certificate.read_bytes(),
            signature=sign_hello(self.tls, self.party, caller, request.nonce),
        )

    async def _describe(
        self, request: participant_pb2.DescribeModelRequest, _context: handlers.Context
    ) -> participant_pb2.DescribeModelReply:
        if request.model_id not in self.parts:
            raise ModelNotFoundError(request.model_id)
        return description_to_wire(request.request_id, self.parts[request.model_id])

    async def _score(
        self, request: participant_pb2.ScoreRequest, context: handlers.Context
    ) -> participant_pb2.ScoreReply:
        query = codec.query_from_wire(request)
        if self.raises is not None:
            raise self.raises
        serves = self.serves or {part.params_sha256 for part in self.parts.values()}
        if query.params_sha256 not in serves:
            raise ManifestMismatchError("not loaded")
        self.asked.append(request)
        self.remaining_s.append(context.time_remaining())
        await self._wait()
        reply = codec.reply_to_wire(query, self._answer(query))
        if self.edit is not None:
            self.edit(reply)
        return reply

    async def _wait(self) -> None:
        self.scoring.set()
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise

    def _answer(self, query: ScoreQuery) -> PartyReply:
        sample_ids = query.sample_ids
        known = [sample_id in self.table for sample_id in sample_ids]
        nothing = [np.nan] * len(self.weights)
        rows = np.array([self.table.get(sample_id, nothing) for sample_id in sample_ids])
        status = np.where(known, np.uint8(SampleStatus.OK), np.uint8(SampleStatus.NOT_FOUND))
        ends = list(itertools.accumulate(query.segments, initial=0))
        by_segment = [OLDEST if any(known[start:end]) else NO_EVENT_TIME for start, end in itertools.pairwise(ends)]
        return PartyReply(
            share=build_share(rows @ self.weights, status),
            oldest_event_time=OLDEST if any(known) else None,
            elapsed_s=0.25,
            segment_event_times=np.array(by_segment, dtype=np.int64) if query.segments else None,
        )


class Certificates:
    """One authority, and certificates made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = certs.create_ca(folder / "ca", "test CA")
        self._issued: dict[Identity, TlsFiles] = {}

    def of(self, name: str, kind: IdentityKind = IdentityKind.PARTY) -> TlsFiles:
        """Return the files of a party or client."""
        identity = Identity(kind, name)
        if identity not in self._issued:
            self._issued[identity] = certs.issue(self._ca, identity, self._folder / f"{kind}-{name}")
        return self._issued[identity]


class Federation:
    """Parties and initiators of one test; all of them stop at its end."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        self.folder = folder
        self.parties: dict[str, str] = {}
        self.store: PinStore = open_pin_store("sqlite:///state.db", folder)
        self.address = ""
        """Of the initiator that is asked: the one started last."""
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.stack.callback(self.store.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stack.aclose()

    async def party(
        self,
        name: str,
        table: Mapping[bytes, Sequence[float]],
        weights: Floats,
        *parts: PartDescription,
        **script: Any,
    ) -> ScriptedParty:
        """Start a scripted party; it describes one part of model "m" where none is given."""
        described = {part.model_id: part for part in parts or (describe(name),)}
        party = ScriptedParty(name, self.certificates.of(name), described, table, weights, **script)
        await party.start()
        self.stack.push_async_callback(party.stop)
        self.parties[name] = party.address
        return party

    async def initiator(
        self,
        models: Mapping[str, Mapping[str, object]],
        *,
        warehouse: Warehouse | None = None,
        task_warehouse: Warehouse | None = None,
        simulate: bool = False,
        callers: Callers | None = None,
        **settings: object,
    ) -> InitiatorServer:
        """Start the initiator "bank" over the parties so far; `desk` may ask for everything."""
        tls = self.certificates.of("bank")
        content: dict[str, object] = {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "deadline_s": ANSWERS_IN_S,
            "poll_s": POLL_S,
            "drain_s": 5.0,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "parties": {name: {"address": address} for name, address in self.parties.items()},
            "models": models,
            "clients": {"desk": {"models": ["*"]}},
            **({"warehouse": {"path": "elsewhere"}} if warehouse else {}),
            **settings,
        }
        checked = InitiatorSettings.model_validate(content)
        kept = None if task_warehouse is None else TaskParts(self.task_store(), task_warehouse)
        server = InitiatorServer(
            checked, self.store, tls, warehouse=warehouse, tasks=kept, simulate=simulate, callers=callers
        )
        await self.stack.enter_async_context(server)
        self.address = server.address
        return server

    def task_store(self) -> TaskStore:
        """Open the store of offline tasks; it is closed at the end of the test."""
        store = open_task_store("sqlite:///state.db", self.folder)
        self.stack.callback(store.close)
        return store

    async def ready(self, model_id: str = "m") -> None:
        """Return when the model can be answered by all of its parties."""

        async def is_ready() -> bool:
            return (await self.models())[model_id].ready

        await eventually(is_ready)

    def accept(self, model_id: str = "m", *, by: str = "ada") -> Manifest:
        """Pin what is offered, as an operator does from another process, and return it."""
        operator = open_pin_store("sqlite:///state.db", self.folder)
        try:
            offered, history = operator.offers()[model_id].manifest, operator.pins().get(model_id, ())
            assert offered is not None
            operator.pin(offered, by=by, replaces=history[0].manifest.manifest_sha256 if history else None)
        finally:
            operator.close()
        return offered

    async def predict(
        self,
        *sample_ids: bytes,
        model_id: str = "m",
        caller: str = "desk",
        mode: Mode = Mode.NEARLINE,
        timeout_s: float | None = ANSWERS_IN_S,
    ) -> Prediction:
        """Ask as a client does; raises the error of our tree."""
        task = PredictTask(request_id="r-1", model_id=model_id, mode=mode, sample_ids=sample_ids)
        data = await self.call("Predict", task_codec.task_to_wire(task), caller, timeout_s)
        return task_codec.prediction_from_wire(initiator_pb2.PredictReply.FromString(data), len(sample_ids))

    async def models(self, caller: str = "desk") -> dict[str, ModelInfo]:
        """List the caller's models."""
        request = initiator_pb2.ListModelsRequest(protocol_version=codec.PROTOCOL_VERSION)
        data = await self.call("ListModels", request, caller, ANSWERS_IN_S)
        reply = initiator_pb2.ListModelsReply.FromString(data)
        return {info.model_id: info for info in map(task_codec.model_info_from_wire, reply.models)}

    async def call(
        self,
        method: str,
        request: Any,
        caller: str,
        timeout_s: float | None,
        service: str = "fedpredict.wire.v1.InitiatorService",
    ) -> bytes:
        """Make one call as a client of that name; return the reply's bytes."""
        async with self.channel(caller) as channel:
            try:
                reply: bytes = await channel.unary_unary(f"/{service}/{method}", None, None)(
                    request.SerializeToString(), timeout=timeout_s
                )
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error) from error
        return reply

    def channel(self, caller: str) -> grpc.aio.Channel:
        """Return a channel to the initiator, with the certificate of that client."""
        credentials = channel_credentials(self.certificates.of(caller, IdentityKind.CLIENT))
        return grpc.aio.secure_channel(self.address, credentials, options=channel_options(server_name("bank")))

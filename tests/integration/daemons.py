"""Daemons for tests: participants with tables of their own, and initiators."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa

from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.state.sql import open_pin_store
from fedpredict.tables.models import publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import task_codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import Certificates, eventually

WEIGHTS = {"lab": 2.0, "shop": -1.0}
SHARE = {"u1": {"lab": 2.0, "shop": -10.0}, "u2": {"lab": 4.0, "shop": -20.0}}


class World:
    """Participants with tables of their own, and initiators, as daemons have them."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.certificates = certificates
        self.stack = AsyncExitStack()

    async def participant(self, party: str = "lab", **changes: object) -> ParticipantServer:
        tls = self.certificates.of(party)
        content: dict[str, object] = {
            "party": party,
            "listen": "127.0.0.1:0",
            "poll_s": 0.05,
            "drain_s": 5.0,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "warehouse": {"path": "elsewhere"},
            "callers": {"bank": {"models": ["*"]}},
            **changes,
        }
        server = ParticipantServer(ParticipantSettings.model_validate(content), self.warehouse(party), tls)
        await self.stack.enter_async_context(server)
        await server.wait_read()
        return server

    def warehouse(self, party: str) -> LocalWarehouse:
        """Return the party's tables: one feature, x, and its part of model "m"."""
        folder = self.folder / party
        warehouse = LocalWarehouse(folder)
        if folder.exists():
            return warehouse
        columns = column_names(("x",))
        view = FeatureView("v", 1, (ViewFeature("x", columns["x"], ColumnType.DOUBLE),), "id", "t")
        x = [SHARE[sample_id][party] / WEIGHTS[party] for sample_id in SHARE]
        instants = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * len(x), pa.timestamp("us", tz="UTC"))
        table = pa.table({"sample_id": pa.array(list(SHARE)), "event_time": instants, columns["x"]: pa.array(x)})
        publish_snapshot(warehouse, view, "20260131T083000.000000Z", table)
        part = LinearPart(("x",), np.array([[WEIGHTS[party]]]), None, np.zeros(1))
        partial = PartialModel("m", "run-1", party, Kind.LINEAR, (), False, part)
        publish_model(warehouse, partial, view, hashlib.sha256(party.encode()).hexdigest())
        return warehouse

    async def initiator(self, parties: dict[str, dict[str, object]], **changes: object) -> InitiatorServer:
        tls = self.certificates.of("bank")
        content: dict[str, object] = {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "deadline_s": 20.0,
            "poll_s": 0.05,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "parties": parties,
            "models": {"m": {"parties": sorted(parties)}},
            "clients": {"desk": {"models": ["*"]}},
            **changes,
        }
        store = open_pin_store("sqlite:///state.db", self.folder)
        self.stack.callback(store.close)
        server = InitiatorServer(InitiatorSettings.model_validate(content), store, tls)
        return await self.stack.enter_async_context(server)

    async def remote(self, address: str, tls: TlsFiles | None = None) -> RemoteParty:
        """Return an initiator's view of the laboratory."""
        dialler = Dialler("bank", tls or self.certificates.of("bank"))
        return await self.stack.enter_async_context(dialler.dial("lab", address))

    async def predict(self, server: InitiatorServer) -> Prediction:
        """Ask for both samples, as a client."""
        credentials = channel_credentials(self.certificates.of("desk", IdentityKind.CLIENT))
        options = channel_options(server_name("bank"))
        task = PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=(b"u1", b"u2"))
        async with grpc.aio.secure_channel(server.address, credentials, options=options) as channel:
            call = channel.unary_unary("/fedpredict.wire.v1.InitiatorService/Predict", None, None)
            data = await call(task_codec.task_to_wire(task).SerializeToString(), timeout=20.0)
        return task_codec.prediction_from_wire(initiator_pb2.PredictReply.FromString(data), 2)

    async def predicted(self, server: InitiatorServer) -> list[float]:
        """Return the predictions once the model is ready."""
        found: list[Prediction] = []

        async def scored() -> bool:
            try:
                found.append(await self.predict(server))
            except grpc.aio.AioRpcError:
                return False
            return bool((found[-1].status == SampleStatus.OK).all())

        await eventually(scored)
        numbers: list[float] = found[-1].predictions[:, 0].tolist()
        return numbers

"""The initiator's edge over a predictor that answers as the test says, and a server for it in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from typing_extensions import override

from fedpredict.errors import ModelNotFoundError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.predict_stream import PredictStreams
from fedpredict.initiator.service import InitiatorService
from fedpredict.initiator.settings import ClientSettings
from fedpredict.initiator.submit import Done, GiveUp, submit_coroutine
from fedpredict.model.prediction import ModelInfo, PartyReport, Prediction, PredictTask
from fedpredict.security.callers import caller_identity
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles
from fedpredict.wire import handlers
from fedpredict.wire.channel import STREAM_METADATA, server_options

ENDS_IN_S = 20.0


@dataclass
class ScriptedPredictor:
    """Sample "7" is predicted 7.0, and what is no number is not found; "hold" waits until it is let go."""

    held: asyncio.Event = field(default_factory=asyncio.Event)
    raises: Mapping[str, Exception] = field(default_factory=dict)
    tasks: list[PredictTask] = field(default_factory=list)
    callers: list[Identity] = field(default_factory=list)
    deadlines_s: list[float | None] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    at_work: int = 0
    submitted: int = 0

    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        self.tasks.append(task)
        self.callers.append(caller)
        self.deadlines_s.append(deadline_s)
        self.at_work += 1
        try:
            if b"hold" in list(task.sample_ids):
                await self.held.wait()
        except asyncio.CancelledError:
            self.given_up.append(task.request_id)
            raise
        finally:
            self.at_work -= 1
        if task.model_id in self.raises:
            raise self.raises[task.model_id]
        return answer_to(task)

    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        self.submitted += 1
        if task.model_id == "refused":
            raise ModelNotFoundError("at once")
        return submit_coroutine(self.predict(task, caller, deadline_s=deadline_s), done)


def answer_to(task: PredictTask) -> Prediction:
    values = np.array([float(each) if each.isdigit() else np.nan for each in task.sample_ids])
    status = np.where(np.isnan(values), 2, 1).astype(np.uint8)
    return Prediction(
        request_id=task.request_id,
        manifest_sha256="ab" * 32,
        predictions=values[:, None],
        status=status,
        origin=(status == 1).astype(np.uint8),
        classes=("no", "yes"),
        parties=(PartyReport(party="lab", status=status, oldest_event_time=3, round_trip_s=0.5, elapsed_s=0.25),),
    )


class NoModels:
    """A catalogue of nothing."""

    model_ids: tuple[str, ...] = ()

    def info(self, model_id: str) -> ModelInfo:
        raise ModelNotFoundError(model_id)


class EdgeServer:
    """`InitiatorService` over a scripted predictor, in a thread of its own; it can stop and start again.

    Attributes:
        intercept: Gets every call of `Predict` before the service; may raise, abort, or hold it.
        break_streams: How many streams break after their first message.
        peers: The connections that calls came over.
        calls: Calls of `Predict`, streams not counted.
        streams: Streams that were opened.
    """

    def __init__(self, tls: TlsFiles) -> None:
        self.predictor = ScriptedPredictor()
        self.address = "127.0.0.1:0"
        self.intercept: Callable[[int, handlers.Context], Coroutine[Any, Any, None]] | None = None
        self.break_streams = 0
        self.peers: set[str] = set()
        self.calls = 0
        self.streams = 0
        self._tls = tls
        self._live = LiveTls(tls)
        self._server: grpc.aio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Listen, at the same port as before where there was one."""
        self.run(self._start())

    def stop(self) -> None:
        """Go away at once."""
        self.run(self._stop())

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENDS_IN_S)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the server's event loop."""
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.result(ENDS_IN_S)

    def let_go(self) -> None:
        """Answer what is held, now and from now on."""
        self._loop.call_soon_threadsafe(self.predictor.held.set)

    async def _start(self) -> None:
        access = Access({"desk": ClientSettings(models=("*",))})
        streams = PredictStreams(self.predictor, self._who_calls, max_calls=256)
        service = InitiatorService(self.predictor, NoModels(), access, self._who_calls, streams)
        server = grpc.aio.server(options=server_options(), interceptors=(_Interceptor(self),))
        server.add_generic_rpc_handlers((service.handlers(),))
        port = server.add_secure_port(self.address, LiveTls(self._tls, serves=True).server_credentials())
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _who_calls(self, context: handlers.Context) -> Identity:
        self.peers.add(context.peer())
        return caller_identity(context, self._live)


class _Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts calls, and lets the test have them first."""

    def __init__(self, edge: EdgeServer) -> None:
        self._edge = edge

    @override
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if details.method.endswith("/Predict"):
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary))
        if details.method.endswith("/PredictStream"):
            return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream))
        return handler

    def _unary(self, inner: Any) -> Any:
        async def handle(data: bytes, context: handlers.Context) -> Any:
            number, self._edge.calls = self._edge.calls, self._edge.calls + 1
            if self._edge.intercept is not None:
                await self._edge.intercept(number, context)
            return await inner(data, context)

        return handle

    def _stream(self, inner: Any) -> Any:
        async def handle(requests: Any, context: handlers.Context) -> None:
            self._edge.streams += 1
            if self._edge.break_streams:
                self._edge.break_streams -= 1
                await context.send_initial_metadata((STREAM_METADATA,))
                await context.read()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken by the test")
            await inner(requests, context)

        return handle

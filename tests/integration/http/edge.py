"""An HTTP edge for tests, and a client that writes bytes: what a well-behaved library would never send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from typing_extensions import override

from fedpredict.http.server import HttpServer
from fedpredict.http.settings import HttpSettings
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.http.edge import EdgeSettings, build_edge
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.settings import ClientSettings, LimitSettings, ModelSettings
from fedpredict.initiator.simulate import Simulator
from fedpredict.initiator.submit import Done, GiveUp
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.share import SampleStatus
from fedpredict.observe.watch import PredictionWatch
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles
from tests.integration.federation import ANSWERS_IN_S, eventually

MAX_SAMPLES = 1000
PREDICT = {"model": "m", "sample_ids": ["u1"]}


@dataclass
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's content."""
        return json.loads(self.body)

    @property
    def problem(self) -> tuple[int, str]:
        """The number and the name of a problem."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["request_id"] == self.headers["x-request-id"]
        return self.status, self.json["type"].removeprefix("urn:fedpredict:error:")


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.writer.close()

    async def send(self, *pieces: bytes) -> Self:
        """Write bytes, each piece by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
        return self

    async def read(self, *, to_head: bool = False) -> Reply:
        """Read one answer."""
        async with asyncio.timeout(ANSWERS_IN_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            length = 0 if to_head else int(headers.get("content-length", "0"))
            body = await self.reader.readexactly(length)
        return Reply(int(head[0].split(" ")[1]), headers, body)

    async def ask(self, *pieces: bytes) -> Reply:
        """Write bytes and read the answer."""
        return await (await self.send(*pieces)).read()

    async def is_closed(self) -> bool:
        """Return whether nothing more comes: waits for the end of the connection."""
        async with asyncio.timeout(ANSWERS_IN_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True


def post(body: object, *headers: str, path: str = "/v1/predict", version: str = "1.1") -> bytes:
    """Return the bytes of a POST of JSON, with further header lines."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: edge",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + data


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """Return the bytes of a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: edge", *headers, "", ""]).encode("latin-1")


def ended_prediction(task: PredictTask, n_outputs: int = 1) -> Prediction:
    """Return an answer in which sample i has the number i."""
    n_samples = len(task.sample_ids)
    return Prediction(
        request_id=task.request_id,
        manifest_sha256="ab" * 32,
        predictions=np.repeat(np.arange(n_samples, dtype=np.float64)[:, None], n_outputs, axis=1),
        status=np.full(n_samples, SampleStatus.OK, dtype=np.uint8),
        origin=np.full(n_samples, Origin.MODEL, dtype=np.uint8),
        classes=(),
        parties=(),
    )


@dataclass
class HeldPredictor(Predicts):
    """A predictor that answers when the test says so.

    Attributes:
        begun: The tasks that were begun, in order.
        given_up: Those that were given up, by request id.
        held: Whether answers wait for `release`; else they come in the next turn of the loop.
        n_outputs: Numbers a sample.
    """

    begun: list[PredictTask] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    held: bool = True
    n_outputs: int = 1
    deadlines: list[float | None] = field(default_factory=list)
    _done: dict[str, Done] = field(default_factory=dict)

    @override
    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        ended: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

        def done(result: Prediction | BaseException) -> None:
            if isinstance(result, Prediction):
                ended.set_result(result)
            else:
                ended.set_exception(result)

        give_up = self.submit(task, caller, deadline_s=deadline_s, done=done)
        try:
            return await ended
        except asyncio.CancelledError:
            give_up()
            raise

    @override
    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        self.begun.append(task)
        self.deadlines.append(deadline_s)
        if self.held:
            self._done[task.request_id] = done
        else:
            asyncio.get_running_loop().call_soon(done, ended_prediction(task, self.n_outputs))
        return lambda: self._give_up(task.request_id)

    def release(self, result: BaseException | None = None) -> None:
        """Answer everything that waits, the last one first; with `result` where it is given."""
        for task in reversed(self.begun):
            done = self._done.pop(task.request_id, None)
            if done is not None:
                done(result or ended_prediction(task, self.n_outputs))

    async def until_begun(self, n_tasks: int = 1) -> None:
        """Return when so many tasks were begun."""

        async def begun() -> bool:
            return len(self.begun) >= n_tasks

        await eventually(begun)

    def _give_up(self, request_id: str) -> None:
        if self._done.pop(request_id, None) is not None:
            self.given_up.append(request_id)


@dataclass
class Edge:
    """A running edge over plain text; client `local` may ask for model "m", client `other` for nothing."""

    server: HttpServer

    async def connect(self) -> Wire:
        """Open a connection."""
        host, _, port = self.server.address.rpartition(":")
        return Wire(*await asyncio.open_connection(host, int(port), limit=2**17))

    async def ask(self, *pieces: bytes) -> Reply:
        """Write bytes on a connection of their own, and read the answer."""
        async with await self.connect() as wire:
            return await wire.ask(*pieces)

    async def serves_others(self) -> bool:
        """Return whether another connection is served."""
        return (await self.ask(get("/v1/models/m"))).status == 200


@asynccontextmanager
async def open_edge(
    predictor: Predicts | None = None,
    *,
    listen: str = "127.0.0.1:0",
    tls: TlsFiles | None = None,
    takes_tokens: bool = False,
    drain_s: float = 5.0,
    shares_port: bool = False,
    watch: PredictionWatch | None = None,
    **limits: Any,
) -> AsyncIterator[Edge]:
    """Serve model "m", made up where no predictor is given, with `limits` of `[http]`."""
    access = Access({"local": ClientSettings(models=("m",)), "other": ClientSettings(models=())})
    simulator = Simulator(
        {"m": ModelSettings(parties=("lab",))}, {}, Admission(access, LimitSettings(), max_samples=MAX_SAMPLES)
    )
    settings = EdgeSettings(
        listen=listen,
        http=HttpSettings(**limits),
        tls=LiveTls(tls, serves=True).https_context(takes_tokens=takes_tokens) if tls else None,
        max_samples=MAX_SAMPLES,
        drain_s=drain_s,
        shares_port=shares_port,
    )
    async with build_edge(settings, predictor or simulator, simulator, access, watch) as server:
        yield Edge(server)


def places(replies: Sequence[Reply]) -> list[str]:
    """Return the request ids of answers, in the order in which they came."""
    return [reply.headers["x-request-id"] for reply in replies]

"""Both clients against a real server on loopback: chunks, errors, restarts. One suite for the two of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import pytest

from fedpredict.client import AsyncClient, Client, Identity, IdentityKind, ModelInfo, Predictions, TlsFiles
from fedpredict.errors import (
    DeadlineExceededError,
    ManifestMismatchError,
    ModelNotFoundError,
    PartyTimeoutError,
    ProtocolError,
    ServerUnavailableError,
    TooManySamplesError,
)
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.prediction import PartyReport, Prediction, PredictTask
from fedpredict.security import certs
from fedpredict.security.live import LiveTls
from fedpredict.wire import handlers, task_codec
from fedpredict.wire.channel import server_options
from fedpredict.wire.v1 import initiator_pb2

ENDS_IN_S = 20.0
MANIFEST = "ab" * 32


@dataclass
class ScriptedInitiator:
    """A server in a thread of its own: sample id "7" is predicted 7.0, and what is no number is not found."""

    address: str = "127.0.0.1:0"
    tls: TlsFiles | None = None
    manifests: Callable[[int], str] = lambda _call: MANIFEST
    fails: Callable[[int], Exception | None] = lambda _call: None
    cancels: Callable[[int], bool] = lambda _call: False
    hangs: bool = False
    garbage: bool = False
    asked: list[PredictTask] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: grpc.aio.Server | None = None

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        self._run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENDS_IN_S)
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result(ENDS_IN_S)

    async def _start(self) -> None:
        server = grpc.aio.server(options=server_options())
        methods = {
            "Predict": grpc.unary_unary_rpc_method_handler(self._babble)
            if self.garbage
            else handlers.unary(initiator_pb2.PredictRequest, self._predict),
            "ListModels": handlers.unary(initiator_pb2.ListModelsRequest, self._list_models),
        }
        server.add_generic_rpc_handlers((handlers.service("fedpredict.wire.v1.InitiatorService", methods),))
        port = (
            server.add_secure_port(self.address, LiveTls(self.tls, serves=True).server_credentials())
            if self.tls
            else server.add_insecure_port(self.address)
        )
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _babble(self, _data: bytes, _context: handlers.Context) -> bytes:
        return b"\xff\xff\xff"

    async def _predict(
        self, request: initiator_pb2.PredictRequest, context: handlers.Context
    ) -> initiator_pb2.PredictReply:
        task = task_codec.task_from_wire(request)
        call = len(self.asked)
        self.asked.append(task)
        self.callers += [
            str(value) for key, value in context.invocation_metadata() or () if key == "fedpredict-identity"
        ]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(30.0 if self.hangs else 0.01)
        finally:
            self.at_once -= 1
        if self.cancels(call):
            await context.abort(grpc.StatusCode.CANCELLED)
        error = self.fails(call)
        if error is not None:
            raise error
        values = np.array([float(each) if each.isdigit() else np.nan for each in task.sample_ids])
        status = np.where(np.isnan(values), 2, 1).astype(np.uint8)
        return task_codec.prediction_to_wire(
            Prediction(
                request_id=task.request_id,
                manifest_sha256=self.manifests(call),
                predictions=values[:, None],
                status=status,
                origin=(status == 1).astype(np.uint8),
                classes=(),
                parties=(
                    PartyReport(party="lab", status=status, oldest_event_time=call, round_trip_s=0.5, elapsed_s=0.25),
                ),
            )
        )

    async def _list_models(
        self, _request: initiator_pb2.ListModelsRequest, _context: handlers.Context
    ) -> initiator_pb2.ListModelsReply:
        return initiator_pb2.ListModelsReply(models=[task_codec.model_info_to_wire(INFO)])


INFO = ModelInfo(
    model_id="m",
    ready=False,
    problem="party lab is unavailable",
    kind=Kind.LINEAR,
    link=own_link(Kind.LINEAR),
    classes=(),
    parties=("lab",),
    manifest_sha256=MANIFEST,
    n_outputs=1,
)


class BlockingAsyncClient:
    """`AsyncClient` with `Client`'s surface, in one event loop."""

    def __init__(self, address: str, **arguments: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **arguments)

    def predict(self, *positional: Any, **named: Any) -> Predictions:
        return self._runner.run(self._client.predict(*positional, **named))

    def models(self) -> list[ModelInfo]:
        return self._runner.run(self._client.models())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


Connect = Callable[..., Client]


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Connect:
    cls: Connect = request.param
    return cls


@pytest.fixture
def initiator() -> Iterator[ScriptedInitiator]:
    server = ScriptedInitiator()
    yield server
    server.close()


def test_predictions_come_in_the_order_asked(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()

    with connect(initiator.address, insecure=True) as client:
        predictions = client.predict("m", ["3", "nobody", "1", "3"])

    np.testing.assert_array_equal(predictions.values, [[3.0], [np.nan], [1.0], [3.0]])
    assert predictions.status.tolist() == [1, 2, 1, 1]
    assert predictions.manifest == MANIFEST


def test_a_long_list_travels_in_chunks_and_comes_back_in_order(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()
    told: list[tuple[int, int]] = []

    with connect(initiator.address, insecure=True, chunk_size=3) as client:
        predictions = client.predict(
            "m", [str(each) for each in range(25)], on_progress=lambda done, total: told.append((done, total))
        )

    np.testing.assert_array_equal(predictions.values.ravel(), np.arange(25.0))
    assert sorted(len(task.sample_ids) for task in initiator.asked) == [1, 3, 3, 3, 3, 3, 3, 3, 3]
    assert 1 < initiator.most_at_once <= 4
    assert told[-1] == (25, 25)
    assert {task.request_id.partition(".")[0] for task in initiator.asked} == {predictions.request_id}


def test_a_version_that_changes_between_chunks_is_an_error(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.manifests = lambda call: MANIFEST if call < 3 else "cd" * 32
    initiator.start()

    with (
        connect(initiator.address, insecure=True, chunk_size=1) as client,
        pytest.raises(ManifestMismatchError, match="changed between two chunks"),
    ):
        client.predict("m", ["1", "2", "3", "4", "5"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TooManySamplesError("4 ids", limit=3), "the limit is 3"),
        (PartyTimeoutError("party lab: slow", party="lab"), "party lab did not answer in time"),
        (ManifestMismatchError("internal words"), "not the version that is served"),
    ],
)
def test_an_error_of_the_server_is_the_same_error_here(
    initiator: ScriptedInitiator, connect: Connect, error: Exception, told: str
) -> None:
    initiator.fails = lambda _call: error
    initiator.start()

    with connect(initiator.address, insecure=True) as client, pytest.raises(type(error), match=told):
        client.predict("m", ["1"])


def test_an_unknown_model_is_named(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.fails = lambda _call: ModelNotFoundError("of another caller")
    initiator.start()

    with (
        connect(initiator.address, insecure=True) as client,
        pytest.raises(ModelNotFoundError, match="no model 'credit'"),
    ):
        client.predict("credit", ["1"])


def test_after_an_error_in_one_chunk_no_call_is_left_running(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.fails = lambda call: TooManySamplesError("no", limit=1) if call == 0 else None
    initiator.start()

    with connect(initiator.address, insecure=True, chunk_size=1) as client:
        with pytest.raises(TooManySamplesError):
            client.predict("m", [str(each) for each in range(50)])
        assert client.predict("m", ["1"]).values.tolist() == [[1.0]]

    assert len(initiator.asked) < 20


def test_the_callers_deadline_is_kept(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.hangs = True
    initiator.start()

    with (
        connect(initiator.address, insecure=True, chunk_size=1) as client,
        pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"),
    ):
        client.predict("m", ["1", "2"], timeout_s=0.2)


def test_a_server_that_was_never_there_is_named(connect: Connect, unused_port: int) -> None:
    with (
        connect(f"127.0.0.1:{unused_port}", insecure=True) as client,
        pytest.raises(ServerUnavailableError, match=f"127.0.0.1:{unused_port} cannot be reached"),
    ):
        client.predict("m", ["1"], timeout_s=1.0)


def test_a_client_survives_a_restart_of_the_server(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()

    with connect(initiator.address, insecure=True) as client:
        before = client.predict("m", ["1"])
        initiator.stop()
        with pytest.raises(ServerUnavailableError):
            client.predict("m", ["2"], timeout_s=0.5)
        initiator.start()
        after = client.predict("m", ["3"])

    assert (before.values.tolist(), after.values.tolist()) == ([[1.0]], [[3.0]])


def test_a_restart_between_two_calls_is_not_noticed(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()

    with connect(initiator.address, insecure=True) as client:
        client.predict("m", ["1"])
        initiator.stop()
        initiator.start()
        assert client.predict("m", ["2"]).values.tolist() == [[2.0]]


def test_a_call_that_a_stopping_server_cancels_is_made_again(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.cancels = lambda call: call == 0
    initiator.start()

    with connect(initiator.address, insecure=True) as client:
        assert client.predict("m", ["1"]).values.tolist() == [[1.0]]

    assert len(initiator.asked) == 2


def test_closing_a_client_ends_its_calls_in_other_threads(initiator: ScriptedInitiator) -> None:
    initiator.hangs = True
    initiator.start()
    client = Client(initiator.address, insecure=True)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.predict, "m", ["1"])
        while not initiator.asked:
            assert not call.done()
        client.close()
        assert isinstance(call.exception(ENDS_IN_S), ServerUnavailableError)


def test_a_reply_that_does_not_parse_is_an_error(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.garbage = True
    initiator.start()

    with connect(initiator.address, insecure=True) as client, pytest.raises(ProtocolError, match="does not parse"):
        client.predict("m", ["1"])


def test_models_are_listed(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()

    with connect(initiator.address, insecure=True) as client:
        assert client.models() == [INFO]


def test_without_tls_the_caller_states_who_it_is(initiator: ScriptedInitiator, connect: Connect) -> None:
    initiator.start()

    with connect(initiator.address, insecure=True, identity=Identity(IdentityKind.CLIENT, "desk")) as client:
        client.predict("m", ["1"])
    with connect(initiator.address, insecure=True) as client:
        client.predict("m", ["1"])

    assert initiator.callers == ["fedpredict://client/desk", "fedpredict://client/local"]


def test_with_tls_the_server_must_be_the_party_meant(
    initiator: ScriptedInitiator, connect: Connect, tmp_path: Path
) -> None:
    ca = certs.create_ca(tmp_path / "ca", "test CA")
    initiator.tls = certs.issue(ca, Identity(IdentityKind.PARTY, "bank"), tmp_path)
    mine = certs.issue(ca, Identity(IdentityKind.CLIENT, "desk"), tmp_path)
    initiator.start()

    with connect(initiator.address, server_party="bank", tls=mine) as client:
        assert client.predict("m", ["1"]).values.tolist() == [[1.0]]
    with (
        connect(initiator.address, server_party="lab", tls=mine) as client,
        pytest.raises(ServerUnavailableError, match="do its certificates fit"),
    ):
        client.predict("m", ["1"], timeout_s=1.0)


FORKING = """
import asyncio, os, signal, sys
from fedpredict.client import AsyncClient, Client
from fedpredict.errors import FedPredictError

def told(label, work):
    try:
        print(label, work(), flush=True)
    except FedPredictError as error:
        print(label, type(error).__name__, error, flush=True)

address, asks_first = sys.argv[1], sys.argv[2] == "asks first"

async def ask(client):
    return (await client.predict("m", ["1"])).values.tolist()

old, old_async = Client(address, insecure=True), AsyncClient(address, insecure=True)
loop = asyncio.new_event_loop()
if asks_first:
    told("before:", lambda: old.predict("m", ["1"]).values.tolist())
    loop.run_until_complete(ask(old_async))
child = os.fork()
if not child:
    signal.alarm(20)
    told("old:", lambda: old.predict("m", ["1"]))
    told("new:", lambda: Client(address, insecure=True).predict("m", ["2"]).values.tolist())
    told("old again:", lambda: old.predict("m", ["1"]))
    told("old async:", lambda: loop.run_until_complete(ask(old_async)))
    told("new async:", lambda: asyncio.run(ask(AsyncClient(address, insecure=True))))
    os._exit(0)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
told("after:", lambda: old.predict("m", ["3"]).values.tolist())
"""


def forked(address: str, when: str) -> dict[str, str]:
    """Return what a process and its fork were told, by what they did."""
    command = [sys.executable, "-c", FORKING, address, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * ENDS_IN_S, check=True)
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_clients_in_a_fork_of_a_process_that_has_asked_are_refused(initiator: ScriptedInitiator) -> None:
    initiator.start()

    told = forked(initiator.address, "asks first")

    assert (told["before"], told["child"], told["after"]) == ("[[1.0]]", "0", "[[3.0]]")
    for client in ("old", "new", "old again", "old async", "new async"):
        assert told[client].startswith("ConfigError")
    assert "spawn or forkserver" in told["new"]
    assert "spawn or forkserver" in told["new async"]


def test_in_a_fork_of_a_process_that_has_not_asked_new_clients_work(initiator: ScriptedInitiator) -> None:
    initiator.start()

    told = forked(initiator.address, "does not")

    assert (told["new"], told["new async"], told["child"], told["after"]) == ("[[2.0]]", "[[1.0]]", "0", "[[3.0]]")
    assert told["old"].startswith("ConfigError this client was made before the process was forked")
    assert told["old again"] == told["old"]
    assert told["old async"] == "[[1.0]]"


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

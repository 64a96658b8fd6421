"""Both clients against the initiator's edge over mutual TLS: ways, columns, retries, hedges, the circuit, the pool."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from fedpredict.client import AsyncClient, Circuit, CircuitState, Client, Predictions
from fedpredict.client.circuit import FAILURES_TO_OPEN, FIRST_OPEN_S
from fedpredict.client.retry import MAX_ATTEMPTS
from fedpredict.errors import (
    ConfigError,
    DeadlineExceededError,
    InputError,
    OverloadedError,
    PartyUnavailableError,
    ServerUnavailableError,
)
from fedpredict.security.identity import IdentityKind
from fedpredict.wire import handlers
from tests.contract.link_rig import Balancer
from tests.integration.federation import Certificates
from tests.integration.scripted_edge import ENDS_IN_S, EdgeServer

LARGE = 700
"""Ids that travel as a table."""


class BlockingAsyncClient:
    """`AsyncClient` with `Client`'s surface, in one event loop in a thread."""

    def __init__(self, address: str, **arguments: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(address, **arguments)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * ENDS_IN_S)

    @property
    def circuit(self) -> Circuit:
        return self._client.circuit

    def predict(self, *positional: Any, **named: Any) -> Predictions:
        result: Predictions = self._run(self._client.predict(*positional, **named))
        return result

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENDS_IN_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


Connect = Callable[..., Client]


@pytest.fixture
def edge(certificates: Certificates) -> Iterator[EdgeServer]:
    server = EdgeServer(certificates.of("bank"))
    server.start()
    yield server
    server.close()


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest, edge: EdgeServer, certificates: Certificates) -> Connect:
    cls = request.param

    def make(**arguments: Any) -> Client:
        files = certificates.of("desk", IdentityKind.CLIENT)
        client: Client = cls(edge.address, server_party="bank", tls=files, **arguments)
        return client

    return make


def eventually(what: Callable[[], bool]) -> None:
    ends = monotonic() + ENDS_IN_S
    turn = threading.Event()
    while not what():
        assert monotonic() < ends
        turn.wait(0.01)


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_a_batch_is_its_singles_on_every_way(edge: EdgeServer, connect: Connect) -> None:
    with connect(chunk_size=LARGE + 50) as client:

        @given(st.lists(st.sampled_from(["7", "x", "", "12", "é", "\x00"]), min_size=1, max_size=12))
        @settings(max_examples=25, deadline=None)
        def check(ids: list[str]) -> None:
            many = (ids * (1 + 2 * LARGE // len(ids)))[: LARGE + len(ids)]
            singles = [client.predict("m", [each]) for each in ids]
            for batch in (client.predict("m", ids), client.predict("m", many)):
                size = len(batch)
                values = np.concatenate([each.values for each in singles] * (size // len(ids) + 1))[:size]
                np.testing.assert_array_equal(batch.values, values)
                assert batch.reasons == ([each.reasons[0] for each in singles] * (size // len(ids) + 1))[:size]

        check()

    assert edge.streams == 1


def test_a_large_request_travels_on_a_stream_and_a_small_one_alone(edge: EdgeServer, connect: Connect) -> None:
    with connect(chunk_size=LARGE) as client:
        client.predict("m", ["1"])
        small = (edge.calls, edge.predictor.submitted)
        large = client.predict("m", numbered(3 * LARGE))

    assert small == (1, 0)
    assert (edge.calls, edge.predictor.submitted, edge.streams) == (1, 3, 1)
    np.testing.assert_array_equal(large.values.ravel(), np.arange(3.0 * LARGE))


def test_many_small_calls_at_once_share_a_stream(edge: EdgeServer, connect: Connect) -> None:
    with connect() as client, ThreadPoolExecutor(32) as pool:
        calls = [pool.submit(client.predict, "m", ["hold"]) for _ in range(32)]
        eventually(lambda: edge.predictor.at_work == 32)
        edge.let_go()
        answers = [call.result(ENDS_IN_S) for call in calls]

    assert edge.calls < 8
    assert edge.calls + edge.predictor.submitted == 32
    assert edge.streams == 1
    assert {len(each) for each in answers} == {1}


COLUMNS: list[Any] = [
    lambda ids: pa.array(ids, pa.string()),
    lambda ids: pa.array(ids, pa.large_string()),
    lambda ids: pa.array(ids, pa.string_view()),
    lambda ids: pa.array(ids, pa.binary()),
    lambda ids: pa.array(ids).dictionary_encode(),
    lambda ids: pa.chunked_array([ids[:3], ids[3:]]),
    pl.Series,
    lambda ids: pl.Series(ids, dtype=pl.Categorical),
    lambda ids: pd.Series(ids, dtype=object),
    lambda ids: pd.Series(ids, dtype="string[pyarrow]"),
    np.array,
    lambda ids: np.array(ids).astype(np.bytes_),
]


@pytest.mark.parametrize("size", [5, LARGE])
def test_every_kind_of_column_asks_for_the_same_samples(edge: EdgeServer, connect: Connect, size: int) -> None:
    ids = numbered(size)

    with connect() as client:
        answers = [client.predict("m", column(ids)) for column in COLUMNS]

    for answer in answers:
        np.testing.assert_array_equal(answer.values.ravel(), np.arange(float(size)))
        assert [each.decode() if isinstance(each, bytes) else each for each in answer.sample_ids] == ids
    assert {tuple(task.sample_ids) for task in edge.predictor.tasks} == {tuple(each.encode() for each in ids)}


@pytest.mark.parametrize("size", [3, LARGE])
def test_the_initiators_own_features_travel_with_their_samples(edge: EdgeServer, connect: Connect, size: int) -> None:
    frame = pd.DataFrame({"age": np.arange(float(size)), "income": np.where(np.arange(size) % 2, np.nan, 1.5)})

    with connect(chunk_size=max(2, size - 100)) as client:
        client.predict("m", numbered(size), inputs=frame)

    rows = {}
    for task in edge.predictor.tasks:
        assert task.inputs is not None
        assert task.inputs.names == ("age", "income")
        rows.update(dict(zip(task.sample_ids, task.inputs.values.tolist(), strict=True)))
    assert [rows[each.encode()][0] for each in numbered(size)] == list(range(size))
    assert np.isnan(rows[b"1"][1])
    assert rows[b"2"][1] == 1.5


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("timeout_s", [1e7, 1e10])
def test_a_timeout_may_be_as_long_as_one_likes(edge: EdgeServer, connect: Connect, size: int, timeout_s: float) -> None:
    with connect() as client:
        assert client.predict("m", numbered(size), timeout_s=timeout_s).n_scored == size


@pytest.mark.parametrize("size", [1, LARGE])
def test_an_error_names_the_party_on_every_way(edge: EdgeServer, connect: Connect, size: int) -> None:
    edge.predictor.raises = {"m": PartyUnavailableError("10.0.0.7:7443", party="lab")}

    with connect() as client, pytest.raises(PartyUnavailableError, match="party lab is unavailable") as raised:
        client.predict("m", numbered(size))

    assert raised.value.party == "lab"
    assert edge.calls + edge.predictor.submitted == 1


def test_a_stream_that_breaks_is_opened_again_and_its_calls_are_made_again(edge: EdgeServer, connect: Connect) -> None:
    edge.break_streams = 1

    with connect(chunk_size=LARGE) as client:
        answer = client.predict("m", numbered(4 * LARGE))

    np.testing.assert_array_equal(answer.values.ravel(), np.arange(4.0 * LARGE))
    assert edge.streams == 2


def test_a_restart_in_the_middle_of_many_calls_loses_none_of_them(edge: EdgeServer, connect: Connect) -> None:
    with connect() as client, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.predict, "m", ["hold", *numbered(size)]) for size in (1, 2, 3, 4, LARGE, LARGE)]
        eventually(lambda: edge.predictor.at_work == len(calls))
        edge.stop()
        edge.let_go()
        edge.start()
        answers = [call.result(ENDS_IN_S) for call in calls]

    assert [len(each) for each in answers] == [2, 3, 4, 5, LARGE + 1, LARGE + 1]


def test_a_caller_that_leaves_a_stream_has_its_call_given_up(edge: EdgeServer, connect: Connect) -> None:
    with connect() as client:
        with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
            client.predict("m", ["hold", *numbered(LARGE)], timeout_s=0.2)
        eventually(lambda: len(edge.predictor.given_up) == 1)
        assert client.predict("m", numbered(LARGE)).n_scored == LARGE

    assert edge.streams == 1


async def test_a_cancelled_task_leaves_nothing_behind(edge: EdgeServer, certificates: Certificates) -> None:
    files = certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(edge.address, server_party="bank", tls=files) as client:
        call = asyncio.ensure_future(client.predict("m", ["hold", *numbered(LARGE)]))
        await asyncio.to_thread(eventually, lambda: edge.predictor.at_work == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(eventually, lambda: len(edge.predictor.given_up) == 1)
        assert client.circuit.state is CircuitState.CLOSED


@pytest.mark.parametrize("size", [1, LARGE])
async def test_a_server_that_vanishes_without_a_word_is_waited_for_no_longer_than_asked_and_found_again(
    edge: EdgeServer, certificates: Certificates, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.wire.channel.KEEPALIVE_MS", 2_000)
    monkeypatch.setattr("fedpredict.wire.channel.KEEPALIVE_TIMEOUT_MS", 1_000)
    edge.stop()
    edge.start()
    path = Balancer()
    await path.start()
    path.targets = [edge.address]
    files = certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(path.address, server_party="bank", tls=files) as client:
        await client.predict("m", numbered(size), timeout_s=ENDS_IN_S)
        path.fall_silent()

        async with asyncio.timeout(ENDS_IN_S):
            with pytest.raises(DeadlineExceededError):
                await client.predict("m", numbered(size), timeout_s=0.5)
        path.speak()

        async def again() -> Predictions:
            while True:
                try:
                    return await client.predict("m", numbered(size), timeout_s=2.0)
                except (DeadlineExceededError, ServerUnavailableError):
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(ENDS_IN_S):
            np.testing.assert_array_equal((await again()).values[:, 0], np.arange(size))
    await path.stop()


@pytest.mark.parametrize("size", [1, LARGE])
def test_an_overloaded_server_is_asked_again_when_it_says(edge: EdgeServer, connect: Connect, size: int) -> None:
    moments: list[float] = []

    class Full(dict[str, Exception]):
        @override
        def __contains__(self, model_id: object) -> bool:
            moments.append(monotonic())
            return len(moments) < 3

    edge.predictor.raises = Full(m=OverloadedError("full", retry_after_ms=150))

    with connect() as client:
        answer = client.predict("m", numbered(size))

    assert answer.n_scored == size
    assert len(moments) == 3
    assert all(later - earlier >= 0.15 for earlier, later in itertools.pairwise(moments))


def test_a_hint_beyond_the_deadline_is_not_waited_for(edge: EdgeServer, connect: Connect) -> None:
    edge.predictor.raises = {"m": OverloadedError("full", retry_after_ms=60_000)}

    with connect() as client, pytest.raises(OverloadedError, match="retry in 60000 ms") as raised:
        client.predict("m", ["1"], timeout_s=5.0)

    assert raised.value.retry_after_ms == 60_000
    assert edge.calls == 1


async def sick(_number: int, context: handlers.Context) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "sick")


def test_a_sick_server_is_not_hammered(edge: EdgeServer, connect: Connect) -> None:
    edge.intercept = sick

    with connect() as client:
        errors = []
        for _ in range(200):
            with pytest.raises(ServerUnavailableError) as raised:
                client.predict("m", ["1"])
            errors.append(str(raised.value))
        circuit = client.circuit

    assert edge.calls <= FAILURES_TO_OPEN * MAX_ATTEMPTS
    assert "cannot be reached" in errors[0]
    assert "did not answer the last 5 calls; it is tried again in" in errors[-1]
    assert (circuit.state, circuit.failures) == (CircuitState.OPEN, FAILURES_TO_OPEN)


def test_the_circuit_closes_when_one_call_has_found_the_server_well(edge: EdgeServer, connect: Connect) -> None:
    edge.intercept = sick
    with connect() as client:
        assert client.circuit.state is CircuitState.CLOSED
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ServerUnavailableError):
                client.predict("m", ["1"])
        seen = edge.calls
        with pytest.raises(ServerUnavailableError):
            client.predict("m", ["1"])
        assert edge.calls == seen

        edge.intercept = None

        def answered() -> bool:
            try:
                return client.predict("m", ["1"]).n_scored == 1
            except ServerUnavailableError:
                return False

        eventually(answered)
        assert (client.circuit.state, client.circuit.failures) == (CircuitState.CLOSED, 0)
        assert edge.calls == seen + 1


def test_an_error_that_the_server_answers_with_does_not_open_the_circuit(edge: EdgeServer, connect: Connect) -> None:
    edge.predictor.raises = {"m": PartyUnavailableError("gone", party="lab")}

    with connect() as client:
        for _ in range(3 * FAILURES_TO_OPEN):
            with pytest.raises(PartyUnavailableError):
                client.predict("m", ["1"])

        assert client.circuit.state is CircuitState.CLOSED
    assert edge.calls == 3 * FAILURES_TO_OPEN


def wide(size: int) -> dict[str, Any]:
    """Features that are 17 MiB and more with the names of `size` samples."""
    return {f"f{number}": np.zeros(size) for number in range(1 + 17 * 2**20 // 8 // size)}


@pytest.mark.parametrize("size", [400, LARGE])
def test_a_message_that_no_server_takes_is_told_and_disturbs_nobody(
    edge: EdgeServer, connect: Connect, size: int
) -> None:
    with connect() as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.predict, "m", ["hold", *numbered(LARGE)])
        eventually(lambda: edge.predictor.at_work == 1)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(InputError, match=r"17\.\d MiB in one call; the limit is 16 MiB: .* smaller chunk_size"):
                client.predict("m", numbered(size), inputs=wide(size))
        assert client.circuit.failures == 0
        edge.let_go()
        assert held.result(ENDS_IN_S).n_scored == LARGE

    assert (edge.calls, edge.predictor.submitted, edge.streams) == (0, 1, 1)


def test_a_message_that_no_server_takes_does_not_close_the_circuit(edge: EdgeServer, connect: Connect) -> None:
    edge.intercept = sick

    with connect() as client:
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ServerUnavailableError):
                client.predict("m", ["1"])
        threading.Event().wait(FIRST_OPEN_S)
        with pytest.raises(InputError):
            client.predict("m", numbered(LARGE), inputs=wide(LARGE))

        assert client.circuit.failures == FAILURES_TO_OPEN
        with pytest.raises(ServerUnavailableError, match="cannot be reached"):
            client.predict("m", ["1"])


async def hold_the_first(number: int, _context: handlers.Context) -> None:
    if number == 0:
        await asyncio.sleep(10 * ENDS_IN_S)


def test_a_hedge_wins_over_a_call_that_hangs(edge: EdgeServer, connect: Connect) -> None:
    left = threading.Event()

    async def hold(number: int, context: handlers.Context) -> None:
        try:
            await hold_the_first(number, context)
        except asyncio.CancelledError:
            left.set()
            raise

    edge.intercept = hold

    with connect(hedge_after_s=0.05) as client:
        answer = client.predict("m", ["4"])

        assert answer.values.tolist() == [[4.0]]
        assert edge.calls == 2
        assert left.wait(ENDS_IN_S)


def test_a_call_that_is_answered_in_time_has_no_hedge(edge: EdgeServer, connect: Connect) -> None:
    with connect(hedge_after_s=ENDS_IN_S) as client:
        client.predict("m", ["4"])

    assert edge.calls == 1


def test_without_being_asked_to_a_client_does_not_hedge(edge: EdgeServer, connect: Connect) -> None:
    edge.intercept = hold_the_first

    with connect() as client, pytest.raises(DeadlineExceededError):
        client.predict("m", ["4"], timeout_s=0.5)

    assert edge.calls == 1


def test_an_error_is_an_answer_to_a_hedged_call(edge: EdgeServer, connect: Connect) -> None:
    edge.predictor.raises = {"m": PartyUnavailableError("gone", party="lab")}

    with connect(hedge_after_s=0.001) as client, pytest.raises(PartyUnavailableError):
        client.predict("m", ["4"])


@pytest.mark.parametrize("hedge_after_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hedge_needs_a_time(connect: Connect, hedge_after_s: float) -> None:
    with pytest.raises(ConfigError, match="hedge_after_s"):
        Client("127.0.0.1:1", insecure=True, hedge_after_s=hedge_after_s)


def test_clients_of_one_server_and_certificate_share_a_connection(edge: EdgeServer, certificates: Certificates) -> None:
    def client(name: str) -> Client:
        return Client(edge.address, server_party="bank", tls=certificates.of(name, IdentityKind.CLIENT))

    with client("desk") as one:
        with client("desk") as two:
            one.predict("m", ["1"])
            two.predict("m", ["1"])
            assert len(edge.peers) == 1
        one.predict("m", ["1"])
        assert len(edge.peers) == 1
        with client("desk-2") as other:
            other.predict("m", ["1"])
        assert len(edge.peers) == 2
    with client("desk") as again:
        again.predict("m", ["1"])
    assert len(edge.peers) == 3


def test_closing_one_client_leaves_the_calls_of_another_alone(edge: EdgeServer, certificates: Certificates) -> None:
    files = certificates.of("desk", IdentityKind.CLIENT)
    one, two = (Client(edge.address, server_party="bank", tls=files) for _ in range(2))

    with two, ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(each.predict, "m", ["hold", "3"]) for each in (one, two)]
        eventually(lambda: edge.predictor.at_work == 2)
        one.close()
        closed = calls[0].exception(ENDS_IN_S)
        edge.let_go()

        assert isinstance(closed, ServerUnavailableError)
        assert calls[1].result(ENDS_IN_S).n_scored == 1
        with pytest.raises(ServerUnavailableError, match="is closed"):
            one.predict("m", ["1"])
        one.close()


def test_a_client_that_is_dropped_gives_its_connection_back(edge: EdgeServer, certificates: Certificates) -> None:
    files = certificates.of("desk", IdentityKind.CLIENT)

    def ask() -> int:
        Client(edge.address, server_party="bank", tls=files).predict("m", ["1"])
        gc.collect()
        return len(edge.peers)

    eventually(lambda: ask() > 1)


def test_progress_is_told_in_the_callers_thread_and_its_error_ends_the_call(
    edge: EdgeServer, certificates: Certificates
) -> None:
    files = certificates.of("desk", IdentityKind.CLIENT)
    threads = set()

    class EnoughError(Exception):
        """The listener has had enough."""

    def tell(done: int, _total: int) -> None:
        threads.add(threading.current_thread())
        if done > 100:
            raise EnoughError

    with Client(edge.address, server_party="bank", tls=files, chunk_size=50) as client:
        with pytest.raises(EnoughError):
            client.predict("m", numbered(10_000), on_progress=tell)
        assert client.predict("m", ["1"]).n_scored == 1

    assert threads == {threading.current_thread()}
    assert len(edge.predictor.tasks) < 200


def test_a_server_without_streams_is_asked_one_by_one(certificates: Certificates, tmp_path: Path) -> None:
    from tests.integration.test_client import ScriptedInitiator

    server = ScriptedInitiator(tls=certificates.of("bank"))
    server.start()
    try:
        files = certificates.of("desk", IdentityKind.CLIENT)
        with Client(server.address, server_party="bank", tls=files, chunk_size=LARGE) as client:
            answers = [client.predict("m", numbered(2 * LARGE)) for _ in range(2)]
    finally:
        server.close()

    assert [each.n_scored for each in answers] == [2 * LARGE] * 2
    assert [len(task.sample_ids) for task in server.asked] == [LARGE] * 4

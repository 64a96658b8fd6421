"""The load generator against real servers: every edge, and what goes wrong behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedpredict.client.connection import Target, build_target
from fedpredict.client.load import questions
from fedpredict.client.load.over_grpc import OverGrpc, OverStream
from fedpredict.client.load.over_http import OverHttp, parse_site
from fedpredict.client.load.preflight import check_answers
from fedpredict.client.load.run import run_closed, run_open
from fedpredict.client.load.target import LoadTarget
from fedpredict.errors import ModelNotFoundError, ServerUnavailableError
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.wire.v1 import common_pb2, initiator_pb2
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation

TABLE = {b"u1": [2.0], b"u2": [3.0]}
MODEL = {"m": {"parties": ["lab"]}}
DUE = np.arange(30, dtype=np.float64) * 0.01


@pytest.fixture
async def federation(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Federation]:
    async with Federation(tmp_path, certificates) as federation:
        await federation.party("lab", TABLE, np.array([[1.0]]))
        yield federation


def desk_at(federation: Federation) -> Target:
    tls = federation.certificates.of("desk", IdentityKind.CLIENT)
    return build_target(
        federation.address, server_party="bank", tls=tls, insecure=False, identity=None, chunk_size=1_000
    )


def over_grpc(federation: Federation, *ids: str | bytes, model_id: str = "m") -> OverGrpc:
    messages = questions.tasks(model_id, [[each] for each in ids], Mode.NEARLINE)
    return OverGrpc(desk_at(federation), messages, model_id=model_id, timeout_s=ANSWERS_IN_S)


async def kinds(target: LoadTarget) -> dict[str, int]:
    try:
        run = await run_open(target, DUE, slots=16, timeout_s=ANSWERS_IN_S)
    finally:
        await target.close()
    return run.record.table().counts()


async def test_unary_calls_are_answered_and_counted(federation: Federation) -> None:
    await federation.initiator(MODEL)
    await federation.ready()

    assert await kinds(over_grpc(federation, "u1", "u2", "nobody")) == {"ok": 20, "no number": 10}


async def test_a_closed_loop_of_unary_calls_ends_with_every_call_answered(federation: Federation) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    target = over_grpc(federation, "u1")

    run = await run_closed(target, slots=8, seconds=0.3)
    await target.close()

    counts = run.record.table().counts()
    assert set(counts) == {"ok"}
    assert counts["ok"] >= 8


async def test_an_unknown_model_is_told_before_anything_is_measured(federation: Federation) -> None:
    await federation.initiator(MODEL)
    target = over_grpc(federation, "u1", model_id="other")

    with pytest.raises(ModelNotFoundError, match="no model 'other'"):
        await check_answers(target, "other", allow_unscored=False)
    await target.close()


async def test_a_server_that_goes_away_is_an_error_of_the_calls(federation: Federation) -> None:
    server = await federation.initiator(MODEL)
    target = over_grpc(federation, "u1")
    await server.stop()

    assert await kinds(target) == {"UNAVAILABLE": 30}


async def test_the_http_edge_is_loaded_with_mutual_tls(federation: Federation) -> None:
    server = await federation.initiator(MODEL, http_listen="127.0.0.1:0")
    await federation.ready()
    tls = federation.certificates.of("desk", IdentityKind.CLIENT)
    site = parse_site(f"https://{server.http_address}", "/v1/predict", tls=tls, server_party="bank")
    bodies = questions.json_bodies("m", [["u1"], ["nobody"]], Mode.NEARLINE)

    assert await kinds(OverHttp(site, bodies, questions.has_numbers)) == {"ok": 15, "no number": 15}


async def test_a_plain_http_edge_on_loopback_leaves_the_links_between_parties_under_tls(
    federation: Federation,
) -> None:
    server = await federation.initiator(MODEL, http_listen="127.0.0.1:0", http_insecure=True)
    await federation.ready()
    site = parse_site(f"http://{server.http_address}", "/v1/predict")
    bodies = questions.json_bodies("m", [["u1"]], Mode.NEARLINE)

    assert await kinds(OverHttp(site, bodies, questions.has_numbers, {"x-fedpredict-client": "desk"})) == {"ok": 30}
    assert await kinds(OverHttp(site, bodies, questions.has_numbers, {"x-fedpredict-client": "x"})) == {"HTTP 404": 30}
    plain = build_target(
        federation.address, server_party=None, tls=None, insecure=True, chunk_size=1,
        identity=Identity(IdentityKind.CLIENT, "desk"),
    )  # fmt: skip
    over_plain_grpc = OverGrpc(plain, questions.tasks("m", [["u1"]], Mode.NEARLINE), model_id="m", timeout_s=5.0)
    with pytest.raises(ServerUnavailableError):
        await over_plain_grpc.ask(0)
    await over_plain_grpc.close()


class Stream:
    """`PredictStream` as the protocol says it, answering as the test says."""

    def __init__(self, *, ends_after: int = 0) -> None:
        self.ends_after = ends_after
        self.cancelled: list[int] = []

    async def serve(self, calls: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        answered = 0
        async for data in calls:
            call = initiator_pb2.PredictCall.FromString(data)
            if call.WhichOneof("body") == "cancel":
                self.cancelled.append(call.id)
                continue
            if self.ends_after and answered == self.ends_after:
                return
            answered += 1
            answer = self.answer(call)
            if answer is not None:
                yield answer.SerializeToString()

    def answer(self, call: initiator_pb2.PredictCall) -> initiator_pb2.PredictAnswer | None:
        (name,) = [call.predict.sample_ids.data.decode()]
        if name == "silence":
            return None
        if name == "busy":
            detail = common_pb2.ErrorDetail(error="OverloadedError", fields={"retry_after_ms": "20"})
            failure = common_pb2.Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], text="busy", detail=detail)
            return initiator_pb2.PredictAnswer(id=call.id, failure=failure)
        status = b"\x02" if name == "nobody" else b"\x01"
        return initiator_pb2.PredictAnswer(id=call.id, reply=initiator_pb2.PredictReply(status=status))


@pytest.fixture
async def stream_server() -> AsyncIterator[tuple[Stream, str]]:
    stream, server = Stream(), grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(stream.serve)
    handler = grpc.method_handlers_generic_handler("fedpredict.wire.v1.InitiatorService", {"PredictStream": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield stream, f"127.0.0.1:{port}"
    await server.stop(None)


def over_stream(address: str, *ids: str) -> OverStream:
    target = build_target(address, server_party=None, tls=None, insecure=True, identity=None, chunk_size=1_000)
    messages = questions.tasks("m", [[each] for each in ids], Mode.NEARLINE)
    return OverStream(target, questions.stream_calls(messages, ANSWERS_IN_S), model_id="m")


async def test_calls_on_a_stream_are_counted_each_as_what_became_of_it(stream_server: tuple[Stream, str]) -> None:
    target = over_stream(stream_server[1], "u1", "nobody", "busy")

    assert await kinds(target) == {"ok": 10, "no number": 10, "RESOURCE_EXHAUSTED": 10}


async def test_a_stream_that_ends_fails_its_calls_and_is_opened_again(stream_server: tuple[Stream, str]) -> None:
    stream, address = stream_server
    stream.ends_after = 5

    counts = await kinds(over_stream(address, "u1"))

    assert sum(counts.values()) == 30
    assert counts["connection lost"] >= 1
    assert counts["ok"] > 5


async def test_nobody_is_told_of_a_call_given_up_after_its_stream_was_lost() -> None:
    target = over_stream("127.0.0.1:1", "u1")
    told: list[int] = []
    abandoned = asyncio.Event()

    def done(number: int, _kind: str) -> None:
        told.append(number)
        if number == 0:
            target.abandon(1)
            abandoned.set()

    for number in range(3):
        target.start(number, done)
    async with asyncio.timeout(ANSWERS_IN_S):
        await abandoned.wait()
    await asyncio.sleep(0.1)
    await target.close()

    assert told == [0, 2]


async def test_a_call_that_nobody_waits_for_is_cancelled_at_the_server(stream_server: tuple[Stream, str]) -> None:
    stream, address = stream_server
    target = over_stream(address, "silence")
    run = await run_open(target, DUE[:3], slots=16, timeout_s=0.2)
    answers = over_stream(address, "u1")  # what the stream carried before has arrived when this is answered
    await answers.ask(0)
    await answers.close()
    await target.close()

    assert run.record.table().counts() == {"timeout": 3}
    assert stream.cancelled == [1, 2, 3]

"""`PredictStream`: many calls on one stream of a real initiator, over mutual TLS."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import (
    DeadlineExceededError,
    ModelNotFoundError,
    PartyUnavailableError,
    ProtocolError,
    ServerUnavailableError,
)
from fedpredict.initiator.admission import Access
from fedpredict.initiator.predict_stream import PredictStreams
from fedpredict.initiator.service import InitiatorService
from fedpredict.initiator.settings import ClientSettings
from fedpredict.model.inputs import Inputs
from fedpredict.model.prediction import PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.security.callers import caller_identity
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import channel_credentials, server_name
from fedpredict.wire import arrow_codec, task_codec
from fedpredict.wire.batching import BATCH_METADATA, take_batch
from fedpredict.wire.channel import channel_options, server_options
from fedpredict.wire.status import error_from_failure
from fedpredict.wire.v1 import initiator_pb2, link_pb2
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation
from tests.integration.scripted_edge import NoModels, ScriptedPredictor

STREAM = "/fedpredict.wire.v1.InitiatorService/PredictStream"


class Edge:
    """A server with the service under test, and streams to it."""

    def __init__(self, certificates: Certificates, predictor: ScriptedPredictor, max_calls: int) -> None:
        access = Access({"desk": ClientSettings(models=("*",))})
        identify = partial(caller_identity, live=LiveTls(certificates.of("bank")))
        streams = PredictStreams(predictor, identify, max_calls=max_calls)
        self.service = InitiatorService(predictor, NoModels(), access, identify, streams)
        self._certificates = certificates
        self._server = grpc.aio.server(options=server_options())
        self._server.add_generic_rpc_handlers((self.service.handlers(),))
        self._port = self._server.add_secure_port(
            "127.0.0.1:0", LiveTls(certificates.of("bank"), serves=True).server_credentials()
        )
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        await self._server.start()
        credentials = channel_credentials(self._certificates.of("desk", IdentityKind.CLIENT))
        self._channel = grpc.aio.secure_channel(
            f"127.0.0.1:{self._port}", credentials, options=channel_options(server_name("bank"))
        )

    def open(self, *metadata: tuple[str, str]) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        assert self._channel is not None
        return self._channel.stream_stream(STREAM, None, None)(None, timeout=ANSWERS_IN_S, metadata=metadata)

    async def drain(self, grace_s: float) -> None:
        self.service.drain()
        await self._server.stop(grace_s)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close(None)
        await self._server.stop(None)


@pytest.fixture
def predictor() -> ScriptedPredictor:
    return ScriptedPredictor()


@pytest.fixture
async def edge(predictor: ScriptedPredictor, tmp_path: Path) -> AsyncIterator[Edge]:
    edge = Edge(Certificates(tmp_path), predictor, max_calls=4)
    await edge.start()
    yield edge
    await edge.close()


def task(*sample_ids: bytes, model_id: str = "m", request_id: str = "r-1", inputs: Inputs | None = None) -> PredictTask:
    return PredictTask(
        request_id=request_id,
        model_id=model_id,
        mode=Mode.NEARLINE,
        sample_ids=SampleIds.of(sample_ids),
        inputs=inputs,
    )


def call(call_id: int, of: PredictTask, remaining_ms: int = 0) -> bytes:
    message = initiator_pb2.PredictCall(id=call_id, remaining_ms=remaining_ms, predict=task_codec.task_to_wire(of))
    return message.SerializeToString()


def arrow_call(call_id: int, of: PredictTask) -> bytes:
    return initiator_pb2.PredictCall(id=call_id, arrow=arrow_codec.task_to_arrow(of)).SerializeToString()


def cancel(call_id: int) -> bytes:
    return initiator_pb2.PredictCall(id=call_id, cancel=link_pb2.Cancel()).SerializeToString()


async def read(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> initiator_pb2.PredictAnswer:
    data: Any = await stream.read()
    return initiator_pb2.PredictAnswer.FromString(data)


async def ended(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> bool:
    return await stream.read() is grpc.aio.EOF  # type: ignore[attr-defined]


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(ANSWERS_IN_S):
        while not what():
            await asyncio.sleep(0.005)


async def test_a_call_is_answered_as_the_unary_method_answers_it(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(9, task(b"3", b"nobody", b"1")))
    answer = await read(stream)

    prediction = task_codec.prediction_from_wire(answer.reply, 3)
    assert answer.id == 9
    np.testing.assert_array_equal(prediction.predictions, [[3.0], [np.nan], [1.0]])
    assert prediction.request_id == "r-1"
    assert predictor.callers == [Identity(IdentityKind.CLIENT, "desk")]
    assert predictor.deadlines_s == [None]


async def test_a_call_that_is_ready_does_not_wait_for_one_before_it(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(1, task(b"hold")))
    await stream.write(call(2, task(b"2")))
    first = await read(stream)
    predictor.held.set()
    second = await read(stream)

    assert (first.id, second.id) == (2, 1)


async def test_answers_that_are_ready_together_leave_together_where_the_caller_takes_that(
    edge: Edge, predictor: ScriptedPredictor
) -> None:
    stream = edge.open(BATCH_METADATA)
    assert BATCH_METADATA in tuple(await stream.initial_metadata())

    await stream.write(take_batch(deque(call(number, task(b"hold")) for number in (1, 2, 3))))
    await until(lambda: predictor.at_work == 3)
    predictor.held.set()
    answers: list[initiator_pb2.PredictAnswer] = []
    while len(answers) < 3:
        message = await read(stream)
        answers += [message, *message.more]

    assert {answer.id for answer in answers} == {1, 2, 3}
    assert max(len(answer.more) for answer in answers) >= 1


async def test_a_batch_larger_than_the_limit_is_worked_off_bit_by_bit(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open(BATCH_METADATA)
    predictor.held.set()

    await stream.write(take_batch(deque(call(number, task(b"2")) for number in range(1, 21))))
    ids: set[int] = set()
    while len(ids) < 20:
        message = await read(stream)
        ids |= {each.id for each in (message, *message.more)}

    assert ids == set(range(1, 21))


async def test_a_stream_that_is_closed_gets_every_answer_and_then_ends(
    edge: Edge, predictor: ScriptedPredictor
) -> None:
    stream = edge.open()

    for call_id in (1, 2, 3):
        await stream.write(call(call_id, task(b"hold")))
    await stream.done_writing()
    await until(lambda: predictor.at_work == 3)
    predictor.held.set()
    answers = [await read(stream) for _ in range(3)]

    assert {answer.id for answer in answers} == {1, 2, 3}
    assert await ended(stream)
    assert await stream.code() is grpc.StatusCode.OK


async def test_the_remaining_time_travels_with_the_call(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(1, task(b"1"), remaining_ms=1500))
    await read(stream)

    assert predictor.deadlines_s == [1.5]


async def test_a_call_whose_time_is_over_is_given_up_and_told(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(1, task(b"hold", request_id="slow"), remaining_ms=20))
    answer = await read(stream)

    assert isinstance(error_from_failure(answer.failure), DeadlineExceededError)
    await until(lambda: predictor.given_up == ["slow"])


async def test_a_cancelled_call_is_given_up_and_not_answered(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(1, task(b"hold", request_id="left")))
    await until(lambda: predictor.at_work == 1)
    await stream.write(cancel(1))
    await until(lambda: predictor.given_up == ["left"])
    await stream.write(cancel(1))
    await stream.write(call(1, task(b"5")))

    assert task_codec.prediction_from_wire((await read(stream)).reply, 1).predictions.tolist() == [[5.0]]


async def test_a_caller_that_leaves_has_its_calls_given_up(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()

    await stream.write(call(1, task(b"hold", request_id="one")))
    await stream.write(call(2, task(b"hold", request_id="two")))
    await until(lambda: predictor.at_work == 2)
    stream.cancel()

    await until(lambda: set(predictor.given_up) == {"one", "two"})


async def test_an_error_is_its_own_calls_and_says_what_a_unary_call_says(
    edge: Edge, predictor: ScriptedPredictor
) -> None:
    predictor.raises = {
        "away": PartyUnavailableError("10.0.0.7:7443 refused", party="lab"),
        "broken": KeyError("secret"),
    }
    stream = edge.open()

    failures = {}
    for call_id, model_id in enumerate(("away", "broken", "refused"), start=1):
        await stream.write(call(call_id, task(b"1", model_id=model_id)))
        failures[model_id] = (await read(stream)).failure
    await stream.write(call(4, task(b"4")))

    assert (await read(stream)).HasField("reply")
    away = error_from_failure(failures["away"])
    assert isinstance(away, PartyUnavailableError)
    assert (away.party, str(away)) == ("lab", "party lab is unavailable")
    assert failures["away"].code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert (failures["broken"].code, failures["broken"].text) == (13, "internal error")
    assert not failures["broken"].HasField("detail")
    assert isinstance(error_from_failure(failures["refused"]), ModelNotFoundError)


async def test_a_bad_request_in_a_good_call_fails_that_call_alone(edge: Edge) -> None:
    stream = edge.open()
    bad = initiator_pb2.PredictRequest(protocol_version=99)

    await stream.write(initiator_pb2.PredictCall(id=1, predict=bad).SerializeToString())
    refused = await read(stream)
    await stream.write(call(2, task(b"2")))

    assert isinstance(error_from_failure(refused.failure), ProtocolError)
    assert (await read(stream)).id == 2


@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff\xff\xff"],
        [call(0, task(b"1"))],
        [initiator_pb2.PredictCall(id=1).SerializeToString()],
        [call(1, task(b"hold")), call(1, task(b"1"))],
        [
            initiator_pb2.PredictCall(
                id=1, more=[initiator_pb2.PredictCall(id=2, more=[initiator_pb2.PredictCall(id=3)])]
            ).SerializeToString()
        ],
    ],
    ids=["no message", "id 0", "no body", "an id under way", "a batch in a batch"],
)
async def test_a_message_that_breaks_the_protocol_ends_the_stream(
    edge: Edge, predictor: ScriptedPredictor, messages: list[bytes]
) -> None:
    stream = edge.open()

    for message in messages:
        await stream.write(message)

    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await stream.details() == "the message cannot be understood"
    await until(lambda: predictor.at_work == 0)


async def test_at_its_limit_a_stream_is_not_read_until_a_call_is_answered(
    edge: Edge, predictor: ScriptedPredictor
) -> None:
    stream = edge.open()

    for call_id in range(1, 11):
        await stream.write(call(call_id, task(b"hold")))
    await until(lambda: predictor.at_work == 4)
    other = edge.open()
    await other.write(call(1, task(b"1")))
    await read(other)
    under_way = predictor.at_work
    predictor.held.set()
    answered = {(await read(stream)).id for _ in range(10)}

    assert under_way == 4
    assert answered == set(range(1, 11))


async def test_a_server_that_stops_answers_what_is_under_way_and_takes_no_more(
    edge: Edge, predictor: ScriptedPredictor
) -> None:
    stream = edge.open()
    await stream.write(call(1, task(b"hold")))
    await until(lambda: predictor.at_work == 1)

    stopping = asyncio.ensure_future(edge.drain(ANSWERS_IN_S))
    told = await read(stream)
    await stream.write(call(2, task(b"2")))
    refused = await read(stream)
    predictor.held.set()
    answered = await read(stream)

    assert told.WhichOneof("body") == "drain"
    assert (refused.id, type(error_from_failure(refused.failure))) == (2, ServerUnavailableError)
    assert (answered.id, answered.WhichOneof("body")) == (1, "reply")
    assert await ended(stream)
    await stopping


async def test_a_stream_at_rest_does_not_hold_up_a_server_that_stops(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(call(1, task(b"1")))
    await read(stream)

    async with asyncio.timeout(ANSWERS_IN_S):
        await edge.drain(10 * ANSWERS_IN_S)

    assert (await read(stream)).HasField("drain")
    assert await ended(stream)


async def test_what_is_under_way_beyond_the_grace_is_cut_off(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()
    await stream.write(call(1, task(b"hold", request_id="slow")))
    await until(lambda: predictor.at_work == 1)

    await edge.drain(0.05)

    await until(lambda: predictor.given_up == ["slow"])


async def test_columns_in_are_columns_out(edge: Edge, predictor: ScriptedPredictor) -> None:
    stream = edge.open()
    own = Inputs(("age", "income"), np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 6.0]]))

    await stream.write(arrow_call(1, task(b"3", b"nobody", b"1", inputs=own)))
    answer = await read(stream)

    table = pa.ipc.open_stream(answer.arrow.table).read_all()
    assert table.to_pydict() == {"prediction": [3.0, None, 1.0], "status": [1, 2, 1], "origin": [1, 0, 1]}
    asked = predictor.tasks[0]
    assert list(asked.sample_ids) == [b"3", b"nobody", b"1"]
    assert asked.inputs is not None
    assert asked.inputs.names == ("age", "income")
    np.testing.assert_array_equal(asked.inputs.values, own.values)


async def test_a_table_that_cannot_be_read_fails_its_call_alone(edge: Edge) -> None:
    stream = edge.open()
    broken = arrow_codec.task_to_arrow(task(b"1"))
    broken.table = broken.table[:100]

    await stream.write(initiator_pb2.PredictCall(id=1, arrow=broken).SerializeToString())
    refused = await read(stream)
    await stream.write(arrow_call(2, task(b"2")))

    assert isinstance(error_from_failure(refused.failure), ProtocolError)
    assert (await read(stream)).HasField("arrow")


async def test_a_stream_of_a_caller_that_is_not_listed_sees_no_model(tmp_path: Path) -> None:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        await federation.party("lab", {b"u1": [1.0]}, np.array([[2.0]]))
        await federation.initiator({"m": {"parties": ["lab"]}})
        await federation.ready()
        failures = []
        async with federation.channel("stranger") as channel:
            stream = channel.stream_stream(STREAM, None, None)(None, timeout=ANSWERS_IN_S)
            for call_id, model_id in enumerate(("m", "no-such-model"), start=1):
                await stream.write(call(call_id, task(b"u1", model_id=model_id)))
                failures.append((await read(stream)).failure)
        async with federation.channel("desk") as channel:
            stream = channel.stream_stream(STREAM, None, None)(None, timeout=ANSWERS_IN_S)
            await stream.write(call(1, task(b"u1")))
            answer = await read(stream)

    assert failures[0] == failures[1]
    assert isinstance(error_from_failure(failures[0]), ModelNotFoundError)
    assert task_codec.prediction_from_wire(answer.reply, 1).predictions.tolist() == [[2.0]]

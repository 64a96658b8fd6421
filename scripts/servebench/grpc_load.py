"""Loading an initiator over gRPC, and openly over HTTP, with our own clients, in this process."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Sequence

import grpc
import numpy as np
import pyarrow as pa
import uvloop

from fedpredict.client import Identity, IdentityKind, Mode
from fedpredict.client.connection import Target, build_target
from fedpredict.client.load import questions
from fedpredict.client.load.over_grpc import PREDICT_STREAM, OverGrpc, OverStream
from fedpredict.client.load.record import Requests, Summary, summarise
from fedpredict.client.load.run import Run, run_closed
from fedpredict.client.load.target import LoadTarget
from fedpredict.wire.codec import PROTOCOL_VERSION
from fedpredict.wire.v1 import common_pb2, initiator_pb2
from servebench.federation import CLIENT, INITIATOR, MODEL, Federation
from servebench.wrk import Measured

TIMEOUT_S = 10.0


def target_of(federation: Federation) -> Target:
    """Return the initiator's gRPC edge."""
    return build_target(
        federation.address,
        server_party=INITIATOR if federation.tls else None,
        tls=federation.tls_files,
        insecure=not federation.tls,
        identity=None if federation.tls else Identity(IdentityKind.CLIENT, CLIENT),
        chunk_size=10_000,
    )


def unary(federation: Federation, asked: Sequence[Sequence[str]]) -> OverGrpc:
    """Return unary calls; to be made inside the event loop that uses them."""
    return OverGrpc(target_of(federation), _messages(asked), model_id=MODEL, timeout_s=TIMEOUT_S)


def stream(federation: Federation, asked: Sequence[Sequence[str]], model: str = MODEL) -> OverStream:
    """Return calls on a standing stream."""
    calls = questions.stream_calls(questions.tasks(model, asked, Mode.NEARLINE), TIMEOUT_S)
    return OverStream(target_of(federation), calls, model_id=model)


def columnar(
    federation: Federation, asked: Sequence[Sequence[str]], features: dict[str, np.ndarray] | None = None
) -> OverStream:
    """Return calls on a standing stream with Arrow tables in and out; with the initiator's own features, if given."""
    return OverStream(target_of(federation), arrow_calls(asked, features), model_id=MODEL)


def arrow_calls(
    asked: Sequence[Sequence[str]], features: dict[str, np.ndarray] | None = None
) -> list[initiator_pb2.PredictCall]:
    """Return a call with an Arrow table for each question."""
    return [
        initiator_pb2.PredictCall(
            remaining_ms=int(TIMEOUT_S * 1e3),
            arrow=initiator_pb2.ArrowRequest(
                protocol_version=PROTOCOL_VERSION,
                model_id=MODEL,
                mode=common_pb2.MODE_NEARLINE,
                table=_ipc({"sample_id": pa.array(ids), **{name: pa.array(v) for name, v in (features or {}).items()}}),
            ),
        )
        for ids in asked
    ]


def numbers_of(table: bytes) -> np.ndarray:
    """Return the predictions in an Arrow answer."""
    return pa.ipc.open_stream(table).read_all().column("prediction").to_numpy()


def closed(
    make: Callable[[], LoadTarget], *, slots: int, seconds: float, warm_up_s: float = 0.5
) -> tuple[Measured, Run]:
    """Keep some calls under way for a time, and return what came of it, without the warm-up."""

    async def measure(target: LoadTarget) -> Run:
        if warm_up_s:
            await run_closed(target, slots=slots, seconds=warm_up_s)
        return await run_closed(target, slots=slots, seconds=seconds)

    run = in_loop(make, measure)
    return measured(summarise(run.record, asked_per_s=0.0, since_s=0.0, until_s=seconds, busy=run.busy)), run


def in_loop(make: Callable[[], LoadTarget], work: Callable[[LoadTarget], Awaitable[Run]]) -> Run:
    """Run some work on a target in an event loop of its own, and close the target."""

    async def main() -> Run:
        target = make()
        try:
            return await work(target)
        finally:
            await target.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def measured(summary: Summary) -> Measured:
    """Return a summary as the table has it."""
    what = ", ".join(f"{count} {kind}" for kind, count in summary.errors.items())
    p50, p99 = summary.histogram.at_ms(50.0), summary.histogram.at_ms(99.0)
    return Measured(summary.per_s, p50 or 0.0, p99 or 0.0, summary.failed, what)


def of_kind(requests: Requests, wanted: Callable[[str], bool]) -> np.ndarray:
    """Return which requests ended in a way that is wanted."""
    numbers = [number for number, name in enumerate(requests.kinds) if wanted(name)]
    return np.isin(requests.kind, numbers)


def oip_body(ids: Sequence[str], features: dict[str, np.ndarray]) -> tuple[bytes, int]:
    """Return an infer request with binary tensors, and the length of its JSON part."""
    encoded = [value.encode() for value in ids]
    parts = [b"".join(struct.pack("<I", len(value)) + value for value in encoded)]
    inputs = [
        {
            "name": "sample_id",
            "shape": [len(ids)],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(parts[0])},
        }
    ]
    for name, values in features.items():
        parts.append(np.asarray(values, dtype="<f8").tobytes())
        inputs.append(
            {
                "name": name,
                "shape": [len(ids)],
                "datatype": "FP64",
                "parameters": {"binary_data_size": len(parts[-1])},
            }
        )
    asked = [{"name": "prediction", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": inputs, "outputs": asked}).encode()
    return head + b"".join(parts), len(head)


def _messages(asked: Sequence[Sequence[str]]) -> list[bytes]:
    return questions.tasks(MODEL, asked, Mode.NEARLINE)


def _ipc(columns: dict[str, pa.Array]) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def one_answer(federation: Federation, call: initiator_pb2.PredictCall) -> initiator_pb2.PredictAnswer:
    """Return the answer to one call on a stream of its own; raise `grpc.RpcError` where there is no such method."""
    target = target_of(federation)
    channel = (
        grpc.insecure_channel(target.address, options=target.options)
        if target.credentials is None
        else grpc.secure_channel(target.address, target.credentials, options=target.options)
    )
    with channel:
        method = channel.stream_stream(PREDICT_STREAM, None, None)
        answers = method(iter([call.SerializeToString()]), timeout=TIMEOUT_S, metadata=target.metadata)
        return initiator_pb2.PredictAnswer.FromString(next(answers))

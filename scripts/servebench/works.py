"""The works: one function each, which yields lines of the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from fedpredict.client.load import questions
from fedpredict.client.load.target import LoadTarget
from servebench import grpc_load
from servebench.audited import audit_cost
from servebench.bench import (
    CHECKED,
    PREDICT,
    SCORED,
    UNSCORED,
    Bench,
    NotOfferedError,
    WrongAnswerError,
    check,
    check_client,
    check_json,
    ids_of,
    json_body,
    own_features,
    post,
    rows_of,
)
from servebench.federation import FIVE, HUNDRED, INITIATOR, MASKED, MILLION, MODEL, OWN, TREES, TWO, Federation, Layout
from servebench.overload import overload
from servebench.reference import ratios
from servebench.result import Line, line_of, middle
from servebench.wrk import Measured

ONE_ROW, MANY_ROWS = 1, 1_000
N_QUESTIONS = 20_000
N_LARGE = 16
"""Different large bodies that are sent in turn."""
BINARY = "application/octet-stream"

Work = Callable[[Bench], Iterator[Line]]


@dataclass(frozen=True)
class Http:
    """A work that wrk does: who serves, what is sent, and what a good answer looks like."""

    name: str
    layout: Layout
    rows: int
    connections: tuple[int, ...]
    check: Callable[[Federation], None]
    pack: Callable[[Bench, Federation], tuple[str, Path]]
    must: str = SCORED
    never: str = UNSCORED

    def __call__(self, bench: Bench) -> Iterator[Line]:
        """Measure at each number of connections, in turn with the references of this work; medians."""
        ours: dict[int, list[Measured]] = defaultdict(list)
        theirs: dict[int, list[Measured]] = defaultdict(list)
        federation = bench.use_http(self.layout)
        self.check(federation)
        for _ in range(bench.rounds):
            federation = bench.use_http(self.layout)
            url, requests = self.pack(bench, federation)
            bench.wrk(url, requests, self.connections[-1], self.must, self.never)  # warm
            for count in self.connections:
                ours[count].append(bench.wrk(url, requests, count, self.must, self.never))
            for reference in bench.references:
                if reference.work in ("", self.name):
                    bench.rest()
                    bench.printer.say(f"{self.name}: the reference's turn")
                    for (work, count), found in reference.run().items():
                        if work == self.name:
                            theirs[count].append(found)
        for count in self.connections:
            measured = middle(ours[count])
            beside = ratios(measured, middle(theirs[count]) if theirs[count] else None)
            yield line_of(self.name, count, self.rows, measured, tls=bench.tls, **beside)


def json_work(name: str, rows: int, connections: tuple[int, ...], layout: Layout = TWO) -> Http:
    """Return the work of asking for predictions in JSON, by id."""

    def pack(bench: Bench, federation: Federation) -> tuple[str, Path]:
        count = N_QUESTIONS if rows == ONE_ROW else N_LARGE
        url = federation.url + PREDICT
        asked = rows_of(rows, federation.layout.n_ids, count)
        return url, bench.pack(name, url, [json_body(ids_of(each)) for each in asked])

    return Http(name, layout, rows, connections, check_json, pack)


def grpc_work(
    name: str,
    rows: int,
    slots: int,
    make: Callable[[Federation, Sequence[Sequence[str]]], LoadTarget],
    check_answers: Callable[[Federation], None],
) -> Work:
    """Return the work of asking over gRPC, by id, with calls kept under way."""

    def work(bench: Bench) -> Iterator[Line]:
        federation = bench.use(TWO)
        check_answers(federation)
        asked = [ids_of(each) for each in rows_of(rows, TWO.n_ids, N_QUESTIONS if rows == ONE_ROW else N_LARGE)]
        runs = [
            grpc_load.closed(lambda: make(federation, asked), slots=slots, seconds=bench.seconds)
            for _ in range(bench.rounds)
        ]
        measured = middle([found for found, _ in runs])
        more = {"rows_per_s": measured.per_s * rows} if rows > 1 else {}
        yield line_of(name, slots, rows, measured, tls=bench.tls, **more, generator_busy=runs[-1][1].busy)

    return work


def check_stream(federation: Federation) -> None:
    """Hold 100 answers on a stream against the truth."""
    rows = np.arange(CHECKED)
    message = questions.tasks(MODEL, [ids_of(rows)], grpc_load.Mode.NEARLINE)
    call = questions.stream_calls(message, 10.0)[0]
    call.id = 1
    answer = _answer(federation, call)
    check(np.frombuffer(answer.reply.predictions.values, dtype="<f8"), federation.expected(rows), "PredictStream")


def check_arrow(federation: Federation) -> None:
    """Hold 100 columnar answers against the truth; with inline features where the initiator holds a part."""
    rows = np.arange(CHECKED)
    features = own_features(federation, rows) if federation.layout.own_features else None
    call = grpc_load.arrow_calls([ids_of(rows)], features)[0]
    call.id = 1
    answer = _answer(federation, call)
    check(lambda: grpc_load.numbers_of(answer.arrow.table), federation.expected(rows), "Arrow")


def _answer(federation: Federation, call: grpc_load.initiator_pb2.PredictCall) -> grpc_load.initiator_pb2.PredictAnswer:
    try:
        answer = grpc_load.one_answer(federation, call)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotOfferedError("PredictStream") from error
        raise WrongAnswerError(f"PredictStream: {error.code().name} {error.details()}") from error
    if answer.WhichOneof("body") not in ("reply", "arrow"):
        raise WrongAnswerError(f"PredictStream: {answer.failure.text or answer.WhichOneof('body')}")
    return answer


def inline_pack(bench: Bench, federation: Federation) -> tuple[str, Path]:
    """Write requests with 1,000 rows of 100 features of the initiator's own, as JSON."""
    url = federation.url + PREDICT
    asked = rows_of(MANY_ROWS, OWN.n_ids, 4)
    return url, bench.pack(
        "inline-json", url, [json_body(ids_of(each), inputs=own_features(federation, each)) for each in asked]
    )


def oip_pack(bench: Bench, federation: Federation) -> tuple[str, Path]:
    """Write the same as binary tensors of the Open Inference Protocol."""
    url = f"{federation.url}/v2/models/{MODEL}/infer"
    made = [
        grpc_load.oip_body(ids_of(each), own_features(federation, each)) for each in rows_of(MANY_ROWS, OWN.n_ids, 4)
    ]
    lengths = {length for _, length in made}
    made = [each for each in made if each[1] == min(lengths)]  # one header says the length of the JSON part
    headers = {"Inference-Header-Content-Length": str(min(lengths)), "Content-Type": BINARY}
    return url, bench.pack("inline-oip", url, [body for body, _ in made], headers)


def check_oip(federation: Federation) -> None:
    """Hold 100 answers in binary tensors against the truth."""
    rows = np.arange(CHECKED)
    body, length = grpc_load.oip_body(ids_of(rows), own_features(federation, rows))
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": BINARY}
    answer, given = post(f"{federation.url}/v2/models/{MODEL}/infer", body, headers)
    start = int(given.get("inference-header-content-length", len(answer)))
    check(lambda: np.frombuffer(answer[start : start + 8 * CHECKED], dtype="<f8"), federation.expected(rows), "tensors")


def inline_arrow(bench: Bench) -> Iterator[Line]:
    """Measure the same as Arrow tables on a stream."""
    federation = bench.use(OWN)
    check_arrow(federation)
    rows = np.arange(MANY_ROWS)
    features = own_features(federation, rows)
    runs = [
        grpc_load.closed(
            lambda: grpc_load.columnar(federation, [ids_of(rows)], features), slots=4, seconds=bench.seconds
        )
        for _ in range(bench.rounds)
    ]
    measured = middle([found for found, _ in runs])
    yield line_of("inline-arrow", 4, MANY_ROWS, measured, tls=bench.tls, generator_busy=runs[-1][1].busy)


def models_100(bench: Bench) -> Iterator[Line]:
    """Measure requests spread over 100 models against one of them, in turn."""
    federation = bench.use_http(HUNDRED)
    for model in HUNDRED.models[:: len(HUNDRED.models) // 4]:
        check_json(federation, model)
    url = federation.url + PREDICT
    ids = [ids_of(each) for each in rows_of(ONE_ROW, HUNDRED.n_ids, N_QUESTIONS)]
    spread = [json_body(each, HUNDRED.models[place % len(HUNDRED.models)]) for place, each in enumerate(ids)]
    packs = {
        "models-100": bench.pack("models-100", url, spread),
        "models-1": bench.pack("models-1", url, [json_body(each) for each in ids]),
    }
    found: dict[str, list[Measured]] = defaultdict(list)
    bench.wrk(url, packs["models-100"], 32)
    for _ in range(max(2, bench.rounds)):
        for name, requests in packs.items():
            found[name].append(bench.wrk(url, requests, 32))
    many, one = middle(found["models-100"]), middle(found["models-1"])
    yield line_of("models-100", 32, ONE_ROW, many, tls=bench.tls, ratio_to_one_model=many.per_s / one.per_s)


def parties_5(bench: Bench) -> Iterator[Line]:
    """Measure the latency of five participants against that of two, in turn."""
    work = json_work("parties", ONE_ROW, (1,))
    found: dict[str, list[Measured]] = defaultdict(list)
    for _ in range(max(2, bench.rounds)):
        for layout in (TWO, FIVE):
            federation = bench.use_http(layout)
            check_json(federation)
            url, requests = work.pack(bench, federation)
            bench.wrk(url, requests, 8)
            found[layout.name].append(bench.wrk(url, requests, 1))
    five, two = middle(found["five"]), middle(found["two"])
    yield line_of("parties-5", 1, ONE_ROW, five, tls=bench.tls, p50_to_two_parties=five.p50_ms / two.p50_ms)


def masked(bench: Bench) -> Iterator[Line]:
    """Measure a masked model against a bare one of the same parties, in turn, with 64 calls under way on a stream.

    A stream costs least of all edges, so that what masks cost shows most.
    """
    federation = bench.use(MASKED)
    (own,) = MASKED.masked
    check_client(federation)
    check_client(federation, own, within=len(MASKED.participants) / 2**33)
    asked = [ids_of(each) for each in rows_of(ONE_ROW, MASKED.n_ids, N_QUESTIONS)]
    found: dict[str, list[Measured]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    for turn in range(max(6, bench.rounds)):
        for model in MASKED.models[:: 1 if turn % 2 else -1]:
            began = federation.processor_s()
            measured, _run = grpc_load.closed(
                lambda: grpc_load.stream(federation, asked, model),  # noqa: B023  used at once
                slots=64,
                seconds=bench.seconds,
                warm_up_s=0.0,
            )
            spent[model].append((federation.processor_s() - began) / max(1.0, measured.per_s))
            found[model].append(measured)
    both = {model: middle(runs) for model, runs in found.items()}
    ratios_to_bare = {
        "ratio_to_bare": both[own].per_s / both[MODEL].per_s,
        "processor_to_bare": median(spent[own]) / median(spent[MODEL]),
    }
    yield line_of("masked", 64, ONE_ROW, both[own], tls=bench.tls, **ratios_to_bare)


def memory(bench: Bench) -> Iterator[Line]:
    """Measure resident memory, after some load."""
    for layout in (TWO,) if bench.quick else (TWO, MILLION):
        federation = bench.use(layout)
        check_client(federation)
        asked = [ids_of(each) for each in rows_of(ONE_ROW, layout.n_ids, N_QUESTIONS)]
        measured, _ = grpc_load.closed(lambda: grpc_load.unary(federation, asked), slots=32, seconds=bench.seconds)  # noqa: B023  used at once
        found = federation.memory_mb()
        participants = max(value for name, value in found.items() if name != INITIATOR)
        yield Line(
            "memory", 32, ONE_ROW, bench.tls, non_ok=measured.non_ok,
            more={"ids": layout.n_ids, "initiator_mb": found[INITIATOR], "participant_mb": participants},
        )  # fmt: skip


WORKS: dict[str, Work] = {
    "json-1": json_work("json-1", ONE_ROW, (1, 8, 32, 64, 256)),
    "json-1000": json_work("json-1000", MANY_ROWS, (1, 4, 16)),
    "trees-1": json_work("trees-1", ONE_ROW, (1, 8, 32, 64), TREES),
    "trees-1000": json_work("trees-1000", MANY_ROWS, (1, 4), TREES),
    "grpc-unary": grpc_work("grpc-unary", ONE_ROW, 64, grpc_load.unary, check_client),
    "grpc-stream": grpc_work("grpc-stream", ONE_ROW, 64, grpc_load.stream, check_stream),
    "grpc-arrow-1000": grpc_work("grpc-arrow-1000", MANY_ROWS, 4, grpc_load.columnar, check_arrow),
    "inline-json": Http("inline-json", OWN, MANY_ROWS, (4,), lambda each: check_json(each, inline=True), inline_pack),
    "inline-oip": Http("inline-oip", OWN, MANY_ROWS, (4,), check_oip, oip_pack, must="prediction", never=""),
    "inline-arrow": inline_arrow,
    "models-100": models_100,
    "parties-5": parties_5,
    "audit": audit_cost,
    "masked": masked,
    "overload": overload,
    "memory": memory,
}

NOT_QUICK = frozenset({"audit", "models-100", "parties-5"})
"""What takes minutes to set up."""

"""`fedpredict bench`: load for a deployment of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpredict.cli import connect
from fedpredict.cli.bench_output import Shown, Watch, check_files, print_results, save_files
from fedpredict.cli.exits import ExitCode
from fedpredict.cli.options import ClientConfig, Connect, IdentityName, Insecure, ModelOption
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.cli.predict import sample_ids_of
from fedpredict.client import Mode
from fedpredict.client.connection import build_target
from fedpredict.client.core import CHUNK_SIZE
from fedpredict.client.load import histogram, questions
from fedpredict.client.load.arrivals import Arrival, due_times, highest_rate
from fedpredict.client.load.capacity import Limit, find_capacity
from fedpredict.client.load.over_grpc import OverGrpc, OverStream
from fedpredict.client.load.over_http import OverHttp, parse_site
from fedpredict.client.load.preflight import check_answers
from fedpredict.client.load.record import Summary, summarise
from fedpredict.client.load.run import run_open
from fedpredict.client.load.target import LoadTarget
from fedpredict.errors import ConfigError
from fedpredict.model.arrays import Floats
from fedpredict.model.ids import check_model_id
from fedpredict.security.passwords import AUTHORIZATION

DEFAULT_RATE = 100.0
PREDICT_PATH = "/v1/predict"
CALLER_HEADER = "x-fedpredict-client"

Ids = Annotated[list[str] | None, typer.Argument(help="Sample ids to ask for.", show_default=False)]
IdFile = Annotated[Path | None, typer.Option("--in", help="Sample ids in a CSV or Parquet file.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Their column in that file.")]
HttpUrl = Annotated[str | None, typer.Option("--http", help="Ask over HTTP: http(s)://host:port; default: gRPC.")]
Stream = Annotated[bool, typer.Option("--stream", help="gRPC: all calls on one standing stream.")]
Headers = Annotated[list[str] | None, typer.Option("--header", help="NAME: VALUE, for every HTTP request; repeatable.")]
Rate = Annotated[float | None, typer.Option("--rate", help="Requests a second; default 100.")]
Rates = Annotated[str | None, typer.Option("--rates", help="Several, one after the other: 500,1000,2000.")]
Find = Annotated[bool, typer.Option("--find-capacity", help="Find the highest rate that the server keeps up with.")]
P99Limit = Annotated[float, typer.Option("--limit-ms", help="What p99 may be, for --find-capacity.", min=0.1)]
ArrivalOption = Annotated[Arrival, typer.Option("--arrival", help="As from many independent people, or evenly.")]
Duration = Annotated[float, typer.Option("--duration", help="Seconds measured, per rate.", min=0.5, max=86_400.0)]
WarmUp = Annotated[float, typer.Option("--warm-up", help="Seconds before, which do not count.", min=0.0, max=600.0)]
Connections = Annotated[int, typer.Option("--connections", help="Requests under way at most.", min=1, max=10_000)]
Rows = Annotated[int, typer.Option("--rows", help="Sample ids a request.", min=1, max=100_000)]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that anybody would wait.", min=0.01, max=600.0)]
Seed = Annotated[int, typer.Option("--seed", help="Of the order of ids and the gaps between requests.", min=0)]
AllowUnscored = Annotated[bool, typer.Option("--allow-unscored", help="Measure although no sample gets a number.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Save a picture: latency by percentile, and over time.")]
Hdr = Annotated[Path | None, typer.Option("--hdr", help="Save a standard HDR histogram log.")]


def bench(
    sample_ids: Ids = None,
    *,
    model_id: ModelOption,
    file: IdFile = None,
    id_column: IdColumn = None,
    http: HttpUrl = None,
    stream: Stream = False,
    headers: Headers = None,
    config: ClientConfig = None,
    server: Connect = None,
    insecure: Insecure = False,
    identity: IdentityName = None,
    rate: Rate = None,
    rates: Rates = None,
    find: Find = False,
    limit_ms: P99Limit = 100.0,
    arrival: ArrivalOption = Arrival.POISSON,
    duration_s: Duration = 10.0,
    warm_up_s: WarmUp = 2.0,
    connections: Connections = 64,
    rows: Rows = 1,
    timeout_s: Timeout = 5.0,
    seed: Seed = 0,
    mode: Annotated[Mode, typer.Option("--mode", help="How fresh the features are.")] = Mode.NEARLINE,
    allow_unscored: AllowUnscored = False,
    plot: Plot = None,
    hdr: Hdr = None,
    as_json: JsonFlag = False,
) -> None:
    """Send requests at a rate that the server does not choose, and tell how long people would have waited."""
    output = Output(as_json=as_json)
    check_files(plot, hdr)
    histogram.check_library()
    check_model_id(model_id)
    rates_asked = _rates(rate, rates, find=find)
    asked = Asked(
        model_id,
        questions.groups(sample_ids_of(sample_ids, file, id_column), rows, seed),
        mode,
        timeout_s,
        allow_unscored,
    )
    load = Load(arrival, duration_s, warm_up_s, connections, timeout_s, seed)
    load.check(rates_asked)
    over = "http" if http else "stream" if stream else "grpc"
    connection = connect.Connection(server, None, None, None, None, None, insecure, identity, timeout_s)
    place = Place(over, http, connect.resolve(config, connection), _headers(headers))
    shown, capacity = _run(_measure(place, asked, load, rates_asked, Limit(limit_ms) if find else None))
    save_files(shown, plot, hdr, title=f"{model_id} over {over}, {rows} sample(s) a request")
    facts = {"model": model_id, "over": over, "rows": rows, "connections": connections, "arrival": arrival}
    print_results(output, facts, shown, capacity, find=find, limit_ms=limit_ms)
    _exit(shown)


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request asks for."""

    model_id: str
    groups: list[list[str | bytes]]
    mode: Mode
    timeout_s: float
    allow_unscored: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go: "http", "grpc" or "stream"; a URL for the first."""

    over: str
    http: str | None
    resolved: connect.Resolved
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """How requests come; what is the same at every rate."""

    arrival: Arrival
    duration_s: float
    warm_up_s: float
    connections: int
    timeout_s: float
    seed: int

    @property
    def highest_rate(self) -> float:
        """The highest rate that can be measured for so long."""
        return highest_rate(self.warm_up_s + self.duration_s)

    def due(self, rate: float) -> Floats:
        """Return when requests are due at a rate, warm-up included; raise `InputError` where that is too much."""
        return due_times(self.arrival, rate, self.warm_up_s + self.duration_s, self.seed)

    def check(self, rates: list[float]) -> None:
        """Raise `InputError` where some rate is too much, before anything is sent."""
        for rate in rates:
            self.due(rate)


class Session:
    """Measurements against one target, one rate after the other.

    Attributes:
        shown: What was measured so far.
    """

    def __init__(self, load: Load, target: LoadTarget, watch: Watch) -> None:
        self._load, self._target, self._watch = load, target, watch
        self.shown: list[Shown] = []

    async def steps(self, rates: list[float]) -> None:
        """Measure at some rates; stop where somebody interrupts."""
        for rate in rates:
            if (await self.step(rate)).interrupted:
                return

    async def step(self, rate: float) -> Summary:
        """Measure at one rate."""
        load = self._load
        due = load.due(rate)
        self._watch.begin(rate, load.warm_up_s + load.duration_s)
        began = datetime.now(UTC)
        run = await run_open(
            self._target, due, slots=load.connections, timeout_s=load.timeout_s, on_tick=self._watch.tick
        )
        until = run.elapsed_s if run.interrupted else load.warm_up_s + load.duration_s
        since = min(load.warm_up_s, until)
        summary = summarise(
            run.record, asked_per_s=rate, since_s=since, until_s=until, busy=run.busy, interrupted=run.interrupted
        )
        self.shown.append(Shown(summary, run.record.table(since), began))
        return summary


async def _measure(
    place: Place, asked: Asked, load: Load, rates: list[float], limit: Limit | None
) -> tuple[list[Shown], float | None]:
    target = _target(place, asked)
    try:
        await check_answers(target, asked.model_id, allow_unscored=asked.allow_unscored)
        with Watch() as watch:
            session = Session(load, target, watch)
            if limit is not None:
                found = await find_capacity(session.step, limit, rates[0], load.highest_rate)
                return session.shown, found
            await session.steps(rates)
            return session.shown, None
    finally:
        await target.close()


def _run(measuring: Any) -> tuple[list[Shown], float | None]:
    import uvloop  # noqa: PLC0415  Ctrl-C before anything is measured should be quick

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: tuple[list[Shown], float | None] = runner.run(measuring)
        return result


def _target(place: Place, asked: Asked) -> LoadTarget:
    http, resolved = place.http, place.resolved
    if http is not None:
        site = parse_site(http, PREDICT_PATH, tls=resolved.tls, server_party=resolved.server_party)
        bodies = questions.json_bodies(asked.model_id, asked.groups, asked.mode)
        # without TLS the edge takes a caller's word for who it is
        stated = {CALLER_HEADER: resolved.identity.name} if resolved.identity and site.context is None else {}
        stated |= {AUTHORIZATION: f"Bearer {resolved.token}"} if resolved.token and site.context is not None else {}
        return OverHttp(site, bodies, questions.has_numbers, {**stated, **place.headers})
    if resolved.server is None:
        raise ConfigError(f"{connect.NO_SERVER}; or ask over HTTP with --http")
    target = build_target(
        resolved.server,
        server_party=resolved.server_party,
        tls=resolved.tls,
        insecure=resolved.insecure,
        identity=resolved.identity,
        chunk_size=CHUNK_SIZE,
        token=resolved.token,
        ca=resolved.ca,
    )
    messages = questions.tasks(asked.model_id, asked.groups, asked.mode)
    if place.over == "stream":
        return OverStream(target, questions.stream_calls(messages, asked.timeout_s), model_id=asked.model_id)
    return OverGrpc(target, messages, model_id=asked.model_id, timeout_s=asked.timeout_s)


def _rates(rate: float | None, rates: str | None, *, find: bool) -> list[float]:
    if find and rates is not None:
        raise typer.BadParameter("--find-capacity chooses its own rates; --rate is its first", param_hint="--rates")
    if rate is not None and rates is not None:
        raise typer.BadParameter("give --rate or --rates, not both", param_hint="--rates")
    if rates is None:
        return [DEFAULT_RATE if rate is None else rate]
    try:
        return [float(word) for word in rates.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{rates!r} is no list of numbers; write 500,1000,2000", param_hint="--rates"
        ) from None


def _headers(lines: list[str] | None) -> dict[str, str]:
    headers = {}
    for line in lines or []:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not line.isprintable():
            raise typer.BadParameter(f"{line!r} is no header; write NAME: VALUE", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _exit(shown: list[Shown]) -> None:
    if any(each.summary.interrupted for each in shown):
        raise typer.Exit(130)
    if not any(each.summary.ok for each in shown):
        raise typer.Exit(ExitCode.UNAVAILABLE)

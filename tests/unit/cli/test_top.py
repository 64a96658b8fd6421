"""`fedpredict top` against real metrics ports."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.cli import top as command
from fedpredict.cli.exits import ExitCode
from fedpredict.cli.main import run
from fedpredict.cli.top_read import Latencies, Look, look_at, url_of
from fedpredict.cli.top_view import TABLES, view
from fedpredict.errors import InputError
from fedpredict.model.share import Mode
from fedpredict.observe.counting import Source
from fedpredict.observe.measuring import measuring
from fedpredict.observe.metrics import SEVERAL
from fedpredict.observe.scoring import ParticipantMetrics, StoreMetrics, StoreReading
from fedpredict.observe.serving import ServingMetrics
from fedpredict.observe.settings import MetricsSettings

AWAY = "127.0.0.1:9"


@dataclass
class Linked:
    """A link in a state of the test's."""

    carriers: Mapping[str, int]
    reconnects: int
    offline_carriers: Mapping[str, int] = field(default_factory=dict)


class Ports:
    """Metrics ports in an event loop of their own, as other processes have them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        stack.callback(self._loop.close)
        stack.callback(thread.join)
        stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)

    def open(self, role: Any, party: str, *sources: Source) -> str:
        shown = measuring(
            MetricsSettings(listen="127.0.0.1:0"), role, party, worker=0, sources=sources, healthy=lambda: True
        )
        address = asyncio.run_coroutine_threadsafe(shown.__aenter__(), self._loop).result()
        self._stack.callback(
            lambda: asyncio.run_coroutine_threadsafe(shown.__aexit__(None, None, None), self._loop).result()
        )
        return address


@pytest.fixture
def ports() -> Iterator[Ports]:
    with ExitStack() as stack:
        yield Ports(stack)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen between the two looks, which are one second apart."""

    def set_up(what: Callable[[], None]) -> None:
        real, looks = look_at, iter((100.0, 101.0))

        def looked(urls: list[str]) -> list[Look]:
            at = next(looks)
            return [Look(each.url, at, each.samples, each.problem) for each in real(urls)]

        monkeypatch.setattr(command, "look_at", looked)
        monkeypatch.setattr("fedpredict.cli.top.time.sleep", lambda _: what())

    return set_up


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, Any]]]:
    assert run(["top", *arguments, "--json"]) == ExitCode.OK
    tables = json.loads(capsys.readouterr().out)
    assert isinstance(tables, dict)
    return tables


def test_what_happened_between_two_looks_is_shown(
    ports: Ports, between: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serving = ServingMetrics({"credit"})
    serving.ready(lambda: {"credit": True, "idle": False})
    serving.queue(lambda: (4, 40))
    serving.connections("http", lambda: 7)
    serving.party("lab").link = Linked({"socket": 2}, 1)
    serving.party("shop").link = Linked({}, 5)
    participant = ParticipantMetrics({"bank"}, lambda model: True)
    store = StoreMetrics(lambda: [StoreReading(view="people", view_version=2, instant=0.0, rows=10, n_bytes=640)])
    requests = serving.request("http", "credit", Mode.NEARLINE)
    requests.done("ok", 5.0, 1)  # before the first look: not shown

    def happens() -> None:
        for _ in range(96):
            requests.done("ok", 0.0012, 2)
        for _ in range(4):
            requests.done("deadline", 0.3, 2)
        serving.round("credit", Mode.NEARLINE).began(10, 20)
        serving.round("credit", Mode.NEARLINE).done(0.001)
        serving.round(SEVERAL, Mode.NEARLINE).began(6, 6)
        serving.party("lab").done("ok", 0.0009, 0.0001)
        serving.party("shop").done("unavailable", 0.0001)
        participant.score("bank", "credit").done(0.0002, np.array([1, 1, 2, 1], np.uint8))

    urls = (ports.open("initiator", "bank", serving), ports.open("participant", "lab", participant, store))
    between(happens)
    tables = shown(capsys, *(word for url in urls for word in ("--metrics", url)))
    bank, lab = tables["servers"]
    assert (bank["state"], bank["role"], bank["party"], bank["per_s"]) == ("up", "initiator", "bank", 100.0)
    assert (bank["failed_per_s"], bank["queue"], bank["queue_rows"], bank["connections"]) == (4.0, 4, 40, 7)
    assert (lab["role"], lab["per_s"], lab["queue"]) == ("participant", 1.0, None)
    several, credit, idle = tables["models"]
    assert (several["model"], several["ready"], several["per_s"]) == ("(several)", None, 0.0)
    assert (credit["model"], credit["ready"], credit["rows_per_s"], credit["per_s"]) == ("credit", True, 200.0, 100.0)
    assert 1.0 < credit["p50_ms"] <= 1.5
    assert 200.0 < credit["p99_ms"] <= 500.0
    assert (credit["requests_a_round"], credit["rows_a_round"], credit["rounds_per_s"]) == (10.0, 20.0, 1.0)
    assert (idle["model"], idle["ready"], idle["per_s"], idle["p50_ms"]) == ("idle", False, 0.0, None)
    parties = {each["party"]: each for each in tables["parties"]}
    assert (parties["lab"]["state"], parties["lab"]["carrier"], parties["lab"]["links"]) == ("connected", "socket", 2)
    assert (parties["shop"]["state"], parties["shop"]["failed_per_s"]) == ("away", 1.0)
    (share,) = tables["shares"]
    assert (share["caller"], share["rows_per_s"], share["scored"]) == ("bank", 4.0, 0.75)
    (held,) = tables["stores"]
    assert (held["party"], held["view"], held["rows"], held["bytes"]) == ("lab", "people", 10, 640)


def test_one_that_is_away_is_shown_beside_those_that_are_not(ports: Ports, capsys: pytest.CaptureFixture[str]) -> None:
    url = ports.open("initiator", "bank", ServingMetrics(set()))
    assert run(["top", "--metrics", url, "--metrics", AWAY, "--once", "--every", "0.1"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if url in line).split()[1:4] == ["up", "initiator", "bank"]
    assert "nobody listens there" in next(line for line in lines if AWAY in line)


def test_a_server_that_has_started_again_counts_from_nothing(
    ports: Ports, between: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serving = ServingMetrics({"m"})
    url = ports.open("initiator", "bank", serving)
    for _ in range(50):
        serving.request("http", "m", Mode.NEARLINE).done("ok", 0.001, 1)

    def starts_again() -> None:
        serving._request_seconds._children.clear()
        serving._requests.clear()
        serving.request("http", "m", Mode.NEARLINE).done("ok", 0.001, 1)

    between(starts_again)
    assert shown(capsys, "--metrics", url)["servers"][0]["per_s"] in (0.0, 1.0)  # never less than nothing


def test_the_settings_name_the_port_of_every_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "initiator.toml"
    path.write_text('party = "bank"\ninsecure = true\nworkers = 2\n[metrics]\nlisten = "127.0.0.1:8"\n')
    tables = shown(capsys, "--config", str(path), "--every", "0.1")
    assert [each["url"] for each in tables["servers"]] == [f"http://127.0.0.1:{port}/metrics" for port in (8, 9)]


def test_settings_without_a_metrics_port_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "initiator.toml"
    path.write_text('party = "bank"\ninsecure = true\n')
    assert run(["top", "--config", str(path)]) == ExitCode.CONFIG
    assert "set [metrics] listen, or name one with --metrics" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("value", ["", "ftp://x", "host:port", "http://", "x:99999"])
def test_what_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="is no metrics port"):
        url_of(value)


def test_another_server_is_no_server_of_ours(ports: Ports) -> None:
    import http.server

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write({"/text": b"up 1\n", "/html": b"<html>\xff"}.get(self.path, b""))

        log_message = lambda *_: None  # noqa: E731

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        problems = [each.problem for each in look_at([f"{base}/text", f"{base}/html", f"{base}/gone"])]
        server.shutdown()
        thread.join()
    assert problems == ["is no server of fedpredict", "answers something else than metrics", "answers 404"]


@given(st.lists(st.floats(min_value=0.0, max_value=9.9), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], part: float) -> None:
    bounds = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf)
    latencies = Latencies()
    for bound in bounds:
        latencies.add(str(bound), sum(value <= bound for value in values))
    true = sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
    found = latencies.quantile(part)
    assert found is not None
    upper = min(bound for bound in bounds if true <= bound)
    lower = max((bound for bound in bounds if bound < true), default=0.0)
    assert lower <= found <= upper


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    from rich.console import Console

    row = {column.key: 123456.0 for columns in TABLES.values() for column in columns if column.justify == "right"}
    texts = {column.key: "a-rather-long-name-of-something" for columns in TABLES.values() for column in columns}
    rows = [{**texts, **row, "url": "http://some-host.of-a-bank.example:9464/metrics", "state": "up"}]
    console = Console(width=width, highlight=False, file=None)
    with console.capture() as capture:
        console.print(view(dict.fromkeys(TABLES, rows), "note", width))
    lines = capture.get().splitlines()
    assert max(len(line) for line in lines) <= width
    numbers = [word for line in lines for word in line.split() if word.startswith("123")]
    assert numbers
    assert not any(word.endswith("…") for word in numbers)

"""`fedpredict bench` as a process, against a server of the test's own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import PROGRAM, environment
from tests.stub_http import StubServer, serving

if TYPE_CHECKING:
    from tests.e2e.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHORT = ("--rate", "200", "--duration", "0.5", "--warm-up", "0.1")


@pytest.fixture
def server() -> Iterator[StubServer]:
    with serving(StubServer()) as running:
        yield running


def bench(shop: Workshop, server: StubServer, *words: object) -> subprocess.CompletedProcess[str]:
    return shop.attempt("bench", "--model", "m", "--http", server.url, *words)


def test_a_run_is_told_as_one_document_and_saved_as_picture_and_log(workshop: Workshop, server: StubServer) -> None:
    (workshop.folder / "ids.csv").write_text("id,x\nu1,1\nu2,2\n")

    done = bench(
        workshop, server, "--in", "ids.csv", "--id-column", "id", *SHORT, "--arrival", "constant", "--json",
        "--plot", "run.png", "--hdr", "run.hlog",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["model"], document["over"], document["arrival"]) == ("m", "http", "constant")
    (run,) = document["runs"]
    assert (run["rate"], run["ok"], run["errors"]) == (200.0, 100, {})
    assert run["p50_ms"] <= run["p90_ms"] <= run["p99_ms"] <= run["p999_ms"] <= run["max_ms"]
    assert {json.loads(body)["sample_ids"][0] for body in server.bodies} == {"u1", "u2"}
    assert (workshop.folder / "run.png").read_bytes().startswith(b"\x89PNG")
    log = (workshop.folder / "run.hlog").read_text()
    assert log.startswith("#[Histogram log format version 1.2]\n#[StartTime: ")


def test_a_person_reads_a_table(workshop: Workshop, server: StubServer) -> None:
    done = bench(workshop, server, "u1", *SHORT)

    assert done.returncode == 0
    heads = done.stdout.splitlines()[1]
    assert [word for word in ("rate", "per s", "p50 ms", "p99 ms", "p999 ms", "max ms", "errors") if word in heads] == [
        "rate", "per s", "p50 ms", "p99 ms", "p999 ms", "max ms", "errors",
    ]  # fmt: skip


def test_rates_are_measured_one_after_the_other(workshop: Workshop, server: StubServer) -> None:
    done = bench(
        workshop, server, "u1", "--rates", "50,100", "--duration", "0.5", "--warm-up", "0", "--arrival", "constant",
        "--json",
    )  # fmt: skip

    assert [(run["rate"], run["ok"]) for run in json.loads(done.stdout)["runs"]] == [(50.0, 25), (100.0, 50)]


def test_the_capacity_is_where_the_server_stops_keeping_up(workshop: Workshop, server: StubServer) -> None:
    server.delay = lambda _: 1.0

    done = bench(
        workshop, server, "u1", "--find-capacity", "--rate", "8", "--duration", "0.5", "--warm-up", "0", "--json"
    )

    document = json.loads(done.stdout)
    assert (done.returncode, document["capacity_per_s"]) == (0, None)
    assert [run["rate"] for run in document["runs"]][:2] == [8.0, 2.0]


def test_ctrl_c_prints_what_there_is(workshop: Workshop, server: StubServer) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "bench", "--model", "m", "--http", server.url, "u1", "--rate", "100", "--warm-up", "0",
         "--duration", "600", "--json"],
        cwd=workshop.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while len(server.bodies) < 20:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    (run,) = json.loads(out)["runs"]
    assert (process.returncode, run["interrupted"]) == (130, True)
    assert 10 <= run["ok"] <= len(server.bodies)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("u1", "--rate", "1", "--rates", "1,2"), 2, "not both"),
        (("u1", "--rates", "1,x"), 2, "no list of numbers"),
        (("u1", "--header", "nonsense"), 2, "write NAME: VALUE"),
        (("u1", "--rate", "-1"), 4, "a rate of -1"),
        (("u1", "--rate", "150000", "--duration", "3600"), 4, "at most 5,000,000"),
        ((), 4, "name sample ids"),
        (("--in", "none.csv"), 4, "none.csv"),
        (("--in", "ids.csv", "--id-column", "di"), 4, "has no column 'di'; there is 'id'"),
        (("u1", "--plot", "x.txt"), 4, "pictures are .png"),
        (("u1", "--hdr", "nowhere/x.hlog"), 4, "there is no folder"),
        (("nobody",), 4, "are these the ids that the parties know"),
    ],
)
def test_a_mistake_is_told_with_its_code_before_anything_is_measured(
    words: tuple[str, ...], code: int, told: str, *, workshop: Workshop, server: StubServer
) -> None:
    (workshop.folder / "ids.csv").write_text("id,x\nu1,1\n")

    done = bench(workshop, server, *words)

    assert (done.returncode, done.stdout) == (code, "")
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert len(server.bodies) <= 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--model", "other", "--http", "URL"), 5, "model 'other': the server answers with status 404"),
        (("--model", "m", "--http", "http://127.0.0.1:1"), 6, "127.0.0.1:1: cannot connect"),
        (("--model", "m", "--http", "127.0.0.1"), 3, "is no URL"),
        (("--model", "m", "--http", "https://127.0.0.1:1"), 3, "https needs the CA"),
        (("--model", "m"), 3, "which server?"),
        (("--model", "m", "--server", "127.0.0.1:1", "--insecure"), 6, "127.0.0.1:1 cannot be reached"),
        (("--model", "m", "--config", "none.toml"), 3, "none.toml: no such file"),
        (("--model", "m!", "--http", "URL"), 4, "m!"),
    ],
)
def test_a_server_or_model_that_is_not_there_is_told(
    words: tuple[str, ...], code: int, told: str, *, workshop: Workshop, server: StubServer
) -> None:
    done = workshop.attempt("bench", *(server.url if word == "URL" else word for word in words), "u1")

    assert done.returncode == code, done.stderr
    assert told in " ".join(done.stderr.split())


def test_a_server_that_refuses_everything_is_six_and_counted(workshop: Workshop, server: StubServer) -> None:
    server.reply = lambda _: (429, {"retry-after": "1"}, b"")

    done = bench(workshop, server, "u1", *SHORT, "--arrival", "constant", "--json")

    (run,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, run["errors"], run["p99_ms"]) == (6, {"HTTP 429": 100}, None)


def test_who_asks_is_stated_where_there_is_no_tls(workshop: Workshop, server: StubServer) -> None:
    bench(workshop, server, "u1", *SHORT, "--identity", "desk", "--header", "x-request-id: r-1")

    assert {(head["x-fedpredict-client"], head["x-request-id"]) for head in server.heads} == {("desk", "r-1")}


def run_script(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    code = "import sys, bench_serve; sys.exit(bench_serve.main(sys.argv[1:]))"
    env: dict[str, Any] = {**environment(), "PYTHONPATH": f"{root}:{root / 'scripts'}"}
    return subprocess.run(
        [PROGRAM[0], "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--help",), 0, "parties-5, audit, masked, overload, memory"),
        (("--only", "nothing"), 2, "no such work: nothing"),
        (("--seconds", "0"), 2, "from 0.5 to 3600"),
        (("--target", "http://127.0.0.1:1/x"), 2, "--target and --body go together"),
        (("--target", "http://127.0.0.1:1/x", "--body", "none.json"), 2, "no such file"),
    ],
)
def test_the_serving_benchmark_tells_its_works_and_mistakes(
    words: tuple[str, ...], code: int, told: str, tmp_path: Path
) -> None:
    done = run_script(*words, folder=tmp_path)

    assert done.returncode == code
    assert told in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [(("--help",), 0, "  serve"), ((), 0, "  serve"), (("nothing",), 2, "nothing to measure is called nothing")],
)
def test_the_script_lists_what_can_be_measured(words: tuple[str, ...], code: int, told: str) -> None:
    script = Path(__file__).parents[2] / "scripts" / "bench"

    done = subprocess.run([script, *words], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == code
    assert told in done.stdout + done.stderr

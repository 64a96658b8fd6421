"""scripts/bench serve: how fast predictions are, with real processes, beside any other server.

Method and results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from servebench.bench import Bench, NotOfferedError, WrongAnswerError
from servebench.reference import Reference, parse_reference
from servebench.result import Line, Printer, line_of
from servebench.works import NOT_QUICK, WORKS
from servebench.wrk import run_wrk, write_requests

SECONDS, QUICK_SECONDS = 5.0, 1.0
CONNECTIONS = "1,8,32,64"


def main(argv: list[str]) -> int:
    """Measure what the command line asks for; return 0, 1 where something was wrong, 2 where the arguments are."""
    arguments = parse(argv)
    signal.signal(signal.SIGTERM, _end)
    printer = Printer(as_json=arguments.json)
    printer.say(machine())
    try:
        if arguments.target:
            drive_target(arguments, printer)
        else:
            drive_ours(arguments, printer)
    except KeyboardInterrupt:
        printer.finish(machine())
        return 130
    return printer.finish(machine())


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; end with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench serve",
        description="Measure predictions: participants and an initiator in processes of their own, on loopback.",
        epilog=f"Works: {', '.join(WORKS)}.",
    )
    parser.add_argument("--only", metavar="WORK,...", type=_works, help="these works alone")
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: a second each, without what is long to set up"
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        help=f"how long each measurement takes (default {SECONDS:g}; quick {QUICK_SECONDS:g})",
    )
    parser.add_argument(
        "--rounds", type=int, help="how often each is made; medians count (default 1; 2 with --reference)"
    )
    parser.add_argument("--no-tls", action="store_true", help="plain text between the parties, instead of mutual TLS")
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument(
        "--reference", metavar="[WORK=]COMMAND", action="append", default=[], type=parse_reference,
        help='a command that measures another server and prints JSON lines with "rows", "conc", "qps", "p50", "p99"; '
        "it runs in turn with ours, never at the same time, and ratios are printed. Repeatable",
    )  # fmt: skip
    other = parser.add_argument_group("another server instead of ours")
    other.add_argument(
        "--target",
        metavar="URL",
        help="where requests are posted, such as an Open Inference Protocol server's .../infer",
    )
    other.add_argument("--body", metavar="FILE", type=Path, help="what is posted")
    other.add_argument("--header", metavar="NAME:VALUE", action="append", default=[], help="repeatable")
    other.add_argument("--must", default="", metavar="TEXT", help="what a good answer has in it, besides status 200")
    other.add_argument("--rows", type=int, default=1, help="rows in the body, for the result (default 1)")
    other.add_argument("--connections", default=CONNECTIONS, type=_numbers, help=f"default {CONNECTIONS}")
    arguments = parser.parse_args(argv)
    if bool(arguments.target) != bool(arguments.body):
        parser.error("--target and --body go together")
    if arguments.body and not arguments.body.is_file():
        parser.error(f"--body {arguments.body}: no such file")
    if any(":" not in line for line in arguments.header):
        parser.error("--header wants NAME:VALUE")
    if shutil.which("wrk") is None:
        parser.error("wrk is needed: apt-get install wrk")
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    arguments.rounds = arguments.rounds or (2 if arguments.reference else 1)
    return arguments


def drive_ours(arguments: argparse.Namespace, printer: Printer) -> None:
    """Set parties up in a temporary folder, do the works, and leave nothing behind."""
    names = arguments.only or [name for name in WORKS if not (arguments.quick and name in NOT_QUICK)]
    with tempfile.TemporaryDirectory(prefix="fedpredict-bench-") as folder:
        bench = Bench(
            Path(folder),
            printer,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            tls=not arguments.no_tls,
            quick=arguments.quick,
            references=arguments.reference,
        )
        try:
            for name in names:
                do(bench, name)
        finally:
            bench.rest()


def do(bench: Bench, name: str) -> None:
    """Do one work; whatever becomes of it, the next has its turn."""
    bench.printer.say(f"{name} ...")
    try:
        for line in WORKS[name](bench):
            bench.printer.add(line)
    except NotOfferedError as error:
        bench.printer.add(Line(name, 0, 0, bench.tls, problem=f"not offered: {error}"))
    except WrongAnswerError as error:
        bench.printer.add(Line(name, 0, 0, bench.tls, problem=f"WRONG: {error}", more={"failed": True}))
    except (Exception, SystemExit) as error:  # noqa: BLE001  one work's failure is its line
        bench.printer.add(
            Line(name, 0, 0, bench.tls, problem=f"failed: {type(error).__name__}: {error}", more={"failed": True})
        )
        bench.rest()


def drive_target(arguments: argparse.Namespace, printer: Printer) -> None:
    """Load another server with one body."""
    headers = dict(line.split(":", 1) for line in arguments.header)
    headers = {name.strip(): value.strip() for name, value in headers.items()}
    references: list[Reference] = arguments.reference
    if references:
        printer.say("--reference is for ours; it is left out with --target")
    with tempfile.TemporaryDirectory(prefix="fedpredict-bench-") as folder:
        requests = write_requests(
            Path(folder) / "target.requests", arguments.target, [arguments.body.read_bytes()], headers
        )
        for count in arguments.connections:
            measured = run_wrk(
                arguments.target, requests, connections=count, seconds=arguments.seconds, must=arguments.must
            )
            printer.add(line_of("target", count, arguments.rows, measured, tls=False))


def machine() -> str:
    """Return the facts that a result needs beside it."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}, load {load:.1f}"
    )


def _works(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in WORKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such work: {', '.join(unknown)}; there is {', '.join(WORKS)}")
    return names


def _positive(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0.5 to 3600")
    return value


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

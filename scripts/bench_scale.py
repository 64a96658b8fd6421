"""scripts/bench scale: whole two-party tasks of 10^6 to 10^8 rows: seconds of each phase, memory of each process.

An initiator and two participants in processes of their own, over TLS, with embedded warehouses. Phases: `prepare` (rows
are made and written), `score` (`task score` of both parties, at the same time), `start` (until the model is ready at
all parties), `propose` (ids become a standing population, until both parties have accepted it) or `upload` (a list is
sent), `task` (started to finished), `fetch` (all results, some of them held against the features).

One JSON object a line: `run` (seconds by phase, peaks by process), and `memory` for each process (anonymous and all
resident memory over time). `--out` appends them to a file, and `--plot` draws all runs of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import taskbench
from memorywatch import MemoryWatch
from scaleplot import draw

from fedpredict.client import FileOf, Mode, Standing
from fedpredict.model.buckets import bucket_count
from fedpredict.model.populations import BUCKET_ROWS as POPULATION_ROWS
from fedpredict.scoring.tasks import BUCKET_ROWS

DAEMONS = (*taskbench.PARTIES, "bank")
MEASURED = ("start", "propose", "upload", "task", "fetch")
"""Phases in which daemons run."""


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for, print it, and draw; return 0."""
    arguments = _parse(argv)
    sizes = [int(float(each)) for each in arguments.rows.split(",")] if arguments.rows else []
    for n_rows in sizes:
        with tempfile.TemporaryDirectory(prefix="fedpredict-scale-", dir=arguments.folder) as folder:
            cuts = Cuts(n_rows, arguments.bucket_rows, arguments.bucket_ids)
            run = Run(Path(folder), n_rows, arguments.features, arguments.population, arguments.mode, cuts)
            for line in run.lines(arguments.answer_from, arguments.every):
                _tell(line, arguments.out)
    if arguments.plot:
        lines = [json.loads(line) for line in arguments.out.read_text(encoding="utf-8").splitlines()]
        draw(arguments.plot, [line for line in lines if line["work"] == "run"])
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1e6,1e7,1e8", help="ids; empty: only draw (default: %(default)s)")
    parser.add_argument("--features", type=int, default=10, help="of each party (default: %(default)s)")
    parser.add_argument("--population", choices=("standing", "list"), default="standing")
    parser.add_argument("--mode", choices=("offline", "nearline"), default="offline", help="stored shares, or features")
    parser.add_argument(
        "--answer-from", choices=("store", "warehouse"), default="warehouse", help="at the participants"
    )
    parser.add_argument("--bucket-rows", type=int, help="[tasks] bucket_rows of the participants; default: theirs")
    parser.add_argument("--bucket-ids", type=int, help="of the population, at most on average; default: 262,144")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks at memory")
    parser.add_argument("--folder", type=Path, help="where everything is made, and removed; 10^8 rows take 40 GB")
    parser.add_argument("--out", type=Path, help="a file of JSON lines that is appended to")
    parser.add_argument("--plot", type=Path, help="a picture (.svg, .png) of all runs in --out")
    parser.add_argument("--quick", action="store_true", help="100,000 ids only")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    arguments = parser.parse_args(argv)
    if arguments.plot and not arguments.out:
        parser.error("--plot draws what is in --out: name both")
    if arguments.quick:
        arguments.rows = "1e5"
    return arguments


def _tell(line: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(line)
    if line["work"] == "run":
        print(text, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


@dataclass(frozen=True)
class Cuts:
    """How a size is cut into buckets, of which there are always a power of two.

    Attributes:
        n_rows: The size.
        bucket_rows: Of stored shares, at most on average; None: the default.
        bucket_ids: Of the population, at most on average; None: the default.
    """

    n_rows: int
    bucket_rows: int | None
    bucket_ids: int | None

    @property
    def least_buckets(self) -> int:
        """Into how many buckets the population is cut at least."""
        return 1 if self.bucket_ids is None else bucket_count(self.n_rows, self.bucket_ids)

    def facts(self) -> dict[str, Any]:
        """Return what is printed: memory follows from the rows that a bucket has, not from those that it may have."""
        day = bucket_count(self.n_rows, self.bucket_rows or BUCKET_ROWS)
        population = max(self.least_buckets, bucket_count(self.n_rows, POPULATION_ROWS))
        return {
            "bucket_rows": self.bucket_rows,
            "buckets": {"day": day, "population": population},
            "rows_of_bucket": {"day": self.n_rows // day, "population": self.n_rows // population},
        }


@dataclass
class Run:
    """One size."""

    folder: Path
    n_rows: int
    n_features: int
    population: str
    mode: str
    cuts: Cuts
    seconds: dict[str, float] = field(default_factory=dict)
    disk_mb: int = 0

    def lines(self, answer_from: str, every_s: float) -> Iterator[dict[str, Any]]:
        """Do it, and give what was found."""
        with MemoryWatch(every_s) as watch:
            self._do(watch, answer_from)
        facts: dict[str, Any] = {
            "rows": self.n_rows, "features": self.n_features, "population": self.population, "mode": self.mode,
            "answer_from": answer_from, **self.cuts.facts(),
        }  # fmt: skip
        peaks = {name: series.peaks(MEASURED) for name, series in watch.series.items() if name in DAEMONS}
        peaks |= {name: series.peaks() for name, series in watch.series.items() if name not in DAEMONS}
        yield {
            "work": "run",
            **facts,
            "per_s": round(self.n_rows / self.seconds["task"]),
            "per_s_with_score": round(self.n_rows / (self.seconds["task"] + self.seconds["score"])),
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "peak_anon_mb": {name: peak["anon_mb"] for name, peak in peaks.items()},
            "peak_mb": {name: peak["rss_mb"] for name, peak in peaks.items()},
            "disk_mb": self.disk_mb,
        }
        for name, series in watch.series.items():
            yield {"work": "memory", **facts, "process": name, **vars(series)}

    def _do(self, watch: MemoryWatch, answer_from: str) -> None:
        with self._phase(watch, "prepare"):
            taskbench.prepare_all(self.folder, self.n_rows, self.n_features, watch.follow)
        tls = taskbench.write_settings(self.folder, answer_from, self.cuts.bucket_rows, self.cuts.least_buckets)
        with self._phase(watch, "score"):
            self._score(watch)
        with ExitStack() as stack:
            with self._phase(watch, "start"):
                for name in DAEMONS:
                    role = "initiator" if name == "bank" else "participant"
                    watch.follow(name, taskbench.start(stack, self.folder, name, role))
                client = stack.enter_context(taskbench.connected(self.folder, tls))
            watch.follow("caller", os.getpid())
            mode = Mode(self.mode)
            if self.population == "standing":
                with self._phase(watch, "propose"):
                    taskbench.propose(self.folder)
                    taskbench.accept(self.folder)
                task_id = client.submit(taskbench.MODEL, Standing(taskbench.POPULATION), mode=mode)
            else:
                with self._phase(watch, "upload"):
                    task_id = client.submit(taskbench.MODEL, FileOf(self.folder / "ids.parquet"), mode=mode)
            with self._phase(watch, "task"):
                info = client.wait(task_id)
            self.seconds["task"] = taskbench.seconds_of("task", info)
            with self._phase(watch, "fetch"):
                taskbench.check(client, task_id, self.n_rows, self.n_features)
            self.disk_mb = _size(self.folder) >> 20

    def _score(self, watch: MemoryWatch) -> None:
        """Have both parties score the day, at the same time, as they would."""
        words = [*taskbench.PROGRAM, "task", "score", "--date", taskbench.DAY, "--config"]
        running = []
        for party in taskbench.PARTIES:
            command = [*words, f"{party}/participant.toml"]
            running.append(subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL))
            watch.follow(f"{party} score", running[-1].pid)
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("task score failed; see its messages above")

    @contextmanager
    def _phase(self, watch: MemoryWatch, name: str) -> Iterator[None]:
        watch.phase = name
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        watch.look()


def _size(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())

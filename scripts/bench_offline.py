"""scripts/bench offline: a party's engine scores a snapshot into fp_partial_scores; one JSON object a line.

- `bare`: the hand-written statement, the weights as literals, over the same Parquet files: no status, no bucket, no
  record, `COPY ... TO` one Parquet file of id, score list and event time (zstd).
- `task`: what `fedpredict task score` does with the same snapshot: statuses, buckets, records, and the distribution.
  `ratio` is its rate over the mean of the bare statement's before and after it; `cpu_ratio` the same of processor time
  (`cpu_s`, all threads), which other programs on the machine disturb less.
- `plain`: the task's statement alone, without the records: what the counting and the histogram cost is the difference.

- With `--engine spark|hive`, `bare` and `task` behind a HiveServer2: `overhead` is what `task` takes beyond the
  generated statement; see `enginebench`. A server is started for it (scripts/services), or named with `--address`.

- `task-list`, `task-standing`, `task-stored` (`--works tasks`): whole two-party tasks, see `taskbench`.

Each runs in a process of its own, so that `peak_mb` is that work's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import enginebench
import numpy as np
import pyarrow as pa
import taskbench

from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.tasks import score_day
from fedpredict.tables.models import ModelVersion, current_versions, publish_model
from fedpredict.tables.shares import SHARES, ensure_tables
from fedpredict.tables.shares_sql import bucket_shares
from fedpredict.tables.views import (
    FeatureView,
    Snapshot,
    ViewFeature,
    latest_snapshot,
    publish_snapshot,
    snapshot_name,
)
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

MODEL = "bench"
ROWS = {"duckdb": "1000000,10000000", "spark": "16000000", "hive": "8000000"}
MORNING = datetime(2026, 1, 1, tzinfo=UTC)
DAY = date(2026, 1, 1)


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0."""
    arguments = _parse(argv)
    if arguments.step:
        work, folder = arguments.step
        _measure(work, Path(folder), arguments.buckets)
        return 0
    is_server = arguments.engine != "duckdb"
    quick = "200000" if is_server else "1000000"
    rows = quick if arguments.quick else arguments.rows or ROWS[arguments.engine]
    features = arguments.features or ("10" if is_server else "10,100")
    cases = [(int(n_rows), int(width)) for width in features.split(",") for n_rows in rows.split(",")]
    if is_server:
        if arguments.count_stored:
            enginebench.count_stored()
        with enginebench.served(arguments.engine, arguments.address, install=arguments.install) as server:
            for n_rows, n_features in cases:
                enginebench.measure(server, n_rows, n_features, arguments.buckets, arguments.days)
        return 0
    for n_rows, n_features in cases:
        with tempfile.TemporaryDirectory(prefix="fedpredict-bench-", dir=arguments.folder) as folder:
            if arguments.works == "tasks":
                taskbench.measure(Path(folder), n_rows, n_features)
                continue
            _step("prepare", Path(folder), f"{n_rows},{n_features}")
            _compare(Path(folder), n_rows, n_features, arguments.buckets)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench offline", description=__doc__)
    parser.add_argument("--engine", choices=tuple(ROWS), default="duckdb", help="whose statements are measured")
    parser.add_argument("--address", help="HOST:PORT of a server that runs already (spark, hive)")
    parser.add_argument("--install", action="store_true", help="install what the server lacks with apt-get, as root")
    told = ", ".join(f"{engine} {rows}" for engine, rows in ROWS.items())
    parser.add_argument("--count-stored", action="store_true", help="hive: rows are counted by a query, to compare")
    parser.add_argument("--rows", help=f"ids of the snapshot (default: {told})")
    parser.add_argument("--features", help="features of the part (default: 10,100; servers 10)")
    parser.add_argument("--buckets", type=int, help="default: what `task score` would take")
    parser.add_argument("--days", type=int, default=4, help="servers: how many are scored, one after the other")
    parser.add_argument("--folder", type=Path, help="where the warehouses are made; default: the system's")
    parser.add_argument("--works", choices=("engine", "tasks"), default="engine", help="what is measured")
    parser.add_argument("--quick", action="store_true", help="one million rows only (servers: 200,000)")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    parser.add_argument("--step", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.engine != "duckdb" and arguments.works != "engine":
        parser.error("--engine goes with --works engine: whole tasks are measured with embedded warehouses")
    return arguments


def _compare(folder: Path, n_rows: int, n_features: int, buckets: int | None) -> None:
    found = {}
    for turn, work in enumerate(("bare", "plain", "task", "bare")):
        result = _step(work, folder, str(buckets) if buckets else "")
        found[work if turn < 3 else "again"] = result
    bare, bare_cpu = ((found["bare"][each] + found["again"][each]) / 2 for each in ("seconds", "cpu_s"))
    for work in ("bare", "plain", "task"):
        seconds, cpu_s, peak = (found[work][each] for each in ("seconds", "cpu_s", "peak_mb"))
        ratios = {"ratio": round(bare / seconds, 3), "cpu_ratio": round(bare_cpu / cpu_s, 3)}
        fields = {"work": work, "rows": n_rows, "features": n_features, "per_s": round(n_rows / seconds)}
        told = {**fields, "cpu_s": round(cpu_s, 2), "peak_mb": round(peak)}
        print(json.dumps(told if work == "bare" else told | ratios), flush=True)


def _step(work: str, folder: Path, argument: str) -> dict[str, float]:
    command = [sys.executable, "-c", "import sys, bench_offline; sys.exit(bench_offline.main(sys.argv[1:]))"]
    command += ["--step", f"{work}:{argument}", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads((done.stdout.splitlines() or [b"{}"])[-1]))


def _measure(step: str, folder: Path, _buckets: int | None) -> None:
    work, _, argument = step.partition(":")
    warehouse = LocalWarehouse(folder / "warehouse")
    if work == "prepare":
        n_rows, n_features = map(int, argument.split(","))
        _prepare(warehouse, n_rows, n_features)
        return
    version = current_versions(warehouse)[MODEL]
    snapshot = latest_snapshot(warehouse, version.view)
    if snapshot is None:
        raise SystemExit("no snapshot")
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(folder, snapshot),
        "plain": lambda: _plain(warehouse, version, snapshot),
        "task": lambda: score_day(warehouse, version, DAY, n_buckets=int(argument) if argument else None, again=True),
    }
    began, cpu_began = time.perf_counter(), time.process_time()
    works[work]()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    warehouse.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak}))


def _prepare(warehouse: LocalWarehouse, n_rows: int, n_features: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"f{number}" for number in range(n_features)]
    view = FeatureView("people", 1, tuple(ViewFeature(each, each, ColumnType.DOUBLE) for each in names), "id", None)
    instants = pa.array(np.full(n_rows, 1_769_848_200_000_000), pa.timestamp("us", tz="UTC"))
    ids = pa.array([f"u{number:011d}" for number in range(n_rows)])
    # whole numbers, money and measures, as features are: not noise that no codec can do a thing with
    columns = {name: np.round(rng.normal(100.0, 30.0, n_rows), at % 4) for at, name in enumerate(names)}
    publish_snapshot(
        warehouse, view, snapshot_name(MORNING), pa.table({"sample_id": ids, "event_time": instants, **columns})
    )
    part = LinearPart(tuple(names), rng.normal(size=(n_features, 1)) / 100, np.array([0.5]), np.zeros(1))
    publish_model(warehouse, PartialModel(MODEL, "run", "lab", Kind.LINEAR, (), True, part), view, "1" * 64)


def _bare(folder: Path, snapshot: Snapshot) -> None:
    rng = np.random.default_rng(7)
    names = [feature.column for feature in snapshot.view.features]
    weights = rng.normal(size=len(names)).tolist()
    terms = " + ".join(f"{name} * {weight!r}" for name, weight in zip(names, weights, strict=True))
    files = folder / "warehouse" / snapshot.view.schema.name / "*" / "*" / "*.parquet"
    out = folder / "bare.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET enable_progress_bar = false")
        connection.execute(
            f"COPY (SELECT sample_id, [{terms} + 0.5] AS scores, event_time FROM read_parquet('{files}')) "  # noqa: S608
            f"TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
        )
    out.unlink()


def _plain(warehouse: LocalWarehouse, version: ModelVersion, snapshot: Snapshot) -> None:
    ensure_tables(warehouse)
    statement, params = bucket_shares(version, snapshot, 0, 1)
    partition = {"dt": "2026-01-02", **version.partition, "bucket": 0}
    warehouse.replace_from(SHARES.name, partition, statement, params)

"""What `task score` adds to an engine's own time, for `scripts/bench offline --engine spark|hive`.

In one run, bucket by bucket, take turns: `bare`, the generated INSERT OVERWRITE of a bucket's shares, sent in a session
of its own that is set up as ours are; `task`, all that `score_day` does until the next bucket (the same INSERT, and
after those that are counted together, the count of statuses, histograms and checksums, and the records); and `bare`
once more. `overhead` is what `task` takes of all buckets beyond the mean of the two, as a part of it; `cpu_overhead` is
that of the server's processor time, known where the server was started for it, which other programs on the machine
disturb less; `whole_overhead` and `whole_cpu_overhead` have what a day takes once, too (`once_s`). `beside` is what a
task takes beside its INSERTs, as a part of these: the same statements at the same moments, so that it varies least; in
Hive the INSERTs count as well, and it lacks that.

Two days are scored, or more. The first is a model's first, in a server that has run the INSERT at this size and nothing
else of a task: bins are chosen, and the server compiles what it has not run before. The second is the next day. By each
further one the server has run more often what is ours, as it has the INSERT.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import benchrows
import numpy as np
import pyarrow as pa

from fedpredict.model.buckets import bucket_count
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring import bucket_writing, tasks
from fedpredict.scoring.bucket_writing import TOGETHER_S
from fedpredict.scoring.tasks import BUCKET_ROWS
from fedpredict.tables.models import ModelVersion, current_versions, publish_model
from fedpredict.tables.schemas import VIEWS
from fedpredict.tables.shares import SHARES, ensure_tables
from fedpredict.tables.shares_sql import bucket_shares
from fedpredict.tables.views import FeatureView, Snapshot, latest_snapshot, snapshot_name, write_pointer
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_connection import HiveSession, RefusedByServerError
from fedpredict.warehouse.hive_rendering import rendered
from fedpredict.warehouse.hive_session import open_session
from fedpredict.warehouse.hive_settings import HiveSettings
from fedpredict.warehouse.hive_side_tables import SideTables
from fedpredict.warehouse.hive_statements import create_staging, drop_partition, insert_query, insert_staged
from fedpredict.warehouse.insertion import rows_for

MODEL = "bench"
MORNING, OTHER_DAY = datetime(2026, 1, 1, tzinfo=UTC), "2025-12-31"
FIRST_DAY = date(2026, 1, 1)
SERVICES = [sys.executable, str(Path(__file__).parent / "services")]
SET: Mapping[str, tuple[str, ...]] = {"spark": ("spark.driver.memory=3g",), "hive": ()}
"""What a server is started with, where it is more than that of a test."""


@dataclass(frozen=True)
class Server:
    """Where a server is, and a folder that it sees too."""

    host: str
    port: int
    staging: Path
    pid: int | None
    """Of one that was started for this."""


@contextmanager
def served(engine: str, address: str | None, *, install: bool) -> Iterator[Server]:
    """Give the server at `address`, or one that is started, and stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="fedpredict-bench-") as folder, ExitStack() as stack:
        staging = Path(folder) / "staging"
        staging.mkdir()
        pid = None
        if address is None:
            stack.callback(subprocess.run, [*SERVICES, "down", engine, "--state", folder], capture_output=True)
            up = [*SERVICES, "up", engine, "--port", "0", "--state", folder, *(["--install"] if install else [])]
            up += [word for pair in SET[engine] for word in ("--set", pair)]
            address = subprocess.run(up, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[1]
            pid = int(json.loads((Path(folder) / engine / "state.json").read_text())["pid"])
        host, _, port = address.rpartition(":")
        yield Server(host, int(port), staging, pid)


def count_stored() -> None:
    """Have Hive count what is stored, by a query for each series, in place of what passes: to compare (ADR 0050)."""
    SideTables.tables_of = lambda _self, _summaries: []  # type: ignore[method-assign]


@contextmanager
def _database(server: Server) -> Iterator[HiveSettings]:
    """Give a new database, and drop it at the end."""
    name = f"bench_{uuid.uuid4().hex}"
    settings = HiveSettings(host=server.host, port=server.port, database=name, staging=str(server.staging))
    HiveWarehouse(settings).create_database()
    yield settings
    session = HiveSession(settings, "default")
    with suppress(RefusedByServerError):  # what deploy/hive's server lacks a library for goes when it stops
        session.execute(f"DROP DATABASE `{name}` CASCADE")
    session.close()


def measure(server: Server, n_rows: int, n_features: int, n_buckets: int | None, n_days: int) -> None:
    """Load a snapshot, score it both ways on each day, and print one object for each."""
    n_buckets = n_buckets or bucket_count(n_rows, BUCKET_ROWS)
    with _database(server) as settings:
        _load(settings, n_rows, n_features)
        warehouse = HiveWarehouse(settings)
        session = open_session(settings)
        version = current_versions(warehouse)[MODEL]
        snapshot = latest_snapshot(warehouse, version.view)
        if snapshot is None:
            raise SystemExit("no snapshot")
        ensure_tables(warehouse)
        facts = {"engine": warehouse.engine.name, "rows": n_rows, "features": n_features, "buckets": n_buckets}
        for number in range(1, n_days + 1):
            turns = Turns(session, warehouse, version, snapshot, n_buckets, server.pid)
            if number == 1:
                turns.warm()
            with statements(warehouse, turns.now) as spent:
                turns.run(FIRST_DAY + timedelta(days=number - 1))
            _print(facts | {"day": number}, turns, spent)
        session.close()
        warehouse.close()


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of the server's processors."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


@dataclass
class Turns:
    """Both ways for every bucket, in turn."""

    session: HiveSession
    warehouse: HiveWarehouse
    version: ModelVersion
    snapshot: Snapshot
    n_buckets: int
    pid: int | None
    bare: list[tuple[Spent, Spent]] = field(default_factory=list)
    """For each bucket, before and after ours."""
    task: list[Spent] = field(default_factory=list)
    once: Spent = field(default_factory=Spent)
    """What a task takes beside its buckets, whatever their number."""
    _since: Spent = field(default_factory=Spent)
    _before: Spent = field(default_factory=Spent)

    def warm(self) -> None:
        """Send each session a first statement: what that costs, such as Tez's own start, is neither's."""
        self._bare(0)
        statement, params = bucket_shares(self.version, self.snapshot, 0, self.n_buckets)
        partition = {"dt": OTHER_DAY, **self.version.partition, "bucket": 0}
        self.warehouse.replace_from(SHARES.name, partition, statement, params)
        self.warehouse.replace(SHARES.name, partition, SHARES.arrow_schema.empty_table())

    def run(self, day: date) -> None:
        """Score a day; between its buckets, the bare statements."""
        # two bare statements stand between what would end together without them
        bucket_writing.TOGETHER_S = 3 * TOGETHER_S
        self._since = self.now()
        tasks.score_day(self.warehouse, self.version, day, n_buckets=self.n_buckets, advance=self._between)
        self.once += self.now() - self._since

    def _between(self, done: int, _of: int) -> None:
        """Stand between two buckets of the task, with the clock stopped."""
        taken = self.now() - self._since
        if done == 0:
            self.once += taken
        else:
            self.task.append(taken)
            self.bare.append((self._before, self._bare(done - 1)))
        if done < self.n_buckets:
            self._before = self._bare(done)
        self._since = self.now()

    def _bare(self, bucket: int) -> Spent:
        sql, drop = _statement(self, bucket)
        began = self.now()
        self.session.execute(sql)
        taken = self.now() - began
        self.session.execute(drop)
        return taken

    def now(self) -> Spent:
        """Return what has passed on the clock, and of the server's processors where they are known."""
        cpu = 0.0
        if self.pid is not None:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return Spent(time.perf_counter(), cpu)


def _named(sql: str) -> str:
    """Return what a statement does, and to which table."""
    filled = re.search(r"INSERT OVERWRITE TABLE `(\w+)`", sql)
    if filled:
        return f"INSERT {filled[1]}"
    word, tables = sql.split(maxsplit=1)[0], re.findall(r"`(fp_(?!given|fp)\w+)`", sql)
    return " ".join([word, *(re.sub("^fp_side_.*", "fp_side", each) for each in tables[:1])])


@contextmanager
def statements(warehouse: HiveWarehouse, now: Callable[[], Spent]) -> Iterator[dict[str, Spent]]:
    """Count the seconds of our statements by what they are; those of the other session are not ours."""
    spent: dict[str, Spent] = {}
    execute = HiveSession.execute

    def timed(session: HiveSession, sql: str) -> pa.Table:
        began = now()
        try:
            return execute(session, sql)
        finally:
            if session is warehouse._open:  # noqa: SLF001
                name = _named(sql)
                spent[name] = spent.get(name, Spent()) + (now() - began)

    HiveSession.execute = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        HiveSession.execute = execute  # type: ignore[method-assign]


def write_rows(file: Path, order: Path, n_rows: int, n_features: int) -> None:
    """Write what the server shall load; in a process of its own, whose memory does not count."""
    benchrows.write_order(order, n_rows)
    schema = _view(n_features).schema.arrow_schema
    plain = pa.schema(
        [pa.field(each.name, pa.timestamp("us") if pa.types.is_timestamp(each.type) else each.type) for each in schema]
    )
    rows = benchrows.pieces(order, 0, [f"f{number}" for number in range(n_features)])
    benchrows.write_pieces(rows, plain, file)


def _view(n_features: int) -> FeatureView:
    return benchrows.view_of([f"f{number}" for number in range(n_features)])


def _load(settings: HiveSettings, n_rows: int, n_features: int) -> None:
    """Load a snapshot as a bulk write does: a Parquet file that an external table is laid over, and one INSERT."""
    view = _view(n_features)
    name = f"fp_staging_{uuid.uuid4().hex}"
    folder = Path(str(settings.staging)) / name
    folder.mkdir()
    where = f"pathlib.Path({str(folder)!r}) / 'rows.parquet', pathlib.Path({str(folder.parent)!r}) / 'order'"
    step = f"import enginebench, pathlib; enginebench.write_rows({where}, {n_rows}, {n_features})"
    subprocess.run([sys.executable, "-c", step], check=True, cwd=Path(__file__).parent)
    warehouse = HiveWarehouse(settings)
    warehouse.ensure(VIEWS)
    warehouse.ensure(view.schema)
    snapshot = Snapshot(view, snapshot_name(MORNING), n_rows, n_rows, has_places=True)
    session = HiveSession(settings, settings.database)
    session.execute(create_staging(view.schema, name, f"file://{folder}"))
    session.execute(insert_staged(view.schema, snapshot.partition, name))
    session.execute(f"DROP TABLE `{name}`")
    session.close()
    write_pointer(warehouse, snapshot)
    rng = np.random.default_rng(1)
    names = tuple(feature.name for feature in view.features)
    part = LinearPart(names, rng.normal(size=(n_features, 1)) / 100, np.array([0.5]), np.zeros(1))
    publish_model(warehouse, PartialModel(MODEL, "run", "lab", Kind.LINEAR, (), True, part), view, "1" * 64)
    warehouse.close()


def _statement(turns: Turns, bucket: int) -> tuple[str, str]:
    """Return the generated INSERT of a bucket, into a day of its own, and what removes it."""
    statement, params = bucket_shares(turns.version, turns.snapshot, bucket, turns.n_buckets)
    partition = {"dt": OTHER_DAY, **turns.version.partition, "bucket": bucket}
    texts = rendered(rows_for(SHARES, statement), params, turns.session.engine)
    return insert_query(SHARES, partition, *texts), drop_partition(SHARES, partition)


def _print(facts: dict[str, Any], turns: Turns, spent: Mapping[str, Spent]) -> None:
    """Print a line for each way."""
    bare = [Spent((a + b).wall / 2, (a + b).cpu / 2) for a, b in turns.bare]
    theirs, ours = sum(bare, Spent()), sum(turns.task, Spent())
    n_rows, peak = facts["rows"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for work, taken in (("bare", theirs), ("task", ours)):
        line = {"work": work, **facts, "per_s": round(n_rows / taken.wall), "seconds": round(taken.wall, 2)}
        if turns.pid is not None:
            line["cpu_s"] = round(taken.cpu, 2)
        if work == "task":
            line |= {"peak_mb": peak, **_overheads(theirs, ours, turns.once)}
            line["beside"] = round(ours.wall / spent[f"INSERT {SHARES.name}"].wall - 1, 3)
            longest = sorted(spent.items(), key=lambda each: -each[1].wall)
            line["statements_s"] = {name: round(each.wall, 2) for name, each in longest}
            if turns.pid is not None:
                line["statements_cpu_s"] = {name: round(each.cpu, 2) for name, each in longest}
        print(json.dumps(line), flush=True)


def _overheads(theirs: Spent, ours: Spent, once: Spent) -> dict[str, float]:
    """Return what is ours beyond theirs, as a part of it: of the buckets, and of the whole day."""
    whole = ours + once
    told = {"overhead": ours.wall / theirs.wall - 1, "whole_overhead": whole.wall / theirs.wall - 1}
    if theirs.cpu:
        told |= {"cpu_overhead": ours.cpu / theirs.cpu - 1, "whole_cpu_overhead": whole.cpu / theirs.cpu - 1}
    return {name: round(part, 3) for name, part in told.items()} | {"once_s": round(once.wall, 2)}

"""scripts/bench store: the features' store, beside a dictionary and DuckDB; one JSON object a line.

- `lookup`: microseconds to find rows of 10 features by id, the median over many different sets of ids.
- `publish`: seconds from an Arrow table in memory to the snapshot that is served.
- `memory`: MB of a process that loads a participant's modules, reads a snapshot from an embedded warehouse, serves it,
  looks up every id, and does so once more with a second snapshot. `peak_mb` is the largest since the step before.
- `score`: microseconds for a participant's whole share, look-up included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fedpredict.cli.wiring import spare_memory
from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import PartDescription
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.views import (
    FeatureView,
    Snapshot,
    ViewFeature,
    latest_snapshot,
    publish_snapshot,
    read_snapshot_rows,
)
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

N_SETS = 100
N_FEATURES = 10
DIGEST = "ab" * 32
SNAPSHOTS = ("20260101T000000.000000Z", "20260102T000000.000000Z")


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0."""
    parser = argparse.ArgumentParser(prog="scripts/bench store", description=__doc__)
    parser.add_argument("--ids", default="100000,1000000", help="sizes of the store")
    parser.add_argument("--features", default="10,50", help="widths for publishing")
    parser.add_argument("--only", choices=["lookup", "score", "publish", "memory"])
    parser.add_argument("--quick", action="store_true", help="the smallest size and width only")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    parser.add_argument("--step", nargs=3, metavar=("FOLDER", "KIND", "N_IDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.step:
        folder, kind, n_ids = arguments.step
        _serve_in_this_process(Path(folder), kind, int(n_ids))
        return 0
    cut = 1 if arguments.quick else None
    sizes, widths = ([int(each) for each in text.split(",")][:cut] for text in (arguments.ids, arguments.features))
    works: dict[str, Callable[[], None]] = {
        "lookup": lambda: [_lookups(size) for size in sizes] and None,
        "score": lambda: [_scores(size) for size in sizes] and None,
        "publish": lambda: [_publish(sizes[-1], width) for width in widths] and None,
        "memory": lambda: [_memory(sizes[-1], kind) for kind in ("mapped", "memory")] and None,
    }
    for name, measure in works.items():
        if arguments.only in (None, name):
            measure()
    return 0


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _names(n_features: int) -> list[str]:
    return [f"f{number}" for number in range(n_features)]


def _snapshot(n_ids: int, n_features: int, name: str = SNAPSHOTS[0]) -> Snapshot:
    features = tuple(ViewFeature(each, each, ColumnType.DOUBLE) for each in _names(n_features))
    return Snapshot(FeatureView("people", 1, features, "id", None), name, n_ids)


def _rows(n_ids: int, n_features: int) -> pa.Table:
    rng = np.random.default_rng(n_ids)
    instants = pa.array(np.full(n_ids, 1_769_848_200_000_000), pa.timestamp("us", tz="UTC"))
    ids = pa.array([_sample_id(number).decode() for number in rng.permutation(n_ids)])
    values = {name: rng.normal(size=n_ids) for name in _names(n_features)}
    return pa.table({"sample_id": ids, "event_time": instants, **values})


def _sample_id(number: int) -> bytes:
    return b"u%011d" % number


def _microseconds(call: Callable[[int], object], n_calls: int) -> float:
    for number in range(min(n_calls, 20)):
        call(number)
    taken = []
    for number in range(n_calls):
        began = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1e6, 1)


def _asked(n_ids: int, n_asked: int) -> list[list[bytes]]:
    rng = np.random.default_rng(n_asked)
    return [[_sample_id(each) for each in rng.integers(0, n_ids, n_asked)] for _ in range(N_SETS)]


def _lookups(n_ids: int) -> None:
    rows = _rows(n_ids, N_FEATURES)
    for name, lookup in _contenders(n_ids, rows):
        for n_asked in (1, 8, 1000):
            asked = _asked(n_ids, n_asked)
            packed = [SampleIds.of(each) for each in asked]
            n_calls = 100 if name == "duckdb" else 1000
            taken = _microseconds(lambda turn: lookup(asked[turn % N_SETS], packed[turn % N_SETS]), n_calls)  # noqa: B023
            _print(work="lookup", store=name, ids=n_ids, features=N_FEATURES, rows=n_asked, us=taken)


def _contenders(n_ids: int, rows: pa.Table) -> Iterator[tuple[str, Callable[[list[bytes], SampleIds], object]]]:
    columns = tuple(_names(N_FEATURES))
    with tempfile.TemporaryDirectory() as folder:
        stores: list[tuple[str, OnlineStore]] = [
            ("memory", MemoryStore()),
            ("mapped", MappedStore(Path(folder) / "s")),
        ]
        for name, store in stores:
            store.publish(_snapshot(n_ids, N_FEATURES), rows)
            yield name, lambda _, packed, store=store: store.lookup("people", 1, columns, packed)  # type: ignore[misc]
    values = np.column_stack([rows.column(name).to_numpy() for name in columns])
    positions = {each.encode(): row for row, each in enumerate(rows.column("sample_id").to_pylist())}
    yield "dict", lambda ids, _: values[[positions.get(each, -1) for each in ids]]
    import duckdb  # noqa: PLC0415  not in the process whose memory is measured

    with duckdb.connect(":memory:") as engine:
        engine.execute("SET threads = 1")
        engine.register("given", rows.replace_schema_metadata(None))
        engine.execute("CREATE TABLE people AS SELECT * EXCLUDE (event_time) FROM given")
        engine.execute("CREATE UNIQUE INDEX by_id ON people (sample_id)")
        yield "duckdb", lambda ids, _: _ask_duckdb(engine, ids)


def _ask_duckdb(engine: DuckDBPyConnection, ids: Sequence[bytes]) -> object:
    if len(ids) == 1:
        return engine.execute("SELECT * FROM people WHERE sample_id = ?", [ids[0].decode()]).fetchnumpy()
    asked = pa.table({"sample_id": [each.decode() for each in ids]})
    engine.register("asked", asked)
    return engine.execute("SELECT * FROM asked LEFT JOIN people USING (sample_id)").fetchnumpy()


def _scores(n_ids: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = MappedStore(Path(folder) / "s")
        store.publish(_snapshot(n_ids, N_FEATURES), _rows(n_ids, N_FEATURES))
        party = LocalParty("lab", lambda: _state(), store)  # noqa: PLW0108
        for n_asked in (1, 8, 64, 1000, 4000):
            queries = [_query(SampleIds.of(each)) for each in _asked(n_ids, n_asked)]
            taken = asyncio.run(_time_scores(party, itertools.cycle(queries), 100 if n_asked > 1000 else 1000))
            _print(work="score", store="mapped", ids=n_ids, features=N_FEATURES, rows=n_asked, us=taken)


async def _time_scores(party: LocalParty, queries: Iterator[ScoreQuery], n_calls: int) -> float:
    taken = []
    for _ in range(n_calls):
        query = next(queries)
        began = time.perf_counter()
        await party.score(query, deadline_s=1.0)
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1e6, 1)


def _query(ids: SampleIds) -> ScoreQuery:
    return ScoreQuery(
        request_id="bench",
        model_id="credit",
        manifest_sha256=DIGEST,
        params_sha256=DIGEST,
        mode=Mode.NEARLINE,
        sample_ids=ids,
    )


def _build_state() -> PartyState:
    names = tuple(_names(N_FEATURES))
    description = PartDescription(
        party="lab",
        model_id="credit",
        params_sha256=DIGEST,
        training_run="bench",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=("0", "1"),
        n_scores=1,
        holds_intercept=True,
        fit_intercept=True,
    )
    part = LinearPart(names, np.ones((N_FEATURES, 1)), np.zeros(1), np.zeros(1))
    model = LoadedModel(description=description, part=part, view="people", view_version=1, columns=names)
    return PartyState(current={"credit": model}, loaded={("credit", DIGEST): model}, read_once=True)


_STATE = _build_state()


def _state() -> PartyState:
    return _STATE


def _publish(n_ids: int, n_features: int) -> None:
    rows = _rows(n_ids, n_features)
    with tempfile.TemporaryDirectory() as folder:
        for name, store in (("memory", MemoryStore()), ("mapped", MappedStore(Path(folder) / "s"))):
            began = time.perf_counter()
            store.publish(_snapshot(n_ids, n_features), rows)
            _print(
                work="publish",
                store=name,
                ids=n_ids,
                features=n_features,
                seconds=round(time.perf_counter() - began, 2),
            )
        began = time.perf_counter()
        MappedStore(Path(folder) / "s").serve(_snapshot(n_ids, n_features), lambda: rows)
        seconds = round(time.perf_counter() - began, 2)
        _print(work="map", store="mapped", ids=n_ids, features=n_features, seconds=seconds)


def _memory(n_ids: int, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        warehouse = LocalWarehouse(Path(folder) / "warehouse")
        for name in SNAPSHOTS:
            publish_snapshot(warehouse, _snapshot(n_ids, N_FEATURES).view, name, _rows(n_ids, N_FEATURES))
        command = [sys.executable, "-c", "import bench_store, sys; bench_store.main(sys.argv[1:])"]
        subprocess.run([*command, "--step", folder, kind, str(n_ids)], check=True, cwd=Path(__file__).parent)


def _serve_in_this_process(folder: Path, kind: str, n_ids: int) -> None:
    spare_memory()
    import fedpredict.participant.server  # noqa: F401, PLC0415  what a participant has in memory anyway

    warehouse = LocalWarehouse(folder / "warehouse")
    store: OnlineStore = MappedStore(folder / "store") if kind == "mapped" else MemoryStore()
    newest = latest_snapshot(warehouse, "people")
    assert newest is not None  # noqa: S101
    columns = ["sample_id", "event_time", *_names(N_FEATURES)]
    _print_memory(kind, n_ids, "started")
    for name in SNAPSHOTS:
        snapshot = Snapshot(newest.view, name, n_ids)
        store.serve(snapshot, lambda: read_snapshot_rows(warehouse, snapshot, columns))  # noqa: B023
        _print_memory(kind, n_ids, "served")
        for begin in range(0, n_ids, 1000):
            ids = [_sample_id(number) for number in range(begin, min(begin + 1000, n_ids))]
            store.lookup("people", 1, columns[2:], ids)
        _print_memory(kind, n_ids, "all looked up")


def _print_memory(kind: str, n_ids: int, step: str) -> None:
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    mb = {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines if words[0].startswith(("Vm", "Rss"))}
    _print(
        work="memory",
        store=kind,
        ids=n_ids,
        features=N_FEATURES,
        step=step,
        resident_mb=mb["VmRSS"],
        anonymous_mb=mb["RssAnon"],
        file_mb=mb["RssFile"],
        peak_mb=mb["VmHWM"],
    )
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

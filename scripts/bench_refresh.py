"""scripts/bench refresh: what it takes to put a snapshot into an online store; one JSON object a line.

- `publish`: from an Arrow table in memory to the snapshot that is served. `peak_mb` is the process's, the table of rows
  (`table_mb`) among it; `cpu_s` is its processor time; `store_mb` is what the store takes: a file, memory, or what
  Redis says it uses.
- `lookup`: then `ids` rows at a time, in microseconds: the median over different sets of ids.

- `--serving`: instead, p99 of online questions while a view is refreshed beside, by p99 without; see `servingbench`.

Each store is measured in a process of its own. A Redis is started for it, and stopped (scripts/services).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from fedpredict.features.base import OnlineStore
from fedpredict.features.open import open_store
from fedpredict.features.settings import StoreSettings
from fedpredict.model.sample_ids import SampleIds
from fedpredict.scoring.readings import MeasuredStore
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

STORES = ("mapped", "redis", "memory")
SERVICES = [sys.executable, str(Path(__file__).parent / "services")]
N_SETS = 200


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0."""
    parser = argparse.ArgumentParser(prog="scripts/bench refresh", description=__doc__)
    parser.add_argument("--store", default=",".join(STORES), help="which, in order (default: %(default)s)")
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a tenth of the ids")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    parser.add_argument("--url", help="a Redis that runs already; what it holds under the prefix `bench` is replaced")
    parser.add_argument("--serving", action="store_true", help="what a refresh costs those who ask meanwhile")
    parser.add_argument(
        "--rate", type=float, default=500.0, help="--serving: questions a second (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="--serving: of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="--serving: turns of each (default: %(default)s)")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serving:
        return _serving(arguments)
    if arguments.step:
        _measure(arguments.step, arguments.url, arguments.ids, arguments.features)
        return 0
    n_ids = arguments.ids // 10 if arguments.quick else arguments.ids
    for kind in arguments.store.split(","):
        if kind not in STORES:
            parser.error(f"no such store: {kind}; there are {', '.join(STORES)}")
        _run(kind, arguments.url, n_ids, arguments.features)
    return 0


def _serving(arguments: argparse.Namespace) -> int:
    import servingbench  # noqa: PLC0415  with the training libraries, which nothing else here needs

    n_ids = min(arguments.ids, 100_000) if arguments.quick else arguments.ids
    seconds, rounds = (5.0, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    for line in servingbench.measure(n_ids, arguments.rate, seconds, rounds):
        _print(**line)
    return 0


def _run(kind: str, url: str | None, n_ids: int, n_features: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        starts = kind == "redis" and url is None
        if starts:
            up = [*SERVICES, "up", "redis", "--port", "0", "--state", folder, "--install"]
            url = "redis://" + subprocess.run(up, check=True, capture_output=True, text=True).stdout.split()[1]
        try:
            command = [sys.executable, "-c", "import bench_refresh, sys; bench_refresh.main(sys.argv[1:])"]
            command += ["--step", kind, "--ids", str(n_ids), "--features", str(n_features)]
            command += ["--url", url] if kind == "redis" and url is not None else []
            subprocess.run(command, check=True, cwd=Path(__file__).parent)
        finally:
            if starts:
                subprocess.run([*SERVICES, "down", "redis", "--state", folder], check=True, capture_output=True)


def _measure(kind: str, url: str | None, n_ids: int, n_features: int) -> None:
    fields = {"kind": kind, "url": url, "prefix": "bench", "timeout_s": 5.0} if kind == "redis" else {"kind": kind}
    names = [f"f{number}" for number in range(n_features)]
    features = tuple(ViewFeature(each, each, ColumnType.DOUBLE) for each in names)
    view = FeatureView("people", 1, features, "id", None)
    rows = _rows(n_ids, names)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(StoreSettings.model_validate(fields), Path(folder), "bank")
        store.drop("people", 1)
        used = _used_mb(store, url)
        began, busy = time.perf_counter(), time.process_time()
        store.publish(Snapshot(view, "20260101T000000.000000Z", n_ids), rows)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        _print(
            work="publish",
            store=kind,
            rows=n_ids,
            features=n_features,
            seconds=round(seconds, 2),
            cpu_s=round(busy, 2),
            per_s=round(n_ids / seconds),
            peak_mb=_peak_mb(),
            table_mb=rows.nbytes >> 20,
            store_mb=_used_mb(store, url) - used,
        )
        _lookups(kind, store, n_ids, names)
        store.drop("people", 1)


def _lookups(kind: str, store: OnlineStore, n_ids: int, names: list[str]) -> None:
    rng = np.random.default_rng(1)
    for n_asked in (1, 100, 1000, 4000):
        sets = [SampleIds.of([_id(each) for each in rng.integers(0, n_ids, n_asked)]) for _ in range(N_SETS)]
        taken = []
        for ids in sets:
            began = time.perf_counter()
            found = store.lookup("people", 1, names, ids)
            taken.append(time.perf_counter() - began)
            assert found.is_clear  # noqa: S101
        seconds = statistics.median(taken)
        _print(
            work="lookup",
            store=kind,
            rows=n_ids,
            features=len(names),
            ids=n_asked,
            us=round(seconds * 1e6, 1),
            per_s=round(n_asked / seconds),
            peak_mb=_peak_mb(),
        )


def _rows(n_ids: int, names: list[str]) -> pa.Table:
    rng = np.random.default_rng(n_ids)
    instants = pa.array(np.full(n_ids, 1_769_848_200_000_000), pa.timestamp("us", tz="UTC"))
    ids = pa.array([_id(number).decode() for number in rng.permutation(n_ids)])
    return pa.table({"sample_id": ids, "event_time": instants, **{name: rng.normal(size=n_ids) for name in names}})


def _id(number: int) -> bytes:
    return b"u%011d" % number


def _used_mb(store: OnlineStore, url: str | None) -> int:
    if isinstance(store, MeasuredStore):
        return store.n_bytes("people", 1) >> 20
    from fedpredict.features.redis_connection import RedisAddress, RedisConnection  # noqa: PLC0415

    return int(RedisConnection(RedisAddress(url=str(url))).memory()["used_memory"]) >> 20


def _peak_mb() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

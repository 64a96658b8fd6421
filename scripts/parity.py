"""scripts/parity: how far federated scores are from those of the training libraries, per kind, source, engine and data.

Every model is trained by its library on all columns, saved as users save it, read by `fedpredict`, cut by who holds
which feature, published in every party's warehouse, scored there by every engine, combined, and compared with what the
library says of the joined table. `max_abs` is the largest absolute difference of a prediction; `max_rel` the largest
difference of a raw score relative to the sum of its absolute terms. Exit code 1 where one is above its tolerance.
Spark is asked for 2,000 rows at most and Hive for 200, and both perhaps for the first data sets of a kind and source
alone (`--first`), as each part costs them seconds; a part that two forms of a model's file come to, once. An engine
that a model is not offered for has no line.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from paritycases.case import Case, Floats, Trained

from fedpredict.convert.certify import feature_rows
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.read import ReadResult, read_model_file
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.model.combine import Combined, combine
from fedpredict.model.head import Head
from fedpredict.model.part import UNKNOWN_CATEGORY, Part
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import Share, all_ok_statuses, build_share
from fedpredict.tables.digest import SALT_BYTES, params_sha256
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.models import publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType, Warehouse
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings
from fedpredict.warehouse.local import LocalWarehouse

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("numpy", "duckdb", "spark", "hive")
MODULES = ("linear", "steps", "sklearn_trees", "boosters", "split_trees", "networks")
SERVERS = ("spark", "hive")
SERVED = "a server is the one at FEDPREDICT_TEST_SPARK or _HIVE, or is started"
SNAPSHOT = "20260101T000000.000000Z"
SERVER_ROWS, HIVE_ROWS = 2_000, 200
"""So many rows at most go to a server's engine: a statement of Hive's takes seconds whatever its rows."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table; see the module."""

    kind: str
    source: str
    engine: str
    data: str
    rows: int
    max_abs: float
    max_rel: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether the scores are the library's; NaN is not."""
        return self.max_rel <= self.tolerance


Scorer = Callable[[PartialModel, Floats], Share]
"""(a party's part, its features by the part's columns) -> its share."""


def main(argv: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/parity", description=__doc__)
    parser.add_argument("--engine", default="numpy,duckdb", help=f"of {', '.join(ENGINES)}; {SERVED}")
    parser.add_argument("--only", default="", help="only lines whose kind, source or data has this text")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--write", action="store_true", help="write the table to docs/parity.md")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N data sets of a kind and source")
    add = "lines of an earlier run's --json, which are not made again"
    parser.add_argument("--add", action="append", default=[], metavar="FILE", help=add)
    arguments = parser.parse_args(argv)
    engines = arguments.engine.split(",")
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown:
        parser.error(f"no engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    results = [Result(**json.loads(line)) for path in arguments.add for line in Path(path).read_text().splitlines()]
    with contextlib.ExitStack() as stack:
        scorers = {engine: stack.enter_context(_scorer(engine)) for engine in engines}
        made = {(each.kind, each.source, each.data, each.engine) for each in results}
        for case in _cases(arguments.only, arguments.first):
            left = {name: each for name, each in scorers.items() if (*_place(case), name) not in made}
            for result in _compare(case, left) if left else ():
                results.append(result)
                _print(result, as_json=arguments.json)
    beyond = [each for each in results if not each.is_within]
    if arguments.write:
        (ROOT / "docs" / "parity.md").write_text(_page(results))
    print(f"{len(results)} lines, {len(beyond)} above their tolerance", file=sys.stderr)
    return 1 if beyond or not results else 0


def _cases(only: str, first: int | None) -> Iterator[Case]:
    seen: Counter[tuple[str, str]] = Counter()
    for module in MODULES:
        for case in importlib.import_module(f"paritycases.{module}").cases():
            if only not in " ".join(_place(case)):
                continue
            seen[case.kind, case.source] += 1
            if first is None or seen[case.kind, case.source] <= first:
                yield case


def _place(case: Case) -> tuple[str, str, str]:
    return case.kind, case.source, case.data.name


def _compare(case: Case, scorers: Mapping[str, Scorer]) -> Iterator[Result]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model that has not converged predicts as well as any other
        trained = case.train()
    options = ReadOptions(model_id=f"parity-{uuid.uuid4().hex[:12]}", training_run="parity", party="joint")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{case.suffix}"
        path.write_bytes(trained.file)
        reading = read_model_file(path, options)
    parts, head = _cut(case, reading)
    for engine, scorer in scorers.items():
        if any(engine not in LAYOUTS[part.part.family].engines(part.part) for part in parts.values()):
            print(f"{engine} is not offered for {case.kind}, {case.source}, {case.data.name}", file=sys.stderr)
            continue
        rows = slice(0, {"spark": SERVER_ROWS, "hive": HIVE_ROWS}.get(engine))
        shares = {party: scorer(part, _features(case, part.part)[rows]) for party, part in parts.items()}
        combined = combine(reading.partial.link, shares, head)
        yield _result(case, trained, reading.partial, combined, engine=engine, rows=rows)


def _cut(case: Case, reading: ReadResult) -> tuple[Mapping[str, PartialModel], Head | None]:
    """Return every party's part; with a head where the trees mix the parties' features."""
    if case.is_split:
        cut = split_with_head(reading.partial, case.data.parties, next(iter(case.data.parties)))
        return cut.parts, cut.head.head
    holder = next(iter(case.data.parties)) if reading.partial.holds_intercept else None
    parts = split_model(reading.partial, case.data.parties, holder, feature_constants=reading.feature_constants)
    return parts, None


def _features(case: Case, part: Part) -> Floats:
    """Return the columns of a part; texts as its codes."""
    columns = []
    for name in part.features:
        column, texts = case.data.frame[name], part.categories.get(name)
        if texts is None:
            columns.append(column.to_numpy(dtype=np.float64))
        else:
            codes = {text: float(code) for code, text in enumerate(texts)}
            columns.append(np.array([np.nan if each is None else codes.get(each, UNKNOWN_CATEGORY) for each in column]))
    return np.column_stack(columns) if columns else np.zeros((len(case.data.frame), 0))


def _result(
    case: Case, trained: Trained, joint: PartialModel, combined: Combined, *, engine: str, rows: slice
) -> Result:
    raw, features = trained.raw[rows], _features(case, joint.part)[rows]
    difference = np.abs(combined.raw - raw)
    difference = np.where(np.isnan(combined.raw) & np.isnan(raw), 0.0, difference)
    terms = joint.part.magnitudes(features)
    relative = np.divide(difference, terms, out=np.where(difference > 0.0, np.inf, 0.0), where=terms > 0.0)
    expected = raw if trained.predictions is None else trained.predictions[rows]
    both = ~(np.isnan(combined.predictions) & np.isnan(expected))
    absolute = np.abs(combined.predictions - expected)[both]
    return Result(
        kind=case.kind,
        source=case.source,
        engine=engine,
        data=case.data.name,
        rows=len(raw),
        max_abs=float(absolute.max(initial=0.0)),
        max_rel=float(np.where(np.isnan(relative), np.inf, relative).max(initial=0.0)),
        tolerance=case.tolerance,
    )


@contextlib.contextmanager
def _scorer(engine: str) -> Iterator[Scorer]:
    if engine == "numpy":
        yield _score_numpy
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if engine == "duckdb":
            warehouse: Warehouse = LocalWarehouse(Path(folder))
        else:
            warehouse = stack.enter_context(_server(engine, Path(folder)))
        stack.callback(warehouse.close)
        yield Engine(warehouse)


@contextlib.contextmanager
def _server(name: str, staging: Path) -> Iterator[Warehouse]:
    """Give a database on a server."""
    staging.chmod(0o777)
    with _address(name) as address:
        host, _, port = address.rpartition(":")
        settings = HiveSettings(
            host=host, port=int(port), database=f"parity_{uuid.uuid4().hex}", staging=f"file://{staging}"
        )
        warehouse = HiveWarehouse(settings)
        warehouse.create_database()
        yield warehouse


@contextlib.contextmanager
def _address(name: str) -> Iterator[str]:
    """Give the address of the server for the tests, or of one of `scripts/services`, started unless it is running."""
    told = os.environ.get(f"FEDPREDICT_TEST_{name.upper()}")
    if told:
        yield told
        return
    services = str(ROOT / "scripts" / "services")
    running = subprocess.run([services, "status", name], capture_output=True, check=False).returncode == 0
    up = subprocess.run([services, "up", name], stdout=subprocess.PIPE, check=True, text=True)
    try:
        yield up.stdout.split()[1]
    finally:
        if not running:
            subprocess.run([services, "down", name], check=True, stdout=subprocess.DEVNULL)


def _score_numpy(partial: PartialModel, features: Floats) -> Share:
    statuses = partial.part.statuses(features)
    status = all_ok_statuses(len(features)) if statuses is None else statuses
    return build_share(partial.part.partial_scores(features), status)


@dataclass(frozen=True)
class Engine:
    """A warehouse's engine, and what it was asked: nothing is published twice, nor asked twice for the same part.

    The files of a model, pickled or as text, come to the same part: a server computes it once.
    """

    warehouse: Warehouse
    snapshots: dict[bytes, Snapshot] = field(default_factory=dict)
    shares: dict[bytes, Share] = field(default_factory=dict)

    def __call__(self, partial: PartialModel, features: Floats) -> Share:
        """Return what the engine says of a party's part and rows."""
        digest = params_sha256(replace(partial, model_id="any"), "any", 1, bytes(SALT_BYTES))
        asked = pickle.dumps((digest, features))
        if asked not in self.shares:
            self.shares[asked] = self._score(partial, self._published(partial.part, features))
        return self.shares[asked]

    def _published(self, part: Part, features: Floats) -> Snapshot:
        same = pickle.dumps((part.features, dict(part.categories), features))
        if same not in self.snapshots:
            view = _view(part)
            publish_snapshot(self.warehouse, view, SNAPSHOT, feature_rows(features, part, view))
            self.snapshots[same] = Snapshot(view, SNAPSHOT, len(features))
        return self.snapshots[same]

    def _score(self, partial: PartialModel, snapshot: Snapshot) -> Share:
        own = replace(partial, model_id=f"{partial.model_id}-{uuid.uuid4().hex[:8]}")
        version, _ = publish_model(self.warehouse, own, snapshot.view, "0" * 64)
        scored = {row["sample_id"]: row for row in score_in_engine(self.warehouse, version, snapshot).to_pylist()}
        rows = [scored[str(at)] for at in range(snapshot.n_rows)]
        nothing = [np.nan] * partial.part.n_scores
        status = np.array([row["status"] for row in rows], dtype=np.uint8)
        return Share(np.array([row["scores"] or nothing for row in rows], dtype=np.float64), status)


def _view(part: Part) -> FeatureView:
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    columns = column_names(part.features)
    features = tuple(ViewFeature(name, columns[name], kind) for name, kind in kinds.items())
    return FeatureView(f"v_{uuid.uuid4().hex}", 1, features, "id", None)


def _print(result: Result, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(result)), flush=True)
        return
    mark = "" if result.is_within else "  ABOVE"
    told = f"{result.engine:7} {result.kind:24} {result.source:60} {result.data:28} {result.rows:6}"
    print(f"{told} {result.max_abs:9.2e} {result.max_rel:9.2e} of {result.tolerance:.0e}{mark}", flush=True)


def _page(results: Sequence[Result]) -> str:
    lines = [
        "# Parity",
        "",
        "How far federated scores are from those of the training libraries, made by `scripts/parity --write` "
        f"({time.strftime('%Y-%m-%d', time.gmtime())}).",
        "",
        *(line.strip() for line in (__doc__ or "").split("\n\n", 1)[1].strip().splitlines()),
        "",
        "| kind | source | engine | data | rows | max_abs | max_rel | tolerance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.kind} | {each.source} | {each.engine} | {each.data} | {each.rows} | {each.max_abs:.1e} "
        f"| {each.max_rel:.1e} | {each.tolerance:.0e} |"
        for each in sorted(results, key=lambda each: (each.kind, each.source, each.data, ENGINES.index(each.engine)))
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

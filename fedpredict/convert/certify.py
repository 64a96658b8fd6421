"""The parity certificate: verification rows replayed in process and in the party's engine, before a model is published.

The engine scores the rows from the parameter rows that are stored already, and from a partition of the view's feature
table that no snapshot points to; it is removed again, and one that a crash leaves behind is replaced by the next try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from fedpredict.convert.read import check_parity
from fedpredict.errors import VerificationError
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel, VerificationRows, largest_deviation, own_scores
from fedpredict.tables.names import column_name
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.version import ModelVersion
from fedpredict.tables.views import FeatureView, Snapshot
from fedpredict.warehouse.base import ARROW_TYPES, ColumnType, Warehouse

ENGINE_ROWS = 1_000
"""So many verification rows at most are replayed in the engine: Hive takes them as literals where nothing is staged."""
_NO_SNAPSHOT = "verification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What one engine made of the verification rows.

    Attributes:
        engine: One of `version.ENGINES`.
        version: The engine's.
        rows: Rows replayed.
        max_abs: The largest absolute difference of a partial score.
        max_rel: The largest difference relative to the sum of the absolute terms of the score.
        elapsed_s: Seconds it took.
    """

    engine: str
    version: str
    rows: int
    max_abs: float
    max_rel: float
    elapsed_s: float


def replay(warehouse: Warehouse, partial: PartialModel, view: FeatureView, version: ModelVersion) -> tuple[Replay, ...]:
    """Replay a part's verification rows with numpy, and in the warehouse's engine if it can compute the part.

    Args:
        warehouse: Holds the parameter rows of `version`.
        partial: The part with its verification rows.
        view: The view that its features are taken from.
        version: What is to be published.

    Returns:
        One replay per engine; none where there are no verification rows.

    Raises:
        VerificationError: A replay is above the part's tolerance, or has a score where there should be none.
        WarehouseError: As the warehouse says.
    """
    rows = partial.verification
    if rows is None or not len(rows.features):
        return ()
    part = partial.part
    done = [_timed("numpy", np.__version__, rows, partial, lambda: own_scores(part, rows.features))]
    engine = warehouse.engine
    if engine.name in version.engines:
        some = _first(rows, ENGINE_ROWS)
        done.append(
            _timed(
                engine.name, engine.version, some, partial, lambda: _engine_scores(warehouse, some, part, view, version)
            )
        )
    for each in done:
        check_parity(each.engine, each.max_abs, each.max_rel, partial.tolerance)
    return tuple(done)


def certificate_of(replays: tuple[Replay, ...], partial: PartialModel) -> dict[str, object]:
    """Return what a version keeps of its replays: JSON values."""
    return {
        "verification_rows": 0 if partial.verification is None else len(partial.verification.features),
        "tolerance": partial.tolerance,
        "parity": [asdict(each) for each in replays],
    }


def _timed(
    engine: str, version: str, rows: VerificationRows, partial: PartialModel, compute: Callable[[], Floats]
) -> Replay:
    start = time.perf_counter()
    absolute, relative = largest_deviation(compute(), rows, partial)
    elapsed = time.perf_counter() - start
    return Replay(
        engine=engine,
        version=version,
        rows=len(rows.features),
        max_abs=absolute,
        max_rel=relative,
        elapsed_s=round(elapsed, 6),
    )


def _first(rows: VerificationRows, n_rows: int) -> VerificationRows:
    predictions = None if rows.predictions is None else rows.predictions[:n_rows]
    return VerificationRows(rows.features[:n_rows], rows.partial_scores[:n_rows], predictions)


def _engine_scores(
    warehouse: Warehouse, rows: VerificationRows, part: Part, view: FeatureView, version: ModelVersion
) -> Floats:
    """Return the engine's scores, NaN where it gives none; shape (n_rows, n_scores)."""
    features = rows.features
    table = feature_rows(features, part, view)
    snapshot = Snapshot(view, f"{_NO_SNAPSHOT}-{version.params_sha256[:12]}", len(features))
    warehouse.ensure(view.schema)
    try:
        warehouse.replace(view.schema.name, snapshot.partition, table)
        scored = score_in_engine(warehouse, version, snapshot)
    finally:
        warehouse.replace(view.schema.name, snapshot.partition, view.schema.arrow_schema.empty_table())
    by_id = {row["sample_id"]: row["scores"] for row in scored.to_pylist()}
    if len(by_id) != len(features):
        raise VerificationError(f"{len(by_id)} of {len(features)} verification rows came back from the engine")
    nothing = [np.nan] * part.n_scores
    return np.array([by_id[str(row)] or nothing for row in range(len(features))], dtype=np.float64)


def feature_rows(features: Floats, part: Part, view: FeatureView) -> pa.Table:
    """Return samples as rows of the view's feature table: ids 0, 1, ..., NULL where the part has no such feature.

    Args:
        features: Shape (n_samples, n_features), in the order of the part's features.
        part: Whose features.
        view: Has them all.
    """
    now = pa.scalar(datetime.now(UTC), ARROW_TYPES[ColumnType.TIMESTAMP])
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array([str(row) for row in range(len(features))], pa.string()),
        "event_time": pa.repeat(now, len(features)),
    }
    for name, values in zip(part.features, features.T, strict=True):
        columns[column_name(name)] = _column(values, part.categories.get(name))
    absent = {column.name: pa.nulls(len(features), ARROW_TYPES[column.type]) for column in view.columns}
    table = pa.table({**absent, **columns})
    return table.select([name for name in view.schema.arrow_schema.names if name in table.column_names])


def _column(values: Floats, texts: tuple[str, ...] | None) -> pa.Array:
    missing = np.isnan(values)
    if texts is None:
        return pa.array(np.ascontiguousarray(values), mask=missing)
    unknown = "?" + "".join(texts)  # longer than any of them, so none of them
    known: Mapping[float, str] = {float(code): text for code, text in enumerate(texts)}
    cells = [None if gone else known.get(code, unknown) for code, gone in zip(values.tolist(), missing, strict=True)]
    return pa.array(cells, pa.string())

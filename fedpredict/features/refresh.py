"""A registered view -> a snapshot, computed by the warehouse's own engine in one statement and published as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlglot import exp

from fedpredict.errors import ViewRefusedError
from fedpredict.features.unusable import count_unusable
from fedpredict.tables import sql
from fedpredict.tables.script import compile_script, duplicates_query
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.source_counts import CONTROL, CONTROL_CHARACTER, only_ids
from fedpredict.tables.views import (
    Snapshot,
    instant_of,
    latest_snapshot,
    list_snapshots,
    publish_query,
    snapshot_name,
    snapshots_of,
)
from fedpredict.warehouse.base import ColumnType, Value, Warehouse

logger = logging.getLogger(__name__)

MAX_SHRINK = 0.2
"""The share of its rows that a view may lose in one refresh unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh made.

    Attributes:
        snapshot: The new snapshot.
        invalid: Feature -> rows whose number is out of its range or not finite; they are FEATURE_INVALID to models.
        unread: Table and column, as `raw_transactions.amount` -> values not of the declared type, read as NULL.
        odd_keys: Keys of events that are no sample ids, which nobody can ask for; they are left out.
        newest: Whether it is the view's newest snapshot; one as of an earlier instant than another's is not.
    """

    snapshot: Snapshot
    invalid: dict[str, int]
    unread: dict[str, int]
    odd_keys: int
    newest: bool


def refresh_view(
    warehouse: Warehouse,
    registered: RegisteredView,
    as_of: datetime,
    *,
    max_shrink: float = MAX_SHRINK,
    force: bool = False,
    now: datetime | None = None,
    turn: int = 0,
    still_ours: Callable[[], None] = lambda: None,
) -> RefreshReport:
    """Compute a view's features as of an instant and publish them; on any error the snapshots are as they were.

    Snapshots are named, and so ordered, by their instant: a refresh for an earlier one never wins, whenever it ends.

    Args:
        warehouse: Where the raw tables and the features are.
        registered: The version of the view.
        as_of: The instant, with a time zone; only events before it count.
        max_shrink: The share of the rows of the newest snapshot that may go missing: of this version's, and of any
            other's where this has none yet.
        force: Publish however many are missing, and where no value of a raw column can be read.
        now: This moment.
        turn: How often another process was taken for dead at this work (`state.leases`): it may still write its rows,
            so these have another name.
        still_ours: Called right before the snapshot becomes visible; what it raises keeps it from that.

    Raises:
        ViewRefusedError: The instant is in the future; no events; a dimension with several rows for a key; sample ids
            that are NULL or empty, or texts that the view does not allow, with their counts; too few rows; a raw
            column of which no value is of its declared type.
        WarehouseError: As the warehouse says.
    """
    if as_of > (now or datetime.now(UTC)):
        raise ViewRefusedError(f"{as_of.isoformat()} is in the future: features are as of an instant that has been")
    view = registered.view
    _check_dimensions(warehouse, registered)
    unread, odd_keys = count_unusable(warehouse, registered, as_of, force=force)
    script = compile_script(view, registered.script, warehouse.engine.name)
    target = view.feature_view(registered.version)
    newest = latest_snapshot(warehouse, view.name, registered.version)
    invalid: dict[str, int] = {}

    def check(written: Snapshot) -> None:
        if written.n_rows == 0:
            raise ViewRefusedError(
                f"view {view.name} has no rows as of {as_of.isoformat()}: no event before it, or none that meets WHERE"
            )
        invalid.update(_check_rows(warehouse, registered, written))
        _check_size(written, newest or _newest_of_any(warehouse, view.name), 1.0 if force else max_shrink)
        still_ours()

    name = _free_name(warehouse, registered, as_of, turn)
    query, params = script.query, script.params(as_of)
    if odd_keys:
        query, params = only_ids(query), {**params, CONTROL: CONTROL_CHARACTER}
    snapshot = publish_query(warehouse, target, name, query, params=params, check=check)
    extra = {"view": view.name, "view_version": registered.version, "snapshot": name, "n_rows": snapshot.n_rows}
    logger.info("features.refreshed", extra=extra)
    return RefreshReport(snapshot, invalid, unread, odd_keys, newest is None or newest.snapshot < name)


def _check_dimensions(warehouse: Warehouse, registered: RegisteredView) -> None:
    for name, source in registered.view.sources.items():
        repeated = warehouse.run(duplicates_query(source), {}).column("n")[0].as_py() if source.key else 0
        if repeated:
            raise ViewRefusedError(f"dimension {name} ({source.table}) has {repeated} keys with more than one row")


def _free_name(warehouse: Warehouse, registered: RegisteredView, as_of: datetime, turn: int) -> str:
    """Return the instant's name, or one after those that it has: what is published never changes."""
    taken = snapshots_of(warehouse, registered.view.name, registered.version, as_of)
    first = as_of if not taken else instant_of(taken[-1]) + timedelta(microseconds=1)
    return snapshot_name(first + timedelta(microseconds=turn))


def _newest_of_any(warehouse: Warehouse, view: str) -> Snapshot | None:
    """Return the newest snapshot of a view, of whatever version, or None where there is none."""
    found = [each for each in list_snapshots(warehouse) if each.view.name == view]
    return max(found, key=lambda each: each.snapshot, default=None)


def _check_size(written: Snapshot, newest: Snapshot | None, max_shrink: float) -> None:
    if newest is None:
        return
    before = newest.n_rows if newest.n_ids is None else newest.n_ids  # a file may have several rows of an id
    if written.n_rows < before * (1.0 - max_shrink):
        same = newest.view.version == written.view.version
        raise ViewRefusedError(
            f"{written.n_rows} rows instead of the {before} of snapshot {newest.snapshot}"
            f"{'' if same else f' of version {newest.view.version}'}, more than {max_shrink:.0%} fewer: held back;"
            " --force publishes them"
        )


def _check_rows(warehouse: Warehouse, registered: RegisteredView, written: Snapshot) -> dict[str, int]:
    """Return how many rows of each feature hold no valid number; refuse keys and texts that cannot be."""
    statement, params = _counts(registered, written)
    found = warehouse.run(statement, params).to_pylist()[0]
    if found["fp_missing"]:
        raise ViewRefusedError(
            f"{found['fp_missing']} rows have a NULL or empty {registered.view.key}: leave such events out with WHERE"
        )
    if found["fp_ids"] != found["fp_rows"]:
        raise ViewRefusedError(f"{found['fp_rows'] - found['fp_ids']} rows have the sample id of another row")
    invalid = {each.name: int(found.get(f"fp_{at}") or 0) for at, each in enumerate(written.view.features)}
    for feature in written.view.features:
        if invalid[feature.name] and feature.type is ColumnType.STRING:
            raise ViewRefusedError(
                f"{invalid[feature.name]} rows have a {feature.name} that is none of [features.{feature.name}] texts"
            )
    return {name: count for name, count in invalid.items() if count}


def _counts(registered: RegisteredView, written: Snapshot) -> tuple[exp.Select, dict[str, Value]]:
    """Return the query for the rows, ids and what is wrong with either, and the values to bind."""
    sample_id, params = sql.column("sample_id"), dict[str, Value](written.partition)
    is_missing = exp.or_(
        exp.Is(this=sample_id, expression=exp.Null()), exp.EQ(this=sample_id.copy(), expression=exp.Literal.string(""))
    )
    counted: dict[str, exp.Expr] = {
        "fp_rows": exp.Count(this=exp.Star()),
        "fp_ids": exp.Count(this=exp.Distinct(expressions=[sample_id.copy()])),
        "fp_missing": _number_of(is_missing),
    }
    for at, feature in enumerate(written.view.features):
        value, texts = sql.column(feature.column), registered.view.features[feature.name].texts
        if feature.type is ColumnType.DOUBLE:
            largest = exp.Neg(this=sql.double(sql.LARGEST))
            counted[f"fp_{at}"] = _number_of(exp.LT(this=exp.Neg(this=exp.Abs(this=value)), expression=largest))
        elif texts:
            names = {f"fp_text_{at}_{number}": text for number, text in enumerate(texts)}
            allowed = exp.In(this=value, expressions=[exp.Placeholder(this=name) for name in names])
            counted[f"fp_{at}"] = _number_of(exp.Not(this=allowed))
            params.update(names)
    columns = [sql.named(each, name) for name, each in counted.items()]
    return sql.stored(columns, written.view.schema.name, written.partition), params


def _number_of(condition: exp.Expr) -> exp.Expr:
    return exp.Count(this=exp.Case(ifs=[exp.If(this=condition, true=sql.number(1))]))

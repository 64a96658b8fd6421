"""Erasing a person: every row of a sample id in a party's tables, with what was found where."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime

from fedpredict.errors import InputError, NameRefusedError, StatementError, WarehouseWriteError
from fedpredict.features.base import OnlineStore
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.sample_ids import SampleIds
from fedpredict.scoring.counting import counted, engine_name, rows_of
from fedpredict.scoring.erase_copies import from_party_copies
from fedpredict.scoring.erased import Erased, place_of
from fedpredict.scoring.leased import refresh_name, score_name
from fedpredict.state.event_base import EventStore
from fedpredict.state.leases import Alone
from fedpredict.tables import shares
from fedpredict.tables.erasure import (
    CopiedFrom,
    Where,
    copy_without,
    partitions_with,
    put_back,
    raw_columns,
    snapshot_without,
    work_table,
)
from fedpredict.tables.populations import POPULATION_IDS
from fedpredict.tables.script_store import list_scripts
from fedpredict.tables.script_types import TEXT, ScriptType
from fedpredict.tables.shares import SHARES, BucketRecord, ShareTask
from fedpredict.tables.views import find_snapshot, instant_of, list_snapshots, snapshots_of
from fedpredict.warehouse.base import LeavesFiles, Partition, TableSchema, Warehouse, check_partition_values

logger = logging.getLogger(__name__)

ERASE = "erase"
Bucket = tuple[int, str]
"""A bucket of a population: its number and its digest."""
_Name = tuple[str, int, str]
"""A view, its version, and the name of a snapshot."""
_Place = tuple[str, str, str, ScriptType]
"""Where raw rows are: database or "", table, column of sample ids, and that one's declared type."""


def check_sample_id(sample_id: str) -> str:
    """Return a sample id, or raise `InputError`."""
    # bytes that are no UTF-8 come from a command line as lone surrogates
    given = sample_id.encode(errors="surrogateescape")
    if not valid_sample_ids(SampleIds.of([given]))[0]:
        raise InputError("that is no sample id: 1 to 256 bytes of UTF-8 without control characters")
    return sample_id


def erase(
    alone: Alone,
    warehouse: Warehouse,
    sample_id: str,
    *,
    raw: bool = False,
    keep: bool = False,
    tables: Collection[tuple[str, str]] = (),
) -> list[Erased]:
    """Remove a person's rows from a party's snapshots and stored shares, and say where they were.

    A call that is killed is finished by another. Online stores take up the change at their next look at the warehouse,
    because what was changed has a new name.

    Args:
        alone: How this process comes to be the only one at it.
        warehouse: The party's.
        sample_id: Whose.
        raw: Whether rows of the raw tables that registered views read are removed too; else they are only told.
        keep: Change nothing, and say what is there.
        tables: Further raw tables, each with the column that holds sample ids as text.

    Raises:
        InputError: That is no sample id.
        LeaseHeldError: Something is refreshed or scored at this moment, or somebody erased; raw rows may be gone then.
        WarehouseError: As the warehouse says; what was done stays done.
    """
    check_sample_id(sample_id)
    with ExitStack() as held:
        ours = held.enter_context(alone.hold(ERASE)).check
        for task in [] if keep else shares.list_tasks(warehouse):
            if task.finished_at is None:  # whoever scores it reads a snapshot that is about to go
                held.enter_context(alone.hold(score_name(task.model_id, task.params_sha256, task.day)))
        if isinstance(warehouse, LeavesFiles) and not keep:
            warehouse.remove_unfinished()
        places = _raw_places(warehouse, tables)
        copied = [CopiedFrom(table, column, kind) for database, table, column, kind in places if not database]
        found = from_party_copies(warehouse, copied, sample_id, keep=keep)
        found += _from_raw_tables(warehouse, sample_id, places, ours, remove=raw and not keep)
        if not keep:
            _wait_for_refreshes(alone, warehouse)
        moved: dict[_Name, str] = {}
        found += _from_snapshots(alone, warehouse, sample_id, moved, ours, keep=keep)
        found += _from_shares(alone, warehouse, sample_id, moved, ours, keep=keep)
    extra = {"found": sum(each.found for each in found), "removed": sum(each.removed for each in found)}
    logger.info("erase.done", extra=extra)
    return found


def _raw_places(warehouse: Warehouse, tables: Collection[tuple[str, str]]) -> list[_Place]:
    named = {("", table, column, TEXT) for table, column in tables}
    in_views = {each for registered in list_scripts(warehouse) for each in raw_columns(registered)}
    return sorted(named | in_views, key=str)


def _from_raw_tables(
    warehouse: Warehouse, sample_id: str, places: Collection[_Place], ours: Callable[[], None], *, remove: bool
) -> list[Erased]:
    found: list[Erased] = []
    for database, table, column, kind in places:
        name = f"{database}.{table}" if database else table
        schema, why = None, "remove them there: fedpredict writes to its own database alone"
        try:
            if not database:
                schema = warehouse.describe(table)
                if schema is None:  # of an old version of a view: nothing is left of it
                    continue
        except WarehouseWriteError as error:
            why = f"remove them there: {error}"
        try:
            where = partitions_with(
                warehouse, schema or TableSchema(table, (), ()), sample_id, column, database=database, kind=kind
            )
        except StatementError as error:
            found.append(Erased(name, "", 0, 0, f"it cannot be read, look there: {error}"))
            continue
        if schema is None:
            found += [Erased(name, "", n_rows, 0, why) for _, n_rows in where]
        else:
            found += [
                _from_partition(
                    warehouse, schema, partition, n_rows, (sample_id, column), ours=ours, kind=kind if remove else None
                )
                for partition, n_rows in where
            ]
    return found


def _from_partition(
    warehouse: Warehouse,
    schema: TableSchema,
    partition: Partition,
    n_rows: int,
    who: tuple[str, str],
    *,
    ours: Callable[[], None],
    kind: ScriptType | None,
) -> Erased:
    """Remove a person's rows from a partition of a raw table, where it can be; without a type they are told alone."""
    note = "--raw removes them; until then a refresh brings them back"
    if not schema.partitioned_by and (engine := warehouse.engine.name) != "duckdb":
        note = f"remove them there: on {engine} fedpredict writes partitions, and this table has none"
    elif kind is not None:
        try:
            check_partition_values(partition)
            copy_without(warehouse, schema, partition, *who, kind=kind)
            put_back(warehouse, schema, partition, still_ours=ours)
            return Erased(schema.name, place_of(partition), n_rows, n_rows)
        except NameRefusedError as error:
            note = f"remove them there: {error}"
    return Erased(schema.name, place_of(partition), n_rows, 0, note)


def _wait_for_refreshes(alone: Alone, warehouse: Warehouse) -> None:
    """Let those end that may have read the raw rows: nobody sees what they write yet. Later ones find the rows gone."""
    views = {(each.view.name, each.view.version) for each in list_snapshots(warehouse)}
    views |= {(each.view.name, each.version) for each in list_scripts(warehouse)}
    for view, version in sorted(views):
        with alone.hold(refresh_name(view, version)):
            continue


def _from_snapshots(
    alone: Alone,
    warehouse: Warehouse,
    sample_id: str,
    moved: dict[_Name, str],
    ours: Callable[[], None],
    *,
    keep: bool,
) -> list[Erased]:
    """Take a person out of every snapshot; `moved` gets the names of those that are in their places."""
    published = {(each.view.name, each.view.version, each.snapshot): each for each in list_snapshots(warehouse)}
    newest = {(view, version): snapshot for view, version, snapshot in sorted(published)}
    # a registered view may have rows and no snapshot: its first refresh was killed
    schemas = {each.view.name: each.view.feature_view(each.version).schema for each in list_scripts(warehouse)}
    schemas |= {view: each.view.schema for (view, _, _), each in published.items()}
    found: list[Erased] = []
    for view, schema in sorted(schemas.items()):
        for partition, n_rows in rows_in(warehouse, schema, sample_id):
            version, name = int(partition["view_version"]), str(partition["snapshot"])
            snapshot = published.get((view, version, name))
            removed, note = 0, "" if keep else "being written, or left by a run that was killed: repeat when it is over"
            if not keep and snapshot is not None:
                with alone.hold(refresh_name(view, version)):
                    made = snapshot_without(warehouse, snapshot, sample_id, still_ours=ours)
                    moved[view, version, name] = made.snapshot
                removed, note = n_rows, ""
            elif not keep and name < newest.get((view, version), ""):  # no writer makes an older one
                warehouse.replace(schema.name, partition, schema.arrow_schema.empty_table())
                removed, note = n_rows, ""
            found.append(Erased(schema.name, place_of(partition), n_rows, removed, note))
    return found


def _from_shares(
    alone: Alone,
    warehouse: Warehouse,
    sample_id: str,
    moved: dict[_Name, str],
    ours: Callable[[], None],
    *,
    keep: bool,
) -> list[Erased]:
    """Take a person out of stored shares, and bind tasks to the snapshots that `moved` names."""
    if warehouse.describe(SHARES.name) is None:
        return []
    where = partitions_with(warehouse, SHARES, sample_id)
    if keep:
        return [Erased(SHARES.name, place_of(partition), n_rows, 0) for partition, n_rows in where]
    by_task: dict[tuple[str, ...], dict[int, tuple[Partition, int]]] = {}
    for partition, n_rows in where:
        keys = tuple(str(partition[column.name]) for column in shares.TASK_KEYS)
        by_task.setdefault(keys, {})[int(partition["bucket"])] = (partition, n_rows)
    found: list[Erased] = []
    tasks = {tuple(str(each) for each in task.partition.values()): task for task in shares.list_tasks(warehouse)}
    for keys, task in tasks.items():
        name = score_name(task.model_id, task.params_sha256, task.day)
        with alone.hold(name) if task.finished_at is not None else nullcontext():  # the others are held already
            now_named = moved.get((task.view, task.view_version, task.snapshot))
            where_it_is = {bucket: partition for bucket, (partition, _) in by_task.get(keys, {}).items()}
            update_task(warehouse, task, where_it_is, sample_id, now_named, still_ours=ours)
    for keys, partitions in by_task.items():
        for partition, n_rows in partitions.values():
            if keys not in tasks:  # what a removal that was killed left: nobody reads it
                warehouse.replace(SHARES.name, partition, SHARES.arrow_schema.empty_table())
            found.append(Erased(SHARES.name, place_of(partition), n_rows, n_rows))
    return found


def told(warehouse: Warehouse, sample_id: str, schemas: Iterable[TableSchema], note: str) -> list[Erased]:
    """Return where a person is in tables that are left as they are."""
    return [
        Erased(schema.name, place_of(partition), n_rows, 0, note)
        for schema in schemas
        for partition, n_rows in rows_in(warehouse, schema, sample_id)
    ]


def erased_buckets(where: Iterable[Where], whys: Mapping[Bucket, str], *, keep: bool) -> list[Erased]:
    """Return what became of buckets of ids: those with a reason why stay, and nothing goes where `keep` says so."""
    found: list[Erased] = []
    for each in where:
        why, (partition, n_rows) = whys.get(bucket_of(each), ""), each
        found.append(Erased(POPULATION_IDS.name, place_of(partition), n_rows, 0 if why or keep else n_rows, why))
    return found


def bucket_of(where: Where) -> Bucket:
    """Return the bucket of ids that a partition is."""
    return int(where[0]["bucket"]), str(where[0]["sha256"])


def rows_in(warehouse: Warehouse, schema: TableSchema, sample_id: str) -> list[Where]:
    """Return the partitions of a table, which need not be there, that have rows of a person, with their numbers."""
    return [] if warehouse.describe(schema.name) is None else partitions_with(warehouse, schema, sample_id)


def erase_events(store: EventStore, sample_id: str, *, keep: bool = False) -> list[Erased]:
    """Remove a person's raw events from the event store, and say of which feeds they were.

    Args:
        store: The party's.
        sample_id: Whose.
        keep: Change nothing, and say what is there.

    Raises:
        StateError: The database cannot be used; then nothing was changed.
    """
    found = store.counts(sample_id)
    if not keep:
        store.remove(sample_id=sample_id)
    return [Erased("events", f"feed={each.feed}", each.events, 0 if keep else each.events) for each in found]


def update_task(
    warehouse: Warehouse,
    task: ShareTask,
    where: dict[int, Partition],
    sample_id: str,
    now_named: str | None,
    *,
    still_ours: Callable[[], None] = lambda: None,
) -> None:
    """Take a person out of a task's buckets; then bind it to the snapshot, and to the counts, that are there now.

    Args:
        warehouse: The party's.
        task: Which; nobody scores it meanwhile.
        where: Bucket -> its partition, of those that have the person.
        sample_id: Whose.
        now_named: The snapshot that stands in the place of the task's; None: it is looked for.
        still_ours: As `put_back` says.

    Raises:
        WarehouseError: As the warehouse says; a call that is killed is finished by another.
    """
    snapshot = now_named or task.snapshot
    if find_snapshot(warehouse, task.view, task.view_version, snapshot) is None:  # moved by a call that was killed
        names = snapshots_of(warehouse, task.view, task.view_version, instant_of(snapshot))
        snapshot = names[-1] if names else snapshot
    there = find_snapshot(warehouse, task.view, task.view_version, snapshot)
    after = replace(task, snapshot=snapshot, n_rows=task.n_rows if there is None else there.n_rows)
    records = shares.finished_buckets(warehouse, task)
    for bucket, partition in where.items():
        n_ids = copy_without(warehouse, SHARES, partition, sample_id)
        if bucket in records:
            # before the rows: a call that is killed in between finds the person again
            records[bucket] = _recounted(warehouse, after, records[bucket], n_ids)
            still_ours()
            shares.write_bucket(warehouse, after, records[bucket])
        put_back(warehouse, SHARES, partition, still_ours=still_ours)
    if task.finished_at is not None:
        after = replace(after, n_ids=sum(each.n_ids for each in records.values()))
    if after != task:
        shares.write_task(warehouse, replace(after, erased=task.erased + 1))


def _recounted(warehouse: Warehouse, task: ShareTask, record: BucketRecord, n_ids: int) -> BucketRecord:
    """Return a bucket's record for the rows that stand in the table of work."""
    partition: Partition = {**task.partition, "bucket": record.bucket}
    found = counted(warehouse, partition, task.bins, n_ids, table=work_table(SHARES).name)
    snapshot = find_snapshot(warehouse, task.view, task.view_version, task.snapshot)
    n_rows = record.n_rows - record.n_ids + n_ids
    if snapshot is not None:
        n_rows = rows_of(warehouse, snapshot, record.bucket, task.n_buckets, n_ids)
    return replace(
        record,
        n_rows=n_rows,
        n_ids=n_ids,
        statuses=found.statuses,
        histograms=found.histograms,
        checksum=found.checksum,
        engine=engine_name(warehouse, task.bins),
        finished_at=datetime.now(UTC),
    )


def in_store(store: OnlineStore, sample_id: str) -> set[tuple[str, int]]:
    """Return the view versions of which an online store serves a row of a sample id.

    Raises:
        ModelNotReadyError: A view version is not served as a whole.
    """
    ids = [sample_id.encode()]
    return {
        (view, version)
        for view, version in sorted(store.held)
        if store.snapshot_of(view, version) is not None and store.lookup(view, version, (), ids).found.any()
    }

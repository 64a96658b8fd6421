"""Settings -> what mode realtime needs: the one place that picks the sources of raw rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from fedpredict.features.event_feed import feed_of
from fedpredict.features.event_source import EventSource
from fedpredict.features.open import connection_to
from fedpredict.features.raw import RawSource
from fedpredict.features.realtime import QueryEngine
from fedpredict.features.warehouse_source import WarehouseSource
from fedpredict.scoring.realtime_settings import (
    EVENTS,
    REDIS,
    WAREHOUSE,
    EventSettings,
    RealtimeSettings,
    RealtimeViewSettings,
)
from fedpredict.scoring.realtime_views import HoldPruning, RealtimeViews
from fedpredict.security.passwords import read_password
from fedpredict.state.event_base import EventStore
from fedpredict.tables.script_shape import parse_shape
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_window import window_of
from fedpredict.warehouse.base import Warehouse


def open_events(settings: EventSettings, base: Path, password: str | None = None) -> EventStore:
    """Return the event store that the settings describe; the caller closes it.

    Args:
        settings: The `[events]` table.
        base: The folder of the settings file; relative paths start there.
        password: Of the database; wins over `password_file`.

    Raises:
        ConfigError: The password's file cannot be read, or the URL not be used.
        StateError: The database is unavailable, or of another version.
    """
    from fedpredict.state.events import open_event_store  # noqa: PLC0415  not every party needs a database

    if password is None and settings.password_file is not None:
        password = read_password(base / settings.password_file, "events.password_file")
    return open_event_store(settings.url, base, password)


def open_realtime(
    warehouse: Warehouse,
    settings: RealtimeSettings,
    events: EventSettings,
    base: Path,
    password: str | None = None,
    *,
    alone: HoldPruning | None = nullcontext,
) -> RealtimeViews:
    """Return what computes views in mode realtime; the caller closes it, after its threads.

    Args:
        warehouse: The party's.
        settings: The `[realtime]` table.
        events: The `[events]` table; the store is opened where a view's source is it.
        base: The folder of the settings file.
        password: Of the event store; wins over its `password_file`.
        alone: Holds the removal of older events, as `RealtimeViews` says.

    Raises:
        ConfigError, StateError: As `open_events`.
    """
    from fedpredict.warehouse.local_engine import MemoryEngine  # noqa: PLC0415  serving alone needs no engine

    engine, store = MemoryEngine(), None
    if any(each.source == EVENTS for each in settings.values()):
        store = open_events(events, base, password)

    def opened(registered: RegisteredView, others: Sequence[RegisteredView]) -> RawSource:
        own = settings[registered.view.name]
        if own.source == EVENTS and store is not None:
            return EventSource(store, feed_of(registered, others))
        return open_source_of(registered, own, warehouse, base, engine)

    keep_days = events.keep_days
    return RealtimeViews(warehouse, settings, engine, opened, events=store, keep_days=keep_days, alone=alone)


def open_source_of(
    registered: RegisteredView, own: RealtimeViewSettings, warehouse: Warehouse, base: Path, engine: QueryEngine
) -> RawSource:
    """Return the source of a view's raw rows, which is not the event store; the caller closes it.

    Args:
        registered: The view.
        own: What the settings say of it.
        warehouse: The party's.
        base: The folder of the settings file.
        engine: Casts what is of other types than the declared ones.

    Raises:
        ConfigError: A file cannot be read, the URL not be used, or a driver is not installed.
    """
    shape = parse_shape(registered.view, registered.script)
    source, key = next(iter(shape.sources.values())), shape.key.name.lower()
    if own.kind == WAREHOUSE:
        return WarehouseSource(warehouse, source, key)
    name = f"realtime.{registered.view.name}"
    if own.kind == REDIS:
        connection = connection_to(own.source, own, base, None, timeout_s=own.timeout_s, setting=name)
        from fedpredict.features.redis_source import RedisSource  # noqa: PLC0415  its driver is optional

        prefix = f"{source.table}:" if own.prefix is None else own.prefix
        return RedisSource(connection, source, key, prefix=prefix, window=window_of(shape))
    from fedpredict.features.postgres_source import PostgresSource  # noqa: PLC0415  its driver is optional
    from fedpredict.state.outside import OutsideTable  # noqa: PLC0415

    secret = None if own.password_file is None else read_password(base / own.password_file, f"{name}.password_file")
    table = OutsideTable(
        own.source, secret, setting=name, table=own.table or source.table, schema=own.table_schema or source.database
    )
    return PostgresSource(table, source, key, engine)

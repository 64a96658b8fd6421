"""What of a view's raw rows cannot be used, counted before a refresh computes anything."""

from __future__ import annotations

from datetime import UTC, datetime

from fedpredict.errors import ViewRefusedError
from fedpredict.tables.script_shape import parse_shape, read_columns
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptSource
from fedpredict.tables.source_counts import CONTROL, CONTROL_CHARACTER, INSTANT, odd_keys_query, unread_query
from fedpredict.warehouse.base import Warehouse


def count_unusable(
    warehouse: Warehouse, registered: RegisteredView, as_of: datetime, *, force: bool = False
) -> tuple[dict[str, int], int]:
    """Count raw values that are not of their declared types, and keys that are no sample ids.

    Args:
        warehouse: Where the raw tables are.
        registered: Whose script reads them; columns that it does not read are not looked at.
        as_of: Keys of later events do not count.
        force: Go on where no value of a column can be read.

    Returns:
        Table and column -> values that are read as NULL, where there are such; the number of keys.

    Raises:
        ViewRefusedError: No value of a column can be read: it is another type than the view says.
        WarehouseError: As the warehouse says.
    """
    shape = parse_shape(registered.view, registered.script)
    unread: dict[str, int] = {}
    for alias, names in read_columns(shape).items():
        source = shape.sources[alias]
        extra = [name for name in (source.event_id, source.event_time) if name is not None and name not in names]
        unread |= _unread(warehouse, source, [*names, *extra], force=force)
    source, key = next(iter(shape.sources.values())), shape.key.name.lower()
    if source.types[key].kind != "text":
        return unread, 0
    instant = as_of.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    bound = {CONTROL: CONTROL_CHARACTER} | ({} if source.event_time is None else {INSTANT: instant})
    return unread, int(warehouse.run(odd_keys_query(source, key), bound).column("n")[0].as_py())


def _unread(warehouse: Warehouse, source: ScriptSource, names: list[str], *, force: bool) -> dict[str, int]:
    typed = [name for name in names if source.types[name].kind != "text"]  # everything has a text
    if not typed:
        return {}
    found = warehouse.run(unread_query(source, typed), {}).to_pylist()[0]
    lost: dict[str, int] = {}
    for at, name in enumerate(typed):
        given, read = found[f"given_{at}"], found[f"read_{at}"]
        if given and not read and not force:
            raise ViewRefusedError(
                f"none of the {given} values of {source.table}.{name} is {source.types[name]}, as the view declares it:"
                " held back; correct [sources], or --force takes them for NULL"
            )
        if given != read:
            lost[f"{source.table}.{name}"] = given - read
    return lost

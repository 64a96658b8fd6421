"""What daemons need to know of registered views, read without the parsers that `script_store` brings along."""

from __future__ import annotations

import tomllib
from typing import Any

from fedpredict.errors import TableCorruptError
from fedpredict.model.durations import parse_duration
from fedpredict.model.share import Mode
from fedpredict.tables.schemas import SCRIPTS
from fedpredict.warehouse.base import Partition, Warehouse


def registered_versions(warehouse: Warehouse) -> dict[str, list[int]]:
    """Return the registered versions of every view, oldest first.

    Raises:
        WarehouseError: As the warehouse says.
    """
    found: dict[str, list[int]] = {}
    for row in warehouse.read(SCRIPTS.name, ["view", "view_version"], {}).to_pylist():
        found.setdefault(str(row["view"]), []).append(int(row["view_version"]))
    return {view: sorted(versions) for view, versions in sorted(found.items())}


def max_ages(warehouse: Warehouse, view: str, version: int) -> dict[Mode, int]:
    """Return how old features of a view version may be by its definition, in microseconds, in the modes it names.

    Raises:
        TableCorruptError: The definition is damaged.
        WarehouseError: As the warehouse says.
    """
    where: Partition = {"view": view, "view_version": version}
    rows = warehouse.read(SCRIPTS.name, ["definition"], where).to_pylist()
    if not rows:
        return {}
    try:
        ages: dict[str, Any] = tomllib.loads(str(rows[0]["definition"])).get("max_age", {})
        return {Mode(name): parse_duration(age) for name, age in ages.items()}
    except (ValueError, AttributeError) as error:
        raise TableCorruptError(
            f"{SCRIPTS.name} has a damaged row for view {view}, version {version} ({error}); register it again"
        ) from error

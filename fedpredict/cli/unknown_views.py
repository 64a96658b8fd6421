"""What `[freshness]` names and a party does not have: no limit of age holds by it. It may come later: no error."""

from __future__ import annotations

import logging

from fedpredict.cli.names import nearest
from fedpredict.errors import WarehouseError
from fedpredict.scoring.freshness import FreshnessSettings
from fedpredict.tables.models import list_versions
from fedpredict.tables.registered import registered_versions
from fedpredict.tables.views import list_snapshots
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)


def unknown_freshness(freshness: FreshnessSettings, warehouse: Warehouse) -> list[str]:
    """Return a sentence for each view that is not here, and each model that reads another one; reads the warehouse.

    Raises:
        WarehouseError: As the warehouse says.
    """
    if not freshness:
        return []
    readers: dict[str, set[str]] = {}
    for version in list_versions(warehouse):
        readers.setdefault(version.view, set()).add(version.model_id)
    views = {*readers, *registered_versions(warehouse), *(each.view.name for each in list_snapshots(warehouse))}
    told = []
    for view, own in freshness.items():
        if view not in views:
            told.append(f"[freshness] {view} is no view here: {nearest(view, views, 'there is none yet')}")
            continue
        for model in sorted(set(own.models) - readers.get(view, set())):
            hint = nearest(model, readers.get(view, ()), "none does yet")
            told.append(f"[freshness.{view}.models] {model} is no model that reads that view: {hint}")
    return told


def warn_of_unknown_freshness(freshness: FreshnessSettings, warehouse: Warehouse) -> None:
    """Log what `unknown_freshness` finds; a warehouse that is away is told elsewhere."""
    try:
        unknown = unknown_freshness(freshness, warehouse)
    except WarehouseError:
        return
    if unknown:
        logger.warning("freshness.without_effect", extra={"unknown": unknown})

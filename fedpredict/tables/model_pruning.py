"""Parameters of old versions of a model that nothing serves or names any more."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.models import list_versions, served_versions
from fedpredict.tables.schemas import MODELS
from fedpredict.tables.shares import list_tasks
from fedpredict.tables.version import ModelVersion
from fedpredict.warehouse.base import Partition, Warehouse

logger = logging.getLogger(__name__)


def old_versions(warehouse: Warehouse, model_id: str, keep: int, needed: Collection[str] = ()) -> list[ModelVersion]:
    """Return the versions of a model that may go, oldest first.

    The versions of the `keep` newest digests stay, and so do those of digests that are `needed`, or that a day is being
    scored with.

    Args:
        warehouse: The party's.
        model_id: The model.
        keep: How many digests, at least 1: those that daemons keep loaded.
        needed: Further digests.

    Raises:
        TableCorruptError: A row that cannot be understood.
    """
    versions = list_versions(warehouse, model_id)
    newest = [each.params_sha256 for each in served_versions(versions, keep)]
    scored = {each.params_sha256 for each in list_tasks(warehouse) if each.finished_at is None}
    stays = {*newest, *needed, *scored}
    return [each for each in versions if each.params_sha256 not in stays]


def remove_version(warehouse: Warehouse, version: ModelVersion) -> None:
    """Remove a version's parameters, then its row; what was interrupted is healed by doing it again.

    Other versions with its digest lose their parameters too: remove them all. Nothing may publish it
    meanwhile: hold the lease of the model, as `scoring.leased_models` does.
    """
    for schema in LAYOUTS[version.family].schemas(version.view, ()):
        warehouse.replace(schema.name, version.partition, schema.arrow_schema.empty_table())
    row: Partition = {"model_id": version.model_id, "version": version.version}
    warehouse.replace(MODELS.name, row, MODELS.arrow_schema.empty_table())
    extra = {"model": version.model_id, "version": version.version, "params_sha256": version.params_sha256}
    logger.info("model.removed", extra=extra)

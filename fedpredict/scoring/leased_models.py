"""What changes which versions of a model there are, under a lease of the model: one process at a time.

Converting a file again takes the rows of parameters that are there already, so nothing may remove them meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fedpredict.model.partial import PartialModel
from fedpredict.state.leases import Alone
from fedpredict.tables.heads import delete_heads
from fedpredict.tables.model_pruning import old_versions, remove_version
from fedpredict.tables.models import ModelVersion, delete_model, publish_model, rollback
from fedpredict.tables.views import FeatureView
from fedpredict.warehouse.base import Warehouse


def model_name(model_id: str) -> str:
    """Return the name of the lease on the versions of a model.

    >>> model_name("credit")
    'model:credit'
    """
    return f"model:{model_id}"


def publish_alone(
    alone: Alone,
    warehouse: Warehouse,
    partial: PartialModel,
    view: FeatureView,
    source_sha256: str,
    *,
    certify: Callable[[ModelVersion], Mapping[str, object]],
) -> tuple[ModelVersion, bool]:
    """Publish a part as `publish_model` says, while no other process changes the model's versions.

    Raises:
        LeaseHeldError: Another one does.
        LeaseLostError: Another one took it over; nothing was published.
        FeatureNamesError, WarehouseError: As `publish_model` says.
        StateError, StoreError: The leases cannot be used.
    """
    with alone.hold(model_name(partial.model_id)) as lease:

        def certified(version: ModelVersion) -> Mapping[str, object]:
            found = certify(version)  # may take minutes
            lease.check()
            return found

        return publish_model(warehouse, partial, view, source_sha256, certified)


def roll_back_alone(alone: Alone, warehouse: Warehouse, model_id: str, to_version: int | None) -> ModelVersion:
    """Make an older version current as `rollback` says, while no other process changes the model's versions.

    Raises:
        LeaseHeldError: Another one does.
        ModelNotFoundError, WarehouseError: As `rollback` says.
        StateError, StoreError: The leases cannot be used.
    """
    with alone.hold(model_name(model_id)):
        return rollback(warehouse, model_id, to_version)


def delete_alone(alone: Alone, warehouse: Warehouse, model_id: str) -> int:
    """Delete a model and its heads, while no other process changes its versions; return how many versions there were.

    Raises:
        LeaseHeldError: Another one does.
        WarehouseError: As the warehouse says.
        StateError, StoreError: The leases cannot be used.
    """
    with alone.hold(model_name(model_id)):
        deleted = delete_model(warehouse, model_id)
        delete_heads(warehouse, model_id)
    return deleted


def prune_versions_alone(
    alone: Alone, warehouse: Warehouse, model_id: str, keep: int, needed: Callable[[], Collection[str]]
) -> list[ModelVersion]:
    """Remove the `old_versions` of a model, while no other process changes its versions, and return them.

    What must stay is looked up again right before each removal: a pin, a task or a day's scoring takes no lease, and
    where a party has no place for leases a version may have become current meanwhile.

    Args:
        alone: How.
        warehouse: The party's.
        model_id: The model.
        keep: How many digests stay, at least 1.
        needed: Returns the further digests that stay at this moment.

    Raises:
        LeaseHeldError: Another one does.
        LeaseLostError: Another one took it over; what was removed is gone, the rest stays.
        WarehouseError: As the warehouse says.
        StateError, StoreError: The leases, or what `needed` reads, cannot be used.
    """
    removed: list[ModelVersion] = []
    with alone.hold(model_name(model_id)) as lease:
        for version in old_versions(warehouse, model_id, keep, needed()):
            lease.check()
            if version in old_versions(warehouse, model_id, keep, needed()):
                remove_version(warehouse, version)
                removed.append(version)
    return removed

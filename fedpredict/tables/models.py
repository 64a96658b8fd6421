"""Publishing and loading models: parameter rows first, the row that points to them last (ADR 0001).

Every version of a model is one row of `fp_models`, in a partition of its own that is written once; the highest version
is the current one. So a reader sees the old version or the new one on every engine, history stays, and a rollback is
one more version with an older digest.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from fedpredict.errors import (
    FeatureNamesError,
    FedPredictError,
    ModelNotFoundError,
    TableCorruptError,
    WarehouseWriteError,
)
from fedpredict.model.ids import check_model_id
from fedpredict.model.partial import PartialModel
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.schemas import MODELS
from fedpredict.tables.version import (
    SALT_BYTES,
    VERSION_COLUMNS,
    ModelVersion,
    version_to_rows,
    versions_from_rows,
)
from fedpredict.tables.views import FeatureView
from fedpredict.warehouse.base import ColumnType, Partition, Warehouse

__all__ = [
    "ModelVersion",
    "current_versions",
    "delete_model",
    "list_versions",
    "load_model",
    "publish_model",
    "rollback",
]

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
"""How often a version number is chosen again because another publisher took it meanwhile."""


def publish_model(
    warehouse: Warehouse,
    partial: PartialModel,
    view: FeatureView,
    source_sha256: str,
    certify: Callable[[ModelVersion], Mapping[str, object]] | None = None,
) -> tuple[ModelVersion, bool]:
    """Write a part and make it the model's current version.

    Publishing a file again gives the same digest (the salt is taken from its version), so a publish that was
    interrupted is healed by repeating it; damaged or missing parameter rows are written again.

    Two publishers of one model may choose the same version number; the row that was written last stays, and a
    publisher that finds another's row there takes the next number. Parameter rows never collide: a digest is salted.

    Args:
        warehouse: Where to.
        partial: The part.
        view: The view that its features, all numeric, are taken from by name.
        source_sha256: The digest of the model file.
        certify: Checks the parameters as they are stored, before any reader can see the version, and returns what was
            checked, as JSON values. If it raises, nothing is published, and parameters that were written are removed.

    Returns:
        The current version, and whether anything was written: False where the same file was current and its stored
        rows give its digest.

    Raises:
        FeatureNamesError: The view lacks a feature, or has it as text; `.names` lists them.
        WarehouseWriteError: The new version did not become visible.
    """
    _check_features(partial, view)
    warehouse.ensure(MODELS)
    for schema in LAYOUTS[partial.part.family].schemas(view.name, view.columns):
        warehouse.ensure(schema)
    wanted = _describe(partial, view, source_sha256)
    versions = list_versions(warehouse, partial.model_id)
    known = [each for each in versions if _same_source(each, wanted)]
    salt = known[-1].salt if known else secrets.token_bytes(SALT_BYTES)
    digest = params_sha256(partial, view.name, view.version, salt)
    wanted = replace(wanted, salt=salt, params_sha256=digest)
    stored = _store_parameters(warehouse, wanted, partial)
    if certify is not None:
        wanted = _certified(
            warehouse, wanted, certify, remove=stored and digest not in {each.params_sha256 for each in versions}
        )
    if versions and versions[-1].params_sha256 == digest:
        return versions[-1], stored
    published = _append(warehouse, wanted)
    logger.info("model.published", extra={"model": published.model_id, "version": published.version})
    return published, True


def list_versions(warehouse: Warehouse, model_id: str | None = None) -> list[ModelVersion]:
    """Return all published versions, of one model or of all, by model id and version.

    Raises:
        TableCorruptError: A row that cannot be understood.
    """
    where = {} if model_id is None else {"model_id": check_model_id(model_id)}
    return versions_from_rows(warehouse.read(MODELS.name, VERSION_COLUMNS, where))


def current_versions(warehouse: Warehouse) -> dict[str, ModelVersion]:
    """Return the current version of every model, by model id."""
    return {each.model_id: each for each in list_versions(warehouse)}


def served_versions(versions: Iterable[ModelVersion], keep: int) -> list[ModelVersion]:
    """Return the newest version of each of the `keep` newest digests of each model: what daemons serve."""
    by_model: dict[str, dict[str, ModelVersion]] = {}
    for each in sorted(versions, key=lambda version: -version.version):
        by_model.setdefault(each.model_id, {}).setdefault(each.params_sha256, each)
    return [each for by_digest in by_model.values() for each in list(by_digest.values())[:keep]]


def load_model(warehouse: Warehouse, version: ModelVersion) -> PartialModel:
    """Return the part of a version, read from its parameter rows and verified against its digest.

    Raises:
        TableCorruptError: The rows are not those that were published; the message names the model and the fix.
    """
    layout = LAYOUTS[version.family]
    rows = [
        warehouse.read(table, columns, version.partition)
        for table, columns in zip(version.parameter_tables, layout.columns(version), strict=True)
    ]
    try:
        part = layout.from_rows(rows, version)
        partial = PartialModel(
            model_id=version.model_id,
            training_run=version.training_run,
            party=version.party,
            kind=version.kind,
            link=version.link,
            classes=version.classes,
            fit_intercept=version.fit_intercept,
            part=part,
            metadata=dict(version.metadata),
        )
    except (TableCorruptError, ValueError) as error:
        raise _corrupt(version, str(error)) from error
    if params_sha256(partial, version.view, version.view_version, version.salt) != version.params_sha256:
        raise _corrupt(version, "its rows give another digest")
    return partial


def rollback(warehouse: Warehouse, model_id: str, to_version: int | None = None) -> ModelVersion:
    """Make an older version current again, by publishing its row once more under the next number.

    Args:
        warehouse: Where the model lives.
        model_id: The model.
        to_version: Which; None for the newest version with other parameters than the current one.

    Raises:
        ModelNotFoundError: No such model or version, or nothing to go back to.
        TableCorruptError: The older version's rows are damaged; nothing changed.
    """
    versions = list_versions(warehouse, model_id)
    if not versions:
        raise ModelNotFoundError(f"there is no model {model_id} in this warehouse")
    current = versions[-1]
    if to_version is None:
        targets = [each for each in versions if each.params_sha256 != current.params_sha256]
    else:
        targets = [each for each in versions if each.version == to_version]
    if not targets:
        numbers = ", ".join(str(each.version) for each in versions)
        raise ModelNotFoundError(f"model {model_id} has no such version to go back to; it has {numbers}")
    target = targets[-1]
    load_model(warehouse, target)
    if target.params_sha256 == current.params_sha256:
        return current
    return _append(warehouse, replace(target, created_at=datetime.now(UTC)))


def delete_model(warehouse: Warehouse, model_id: str) -> int:
    """Remove all versions of a model and their parameters; return how many versions there were, 0 for no such model.

    The current version goes last, so that a reader never takes an older one for current; then the parameters go, with
    those that an interrupted publish left behind.
    """
    versions = list_versions(warehouse, model_id)
    for version in versions:
        warehouse.replace(MODELS.name, _row_partition(version), MODELS.arrow_schema.empty_table())
    for family, view in sorted({(version.family, version.view) for version in versions}):
        for table in LAYOUTS[family].schemas(view, ()):
            digests = warehouse.read(table.name, ["params_sha256"], {"model_id": model_id}).column(0).to_pylist()
            for digest in sorted(set(digests)):
                partition = {"model_id": model_id, "params_sha256": digest}
                warehouse.replace(table.name, partition, table.arrow_schema.empty_table())
    return len(versions)


def _check_features(partial: PartialModel, view: FeatureView) -> None:
    types = {feature.name: feature.type for feature in view.features}
    missing = [name for name in partial.part.features if name not in types]
    if missing:
        raise FeatureNamesError(f"view {view.name} has no feature {', '.join(map(repr, missing))}", names=missing)
    texts = [name for name in partial.part.features if types[name] is ColumnType.STRING]
    odd = [name for name in texts if name not in partial.part.categories]
    if odd:
        raise FeatureNamesError(
            f"view {view.name} has {', '.join(map(repr, odd))} as text, and the model needs numbers", names=odd
        )
    odd = [name for name in partial.part.categories if name not in texts]
    if odd:
        raise FeatureNamesError(
            f"view {view.name} has {', '.join(map(repr, odd))} as a number, and the model needs text: load the view "
            "with the feature as a string",
            names=odd,
        )


def _describe(partial: PartialModel, view: FeatureView, source_sha256: str) -> ModelVersion:
    """Return the version that `partial` will be; number, salt and digest are placeholders."""
    layout = LAYOUTS[partial.part.family]
    return ModelVersion(
        model_id=partial.model_id,
        version=0,
        params_sha256="0" * 64,
        kind=partial.kind,
        link=partial.link,
        n_scores=partial.part.n_scores,
        n_outputs=partial.n_outputs,
        classes=partial.classes,
        view=view.name,
        view_version=view.version,
        training_run=partial.training_run,
        party=partial.party,
        fit_intercept=partial.fit_intercept,
        holds_intercept=partial.holds_intercept,
        features=partial.part.features,
        salt=bytes(SALT_BYTES),
        metadata=partial.metadata,
        certificate={},
        created_at=datetime.now(UTC),
        source_sha256=source_sha256,
        family=partial.part.family,
        categories=partial.part.categories,
        options=layout.options(partial.part),
        engines=layout.engines(partial.part),
    )


def _same_source(version: ModelVersion, wanted: ModelVersion) -> bool:
    return (version.source_sha256, version.view, version.view_version) == (
        wanted.source_sha256,
        wanted.view,
        wanted.view_version,
    )


def _store_parameters(warehouse: Warehouse, version: ModelVersion, partial: PartialModel) -> bool:
    """Write the parameter rows unless they are there and give the digest; return whether they were written."""
    try:
        load_model(warehouse, version)
    except TableCorruptError:
        rows_of_tables = LAYOUTS[version.family].to_rows(partial.part)
        for table, rows in zip(version.parameter_tables, rows_of_tables, strict=True):
            warehouse.replace(table, version.partition, rows)
        return True
    return False


def _certified(
    warehouse: Warehouse,
    version: ModelVersion,
    certify: Callable[[ModelVersion], Mapping[str, object]],
    *,
    remove: bool,
) -> ModelVersion:
    """Return the version with its certificate; without one, no parameters stay that no version points to."""
    try:
        return replace(version, certificate=certify(version))
    except FedPredictError:
        if remove:
            for schema in LAYOUTS[version.family].schemas(version.view, ()):
                warehouse.replace(schema.name, version.partition, schema.arrow_schema.empty_table())
        raise


def _append(warehouse: Warehouse, version: ModelVersion) -> ModelVersion:
    """Write `version` as the newest version of its model, and make sure that it is there."""
    for _ in range(_ATTEMPTS):
        newest = list_versions(warehouse, version.model_id)[-1:]
        numbered = replace(version, version=newest[0].version + 1 if newest else 1)
        warehouse.replace(MODELS.name, _row_partition(numbered), version_to_rows(numbered))
        stored = [each for each in list_versions(warehouse, version.model_id) if each.version == numbered.version]
        if stored and stored[0].params_sha256 == numbered.params_sha256:
            return stored[0]
    raise WarehouseWriteError(
        f"model {version.model_id} is published by others all the time; its parameters are stored, repeat to publish"
    )


def _row_partition(version: ModelVersion) -> Partition:
    return {"model_id": version.model_id, "version": version.version}


def _corrupt(version: ModelVersion, why: str) -> TableCorruptError:
    return TableCorruptError(
        f"version {version.version} of model {version.model_id} in {version.parameter_tables[0]}: {why}; convert the"
        " model again, or roll back to another version"
    )
